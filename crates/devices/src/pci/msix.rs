//! MSI-X (PCI 3.0 §6.8.2): the vector table and pending bits as a value, and their delivery.
//!
//! ```text
//! raise ─→ MSI-X off: dropped │ masked: pending │ unmasked: delivered
//! unmask (vector, function) ─→ message programmed, then pending ones delivered
//! ```

mod delegates;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tracing::warn;

use self::delegates::Delegate;
pub use self::delegates::InterruptSource;
use crate::ports::{MessageInterrupts, MsiMessage};

/// Bytes of a table entry: address, data, vector control.
pub(crate) const MSIX_TABLE_ENTRY_BYTES: u32 = 16;
/// The most vectors a function of ours may have; the table then fills one page.
pub(crate) const MSIX_VECTORS_MAX: u16 = 256;

/// A number of vectors that a function cannot have.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{count} interrupt vectors for one function, expected 1 to 256")]
pub struct MsixError {
    /// The number that was given.
    pub count: u16,
}

/// One entry of the table and its pending bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixVector {
    /// The message's address and data.
    pub message: MsiMessage,
    /// The vector's own mask.
    pub masked: bool,
    /// Raised while masked and not delivered since.
    pub pending: bool,
}

/// Table, pending bits and control: plain data without effects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsixState {
    /// The guest turned MSI-X on.
    pub enabled: bool,
    /// All vectors are masked.
    pub function_masked: bool,
    /// By number.
    pub vectors: Vec<MsixVector>,
}

/// The result of raising a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raised {
    Deliver,
    Pending,
    Dropped,
}

impl MsixState {
    /// As after a reset: off, each vector masked.
    #[must_use]
    pub fn new(vectors: u16) -> Self {
        let vector = MsixVector { message: MsiMessage::default(), masked: true, pending: false };
        Self { enabled: false, function_masked: false, vectors: vec![vector; vectors.into()] }
    }

    /// Whether `vector` would be delivered at once.
    fn is_open(&self, vector: &MsixVector) -> bool {
        self.enabled && !self.function_masked && !vector.masked
    }

    pub(crate) fn raise(&mut self, vector: u16) -> Raised {
        if !self.enabled {
            return Raised::Dropped;
        }
        let function_masked = self.function_masked;
        match self.vectors.get_mut(usize::from(vector)) {
            None => Raised::Dropped,
            Some(entry) if function_masked || entry.masked => {
                entry.pending = true;
                Raised::Pending
            }
            Some(_) => Raised::Deliver,
        }
    }

    /// Reads the table at `offset`, any width; past its end zero.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        for (position, byte) in data.iter_mut().enumerate() {
            let at = offset.saturating_add(position as u64);
            *byte = self.entry_at(at).map_or(0, |(vector, place)| entry_bytes(&self.vectors[vector])[place]);
        }
    }

    /// Writes the table at `offset`, any width.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        for (position, value) in data.iter().enumerate() {
            let at = offset.saturating_add(position as u64);
            let Some((vector, place)) = self.entry_at(at) else {
                return;
            };
            let entry = &mut self.vectors[vector];
            let mut bytes = entry_bytes(entry);
            bytes[place] = *value;
            let [a, b, c, d, e, f, g, h, i, j, k, l, control, ..] = bytes;
            // Messages go to aligned addresses (§6.8.2.9): the low bits are not kept.
            let address = u64::from_le_bytes([a & !3, b, c, d, e, f, g, h]);
            entry.message = MsiMessage { address, data: u32::from_le_bytes([i, j, k, l]) };
            entry.masked = control & 1 != 0;
        }
    }

    /// Reads the pending bits at `offset`, any width; past their end zero.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (position, byte) in data.iter_mut().enumerate() {
            let at = offset.saturating_add(position as u64);
            let first = usize::try_from(at).ok().and_then(|at| at.checked_mul(8)).unwrap_or(usize::MAX);
            let bits = self.vectors.iter().skip(first).take(8).enumerate();
            *byte = bits.fold(0, |bits, (bit, vector)| bits | u8::from(vector.pending) << bit);
        }
    }

    fn entry_at(&self, at: u64) -> Option<(usize, usize)> {
        let vector = usize::try_from(at / u64::from(MSIX_TABLE_ENTRY_BYTES)).ok()?;
        let place = usize::try_from(at % u64::from(MSIX_TABLE_ENTRY_BYTES)).ok()?;
        (vector < self.vectors.len()).then_some((vector, place))
    }
}

fn entry_bytes(vector: &MsixVector) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&vector.message.address.to_le_bytes());
    bytes[8..12].copy_from_slice(&vector.message.data.to_le_bytes());
    bytes[12] = u8::from(vector.masked);
    bytes
}

/// What the lock protects.
struct Shared {
    state: MsixState,
    /// See [`Msix::delegate`].
    delegates: Vec<Delegate>,
}

impl Shared {
    /// Makes signals that sources gave under a mask pending.
    fn note_missed(&mut self) {
        if self.state.enabled {
            for delegate in self.delegates.iter().filter(|delegate| delegate.take_missed()) {
                self.state.raise(delegate.vector);
            }
        }
    }
}

