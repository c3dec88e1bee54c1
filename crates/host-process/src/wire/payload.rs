//! Messages as packets: a short one as it is, a long one in a sealed memory file that is the packet's first descriptor.
//!
//! The file is sealed against every change before it is sent, and that is checked before it is read, so that its writer
//! can neither change what was looked at nor shorten it under the reader.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use thiserror::Error;

use super::packet::{PACKET_BYTES_MAX, PACKET_DESCRIPTORS_MAX, Packet};

/// The most bytes of a message.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// All of a packet whose message is in its first descriptor. A message itself begins with `{`.
const IN_A_FILE: &[u8] = b"file";

/// The seals that keep a message as it is.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Why a message cannot be sent, or was not received whole.
#[derive(Debug, Error)]
pub enum PayloadError {
    /// It is too long.
    #[error("a message has {bytes} bytes, more than the {most} that are allowed")]
    TooLong {
        /// How long it is.
        bytes: u64,
        /// How long it may be.
        most: usize,
    },
    /// It has too many descriptors.
    #[error("a message has {count} descriptors, more than fit a packet")]
    TooManyDescriptors {
        /// How many there are.
        count: usize,
    },
    /// It is said to be in a file, and there is none.
    #[error("a message is said to be in a file, and no descriptor came with it")]
    NoFile,
    /// Its file can change.
    #[error("the file of a message is not sealed against changes: its seals are {seals:?}")]
    NotSealed {
        /// The seals it has.
        seals: SealFlags,
    },
    /// The file of a message cannot be written or read.
    #[error("cannot {operation} the file of a message")]
    File {
        /// What was tried.
        operation: &'static str,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
}

/// A message made ready to be sent, any number of times.
#[derive(Debug)]
pub struct Outgoing {
    /// The file comes before the message's own descriptors.
    packet: Packet,
}

impl Outgoing {
    /// Packs `text` with its descriptors.
    ///
    /// # Errors
    /// It is too long, or the host lacks the memory for its file.
    pub fn pack(text: Vec<u8>, mut descriptors: Vec<OwnedFd>) -> Result<Self, PayloadError> {
        let bytes = if text.len() <= PACKET_BYTES_MAX {
            text
        } else {
            descriptors.insert(0, sealed_file(&text)?);
            IN_A_FILE.to_vec()
        };
        if descriptors.len() > PACKET_DESCRIPTORS_MAX {
            return Err(PayloadError::TooManyDescriptors { count: descriptors.len() });
        }
        Ok(Self { packet: Packet { bytes, descriptors } })
    }

    /// The bytes of its packet.
    pub fn bytes(&self) -> &[u8] {
        &self.packet.bytes
    }

    /// The descriptors of its packet.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.packet.descriptors.iter().map(AsFd::as_fd).collect()
    }
}

/// The text of a received message and its own descriptors.
///
/// # Errors
/// It is said to be in a file that is not there, can change or is too long.
pub(super) fn unpack(packet: Packet) -> Result<(Vec<u8>, Vec<OwnedFd>), PayloadError> {
    let Packet { bytes, mut descriptors } = packet;
    if bytes != IN_A_FILE {
        return Ok((bytes, descriptors));
    }
    if descriptors.is_empty() {
        return Err(PayloadError::NoFile);
    }
    let text = read_sealed(descriptors.remove(0))?;
    Ok((text, descriptors))
}

fn sealed_file(text: &[u8]) -> Result<OwnedFd, PayloadError> {
    if text.len() > MESSAGE_BYTES_MAX {
        return Err(PayloadError::TooLong { bytes: text.len() as u64, most: MESSAGE_BYTES_MAX });
    }
    let failed = |operation| move |source| PayloadError::File { operation, source };
    let file = memfd_create("message", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|errno| failed("create")(errno.into()))?;
    let file = File::from(file);
    file.write_all_at(text, 0).map_err(failed("write"))?;
    fcntl_add_seals(&file, SEALS).map_err(|errno| failed("seal")(errno.into()))?;
    Ok(file.into())
}

