//! The machine's generation identifier (Microsoft, "Virtual Machine Generation ID"): 16 random bytes in guest memory that
//! are others whenever the guest may have been run before from the state it is in now. A guest that sees them change
//! reseeds what must not come twice.
//!
//! Where the bytes lie is `layout`'s, how the guest finds them `acpi`'s; when they change, the machine's owner decides.

use std::fmt;
use std::io;

use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;
use vm_memory::GuestMemoryError;

/// Bytes of an identifier.
const BYTES: usize = 16;

/// One generation of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GenerationId([u8; BYTES]);

/// Why a machine's generation could not be changed.
#[derive(Debug, Error)]
pub enum GenerationChangeError {
    /// The host gave no random bytes.
    #[error("the host gave no random bytes for a generation identifier")]
    Random(#[source] io::Error),
    /// Guest memory could not be written.
    #[error("the generation identifier could not be written to guest memory at {address:#x}")]
    Write {
        /// Where.
        address: u64,
        /// The underlying error.
        #[source]
        source: GuestMemoryError,
    },
    /// The host refused the interrupt. The identifier is the new one; the guest was not told.
    #[error("the event of a new generation was refused")]
    Event(#[source] io::Error),
}

impl GenerationId {
    /// An identifier that no machine has had.
    ///
    /// # Errors
    /// The host gives no random bytes.
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = [0; BYTES];
        // Requests of up to 256 bytes are served whole, or not at all.
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        Ok(Self(bytes))
    }

    /// As it lies in guest memory.
    #[must_use]
    pub fn bytes(&self) -> [u8; BYTES] {
        self.0
    }
}

impl fmt::Debug for GenerationId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "GenerationId({:032x})", u128::from_be_bytes(self.0))
    }
}