/// A function's MSI-X with the port that delivers it. Raised from any thread, changed by register accesses.
///
/// The lock protects the state and keeps programming and delivery of one vector in order. It is the innermost
/// one: nothing but the port is called under it.
pub struct Msix {
    shared: Mutex<Shared>,
    port: Arc<dyn MessageInterrupts>,
    count: u16,
    failures: AtomicU64,
}

impl Msix {
    /// MSI-X with as many vectors as `port` has.
    ///
    /// # Errors
    /// See [`MsixError`].
    pub fn new(port: Arc<dyn MessageInterrupts>) -> Result<Self, MsixError> {
        let count = port.count();
        if count == 0 || count > MSIX_VECTORS_MAX {
            return Err(MsixError { count });
        }
        let shared = Shared { state: MsixState::new(count), delegates: Vec::new() };
        Ok(Self { shared: Mutex::new(shared), port, count, failures: AtomicU64::new(0) })
    }

    /// How many vectors there are.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.count
    }

    /// How many times the host refused to program or deliver a vector; the first time is logged.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether the guest turned MSI-X on.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.lock().state.enabled
    }

    /// A copy of the state.
    #[must_use]
    pub fn state(&self) -> MsixState {
        let mut shared = self.lock();
        shared.note_missed();
        shared.state.clone()
    }

    /// Raises `vector`; one that does not exist is ignored. Tells whether MSI-X is on at all: if not, the
    /// function has to signal by other means.
    pub fn raise(&self, vector: u16) -> bool {
        let state = &mut self.lock().state;
        match state.raise(vector) {
            Raised::Deliver => self.count_failure(vector, self.port.trigger(vector)),
            Raised::Pending | Raised::Dropped => {}
        }
        state.enabled
    }

    /// Lets `source`, outside this process, raise `vector` from now on. The function refers to it by `number`.
    ///
    /// # Errors
    /// There is no descriptor left, or the source refused.
    pub fn delegate(
        &self,
        number: usize,
        vector: u16,
        source: Box<dyn InterruptSource>,
    ) -> std::io::Result<()> {
        let shared = &mut *self.lock();
        shared.delegates.push(Delegate::new(number, vector, source)?);
        self.follow(shared);
        Ok(())
    }

    /// Moves the source with `number`, if there is one, to `vector`.
    pub fn assign(&self, number: usize, vector: u16) {
        let shared = &mut *self.lock();
        if let Some(delegate) = shared.delegates.iter_mut().find(|delegate| delegate.number == number) {
            self.count_failure(vector, delegate.assign(vector));
            self.follow(shared);
        }
    }

    /// Removes all sources; signals that were not delivered yet are lost.
    pub fn end_delegations(&self) {
        self.lock().delegates.clear();
    }

    /// While MSI-X is off: whether a source signalled since the last call.
    pub fn take_missed(&self) -> bool {
        let shared = self.lock();
        let missed = |delegate: &&Delegate| delegate.take_missed();
        !shared.state.enabled && shared.delegates.iter().filter(missed).count() > 0
    }

    /// Takes the guest's control bits, changed or not.
    pub fn set_control(&self, enabled: bool, function_masked: bool) {
        let is_same =
            |state: &MsixState| state.enabled == enabled && state.function_masked == function_masked;
        if is_same(&self.lock().state) {
            return;
        }
        self.change(|state| {
            state.enabled = enabled;
            state.function_masked = function_masked;
        });
    }

    /// Reads the table (see [`MsixState::read_table`]).
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        self.lock().state.read_table(offset, data);
    }

    /// Writes the table. Vectors that are open afterwards are programmed, and delivered if they were pending.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        self.change(|state| state.write_table(offset, data));
    }

    /// Reads the pending bits (see [`MsixState::read_pending`]).
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let mut shared = self.lock();
        shared.note_missed();
        shared.state.read_pending(offset, data);
    }

    fn change(&self, change: impl FnOnce(&mut MsixState)) {
        let shared = &mut *self.lock();
        shared.note_missed();
        let state = &mut shared.state;
        change(state);
        for vector in 0..self.count {
            let entry = state.vectors[usize::from(vector)];
            if !state.is_open(&entry) {
                continue;
            }
            self.count_failure(vector, self.port.program(vector, entry.message));
            if entry.pending {
                state.vectors[usize::from(vector)].pending = false;
                self.count_failure(vector, self.port.trigger(vector));
            }
        }
        self.follow(shared);
    }

    /// Points every source at its vector's eventfd, or at this process's while the vector is masked, and delivers what it
    /// signalled meanwhile.
    fn follow(&self, shared: &mut Shared) {
        let Shared { state, delegates } = shared;
        for delegate in delegates {
            let vector = delegate.vector;
            let is_open = state.vectors.get(usize::from(vector)).is_some_and(|entry| state.is_open(entry));
            self.count_failure(vector, delegate.follow(is_open, self.port.as_ref()));
            if is_open && delegate.take_missed() {
                self.count_failure(vector, self.port.trigger(vector));
            }
        }
    }

    fn count_failure(&self, vector: u16, outcome: std::io::Result<()>) {
        let Err(error) = outcome else { return };
        if self.failures.fetch_add(1, Ordering::Relaxed) == 0 {
            warn!(
                vector,
                error = &error as &dyn std::error::Error,
                "an interrupt vector was refused by the host"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