fn read_sealed(file: OwnedFd) -> Result<Vec<u8>, PayloadError> {
    let failed = |operation| move |source| PayloadError::File { operation, source };
    // Only files in memory have seals: reading another could wait for a disk, or for ever.
    let seals = fcntl_get_seals(&file).map_err(|errno| failed("read the seals of")(errno.into()))?;
    if !seals.contains(SEALS) {
        return Err(PayloadError::NotSealed { seals });
    }
    let file = File::from(file);
    let bytes = file.metadata().map_err(failed("measure"))?.len();
    let length = usize::try_from(bytes).ok().filter(|&length| length <= MESSAGE_BYTES_MAX);
    let length = length.ok_or(PayloadError::TooLong { bytes, most: MESSAGE_BYTES_MAX })?;
    let mut text = vec![0; length];
    file.read_exact_at(&mut text, 0).map_err(failed("read"))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet::{packet_pair, receive_packet, send_packet};

    fn across(outgoing: &Outgoing) -> Packet {
        let (ours, theirs) = packet_pair().expect("a pair of sockets");
        send_packet(&ours, outgoing.bytes(), &outgoing.descriptors()).expect("it fits");
        receive_packet(&theirs).expect("it arrives")
    }

    fn memory_file(text: &[u8], seals: SealFlags) -> OwnedFd {
        let file = memfd_create("test", MemfdFlags::ALLOW_SEALING).expect("a file in memory");
        let file = File::from(file);
        file.write_all_at(text, 0).expect("it can be written");
        fcntl_add_seals(&file, seals).expect("it can be sealed");
        file.into()
    }

    #[test]
    fn long_messages_go_by_file_and_short_ones_do_not() {
        for (length, files) in [(1, 0), (PACKET_BYTES_MAX, 0), (PACKET_BYTES_MAX + 1, 1), (3 << 20, 1)] {
            let own = memory_file(b"own", SEALS);
            let outgoing = Outgoing::pack(vec![b'x'; length], vec![own]).expect("it is allowed");
            assert_eq!(outgoing.descriptors().len(), 1 + files);
            let (text, descriptors) = unpack(across(&outgoing)).expect("it is whole");
            assert_eq!((text.len(), descriptors.len()), (length, 1));
            assert!(text.iter().all(|&byte| byte == b'x'));
            assert_eq!(read_sealed(descriptors.into_iter().next().expect("one")).expect("it reads"), b"own");
        }
        let refused = Outgoing::pack(vec![b'x'; MESSAGE_BYTES_MAX + 1], Vec::new());
        assert!(matches!(refused, Err(PayloadError::TooLong { .. })), "{refused:?}");
    }

    #[test]
    fn a_file_that_can_change_is_not_read() {
        let unpack_file =
            |file: OwnedFd| unpack(Packet { bytes: IN_A_FILE.to_vec(), descriptors: vec![file] });
        for missing in [SealFlags::SEAL, SealFlags::SHRINK, SealFlags::GROW, SealFlags::WRITE] {
            let refused = unpack_file(memory_file(b"{}", SEALS.difference(missing)));
            assert!(matches!(refused, Err(PayloadError::NotSealed { .. })), "{missing:?}: {refused:?}");
        }
        // No file in memory at all.
        let (reading, _writing) = std::io::pipe().expect("a pipe");
        assert!(matches!(unpack_file(reading.into()), Err(PayloadError::File { .. })));
        let nothing = unpack(Packet { bytes: IN_A_FILE.to_vec(), descriptors: Vec::new() });
        assert!(matches!(nothing, Err(PayloadError::NoFile)));
        // Larger than allowed, without taking that much memory to find out.
        let large = memfd_create("test", MemfdFlags::ALLOW_SEALING).expect("a file in memory");
        rustix::fs::ftruncate(&large, 1 << 40).expect("it is sparse");
        fcntl_add_seals(&large, SEALS).expect("it can be sealed");
        assert!(matches!(unpack_file(large), Err(PayloadError::TooLong { bytes, .. }) if bytes == 1 << 40));
    }
}
