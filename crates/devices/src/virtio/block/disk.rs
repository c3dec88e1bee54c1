//! The disk behind the device: what kind of file it may be, how large it is, and what the guest is told of it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, SeekFrom, fcntl_getfl, fstat, seek};
use thiserror::Error;
use vm_model::FailureKind;

use super::device::QueueShape;
use super::request::{DISCARD_SECTORS_MAX, ERASE_SEGMENTS_MAX, SERIAL_BYTES, WRITE_ZEROES_SECTORS_MAX};

/// The unit of addresses, whatever the file's own blocks are (virtio 1.2 §5.2.4).
pub(super) const SECTOR_BYTES: u64 = 512;
/// Sectors are grouped by two to this power in what lies beneath: 4 KiB, for file systems and flash alike.
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;
/// The size of a disk that is a pipe.
#[cfg(feature = "fault-injection")]
const HELD_SECTORS: u64 = 16;
/// Bytes of the configuration space up to and including the write-zeroes fields (§5.2.4).
const CONFIGURATION_BYTES: usize = 60;

/// Whether a guest may write to its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskAccess {
    /// Writes are refused.
    ReadOnly,
    /// The file is open for writing.
    ReadWrite,
}

/// Whether a guest may discard and zero parts of a disk it may write to (virtio 1.2 §5.2.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskErasure {
    /// Offered: what the guest discards becomes a hole in the file.
    #[default]
    Offered,
    /// Not offered: a file that is fully allocated stays so.
    Withheld,
}

/// How the disk lies in its file. Always stated, never probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskImage {
    /// Byte N of the file is byte N of the disk.
    #[default]
    Raw,
    /// A qcow2 image that stands alone, read-only. A thread of the disk's own serves it.
    Qcow2,
}

/// Whether the host's page cache stands between guest and file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskCaching {
    /// It does.
    #[default]
    Cached,
    /// Transfers pass it by where the guest aligned them as the file system wants it.
    Direct,
}

/// The serial number a guest reads, at most 20 bytes; Linux shows it under `/dev/disk/by-id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskSerial([u8; SERIAL_BYTES]);

impl DiskSerial {
    /// The first 20 bytes of `text`, cut at a character's boundary.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; SERIAL_BYTES];
        let kept = &text.as_bytes()[..text.floor_char_boundary(SERIAL_BYTES)];
        bytes[..kept.len()].copy_from_slice(kept);
        Self(bytes)
    }

    /// Padded with zeros.
    #[must_use]
    pub fn bytes(&self) -> &[u8; SERIAL_BYTES] {
        &self.0
    }
}

/// Why a file cannot be a disk.
#[derive(Debug, Error)]
pub enum DiskError {
    /// The file could not be asked what it is.
    #[error("the disk's file could not be examined")]
    Examine(#[source] io::Error),
    /// It is a directory, a pipe, or the like.
    #[error("the disk is a {found:?}, expected a regular file or a block device")]
    Kind {
        /// What it is.
        found: FileType,
    },
    /// It is open for reading only, or for writing only.
    #[error("the disk's file is not open for the {wanted:?} access asked for")]
    Access {
        /// What was asked for.
        wanted: DiskAccess,
    },
    /// It is no image that can be used.
    #[error("the disk's image cannot be used")]
    Image(#[source] io::Error),
    /// An image of this format is read-only, and read through the host's page cache.
    #[error("a qcow2 image is read-only and has no direct I/O, which only raw ones have")]
    ImageUse,
    /// Its file system has no direct I/O.
    #[error("the disk's file could not be opened for direct I/O")]
    Direct(#[source] io::Error),
    /// No timer could be had for its rate limits.
    #[error("the disk's rate limits have no timer")]
    RateLimit(#[source] io::Error),
    /// No engine could be had for it.
    #[error("the disk's I/O engine did not start")]
    Engine(#[source] io::Error),
}

impl DiskError {
    /// Whose matter it is: an image that the kernel reads well is damaged or of no use as it stands.
    #[must_use]
    pub fn failure_kind(&self) -> FailureKind {
        match self {
            Self::Image(problem) if problem.raw_os_error().is_none() => FailureKind::Artifact,
            Self::ImageUse => FailureKind::Artifact,
            Self::Image(_)
            | Self::Examine(_)
            | Self::Kind { .. }
            | Self::Access { .. }
            | Self::Direct(_)
            | Self::RateLimit(_)
            | Self::Engine(_) => FailureKind::Host,
        }
    }
}

/// What requests are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskShape {
    /// Whole sectors of the file; what is left over is not reachable.
    pub(super) sectors: u64,
    pub(super) access: DiskAccess,
    pub(super) erasure: DiskErasure,
}

impl DiskShape {
    /// Examines `file`.
    ///
    /// # Errors
    /// It is no disk, or not open for `access`.
    pub(super) fn of(file: &OwnedFd, access: DiskAccess, erasure: DiskErasure) -> Result<Self, DiskError> {
        let examine = |error: rustix::io::Errno| DiskError::Examine(error.into());
        let found = FileType::from_raw_mode(fstat(file).map_err(examine)?.st_mode);
        #[cfg(feature = "fault-injection")]
        if found == FileType::Fifo {
            // Its reads end when a test writes to the other end.
            return Ok(Self { sectors: HELD_SECTORS, access, erasure });
        }
        if !matches!(found, FileType::RegularFile | FileType::BlockDevice) {
            return Err(DiskError::Kind { found });
        }
        let mode = fcntl_getfl(file).map_err(examine)? & OFlags::ACCMODE;
        let suffices = match access {
            DiskAccess::ReadOnly => mode != OFlags::WRONLY,
            DiskAccess::ReadWrite => mode == OFlags::RDWR,
        };
        if !suffices {
            return Err(DiskError::Access { wanted: access });
        }
        // A block device's size is not in its status, but where its end is.
        let bytes = seek(file, SeekFrom::End(0)).map_err(examine)?;
        Ok(Self { sectors: bytes / SECTOR_BYTES, access, erasure })
    }

    /// Whether discards and zeroes are served.
    pub(super) fn offers_erasure(&self) -> bool {
        self.access == DiskAccess::ReadWrite && self.erasure == DiskErasure::Offered
    }

    /// The configuration space of a device with `queues`.
    pub(super) fn configuration(&self, queues: QueueShape) -> [u8; CONFIGURATION_BYTES] {
        let mut space = [0; CONFIGURATION_BYTES];
        let mut put =
            |offset: usize, bytes: &[u8]| space[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, &self.sectors.to_le_bytes());
        put(12, &segments_max(queues.size).to_le_bytes());
        put(20, &512u32.to_le_bytes());
        put(24, &[PHYSICAL_BLOCK_EXPONENT, 0]);
        put(26, &(1u16 << PHYSICAL_BLOCK_EXPONENT).to_le_bytes());
        put(32, &[1]);
        put(34, &queues.count.to_le_bytes());
        if self.offers_erasure() {
            put(36, &DISCARD_SECTORS_MAX.to_le_bytes());
            put(40, &ERASE_SEGMENTS_MAX.to_le_bytes());
            put(44, &(1u32 << PHYSICAL_BLOCK_EXPONENT).to_le_bytes());
            put(48, &WRITE_ZEROES_SECTORS_MAX.to_le_bytes());
            put(52, &ERASE_SEGMENTS_MAX.to_le_bytes());
            put(56, &[1]);
        }
        space
    }
}

/// Data segments of a request beside its header and status.
fn segments_max(queue_size: u16) -> u32 {
    u32::from(queue_size.saturating_sub(2).max(1))
}
