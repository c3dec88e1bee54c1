//! The disk's file as the engines use it: through the host's page cache, or past it where a transfer is aligned as
//! direct I/O wants it.
//!
//! A guest may cut its buffers anywhere. What is not aligned takes the way through the cache, which the kernel
//! keeps coherent with direct transfers of the same file; guests align nearly everything, so no copy is made.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, fcntl_getfl, open, statx};

use super::{Transfer, TransferKind};

/// What aligns any transfer, for kernels (before 6.1) and file systems that do not tell.
const ALIGNMENT_FALLBACK: u32 = 4096;

/// The file, and the file again for direct I/O.
pub(crate) struct DiskFiles {
    pub(super) cached: OwnedFd,
    pub(super) direct: Option<DirectFile>,
}

/// A second description of the file, opened with `O_DIRECT`.
pub(super) struct DirectFile {
    pub(super) file: OwnedFd,
    pub(super) alignment: Alignment,
}

/// What direct I/O wants, in bytes: powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alignment {
    /// Of addresses.
    pub(super) memory: u64,
    /// Of offsets in the file and of lengths.
    pub(super) offset: u64,
}

impl DiskFiles {
    /// The file behind the host's page cache.
    pub(crate) fn cached(file: OwnedFd) -> Self {
        Self { cached: file, direct: None }
    }

    /// Takes `direct` for direct I/O, or opens `file` a second time for that, with the access that it has.
    ///
    /// # Errors
    /// The file system has no direct I/O, or this process may not open the file by its descriptor.
    pub(crate) fn direct(file: OwnedFd, direct: Option<OwnedFd>) -> io::Result<Self> {
        let direct = direct.map_or_else(|| open_direct(&file), Ok)?;
        if !fcntl_getfl(&direct)?.contains(OFlags::DIRECT) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let told = statx(&direct, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
        let alignment = if told.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
            Alignment::new(ALIGNMENT_FALLBACK, ALIGNMENT_FALLBACK)
        } else {
            Alignment::new(told.stx_dio_mem_align, told.stx_dio_offset_align)
        };
        let alignment = alignment.ok_or(io::ErrorKind::Unsupported)?;
        Ok(Self { cached: file, direct: Some(DirectFile { file: direct, alignment }) })
    }

    /// What a transfer must be like to pass the cache by, where that is possible.
    pub(super) fn alignment(&self) -> Option<Alignment> {
        self.direct.as_ref().map(|direct| direct.alignment)
    }
}

/// Opens `file` once more, past the page cache.
///
/// # Errors
/// The file system has no direct I/O, or this process may not open the file by its descriptor.
fn open_direct(file: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let access = fcntl_getfl(file)? & OFlags::ACCMODE;
    Ok(open(path, access | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())?)
}

impl Alignment {
    /// `None` for what is no power of two: zero says that there is no direct I/O.
    fn new(memory: u32, offset: u32) -> Option<Self> {
        (memory.is_power_of_two() && offset.is_power_of_two())
            .then(|| Self { memory: memory.into(), offset: offset.into() })
    }

    /// Whether the next part of `transfer` can be direct.
    pub(super) fn suits(self, transfer: &Transfer) -> bool {
        match transfer.kind {
            TransferKind::Read | TransferKind::Write => {
                transfer.offset.is_multiple_of(self.offset)
                    && transfer.vectors.as_slice().iter().all(|vector| {
                        (vector.iov_base.addr() as u64).is_multiple_of(self.memory)
                            && (vector.iov_len as u64).is_multiple_of(self.offset)
                    })
            }
            TransferKind::Flush | TransferKind::Erase | TransferKind::Fill => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use vm_memory::GuestAddress;

    use super::*;
    use crate::memory::GuestMemory;
    use crate::virtio::queue::Segment;
    use crate::virtio::vectors::IoVectors;

    #[test]
    fn zero_alignments_are_no_direct_io() {
        assert_eq!(Alignment::new(0, 512), None);
        assert_eq!(Alignment::new(512, 0), None);
        assert_eq!(Alignment::new(4, 512), Some(Alignment { memory: 4, offset: 512 }));
    }

    #[test]
    fn a_file_without_direct_io_is_refused() {
        let generated = std::fs::File::open("/proc/self/status").unwrap();
        assert!(DiskFiles::direct(generated.into(), None).is_err());
    }

    proptest! {
        #[test]
        fn only_what_is_aligned_goes_direct(
            offset in 0u64..4096,
            pieces in proptest::collection::vec((0u64..0x4000, 1u32..0x1000), 1..5),
            memory_alignment in prop_oneof![Just(4u64), Just(512), Just(4096)],
        ) {
            // Guest memory starts on a host page, so guest and host addresses are aligned alike.
            let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 0x8000)]).unwrap());
            let round = |number: u64| number & !0xff;
            let segments: Vec<_> = pieces
                .iter()
                .map(|(at, length)| Segment { address: GuestAddress(round(*at)), length: (length & !0xff).max(256) })
                .collect();
            let mut vectors = IoVectors::default();
            vectors.append(&memory, &segments, 0, u64::MAX).unwrap();
            let transfer = Transfer::of_vectors(TransferKind::Read, round(offset), vectors);
            let alignment = Alignment { memory: memory_alignment, offset: 512 };
            let expected = round(offset) % 512 == 0
                && segments.iter().all(|segment| {
                    segment.address.0 % memory_alignment == 0 && segment.length % 512 == 0
                });
            prop_assert_eq!(alignment.suits(&transfer), expected);
        }
    }
}
