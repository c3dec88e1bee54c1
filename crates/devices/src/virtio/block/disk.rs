//! The disk behind the device: what kind of file it may be, how large it is, and its serial number.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, SeekFrom, fcntl_getfl, fstat, seek};
use thiserror::Error;
use vm_model::{DiskAccess, DiskErasure, FailureKind};

use super::shape::{DiskShape, SECTOR_BYTES, SERIAL_BYTES};

/// The size of a disk that is a pipe.
#[cfg(feature = "fault-injection")]
const HELD_SECTORS: u64 = 16;

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

/// The shape of the disk in `file`.
///
/// # Errors
/// It is no disk, or not open for `access`.
pub(super) fn examine(
    file: &OwnedFd,
    access: DiskAccess,
    erasure: DiskErasure,
) -> Result<DiskShape, DiskError> {
    let failed = |error: rustix::io::Errno| DiskError::Examine(error.into());
    let found = FileType::from_raw_mode(fstat(file).map_err(failed)?.st_mode);
    #[cfg(feature = "fault-injection")]
    if found == FileType::Fifo {
        // Its reads end when a test writes to the other end.
        return Ok(DiskShape { sectors: HELD_SECTORS, access, erasure });
    }
    if !matches!(found, FileType::RegularFile | FileType::BlockDevice) {
        return Err(DiskError::Kind { found });
    }
    let mode = fcntl_getfl(file).map_err(failed)? & OFlags::ACCMODE;
    let suffices = match access {
        DiskAccess::ReadOnly => mode != OFlags::WRONLY,
        DiskAccess::ReadWrite => mode == OFlags::RDWR,
    };
    if !suffices {
        return Err(DiskError::Access { wanted: access });
    }
    // A block device's size is not in its status, but where its end is.
    let bytes = seek(file, SeekFrom::End(0)).map_err(failed)?;
    Ok(DiskShape { sectors: bytes / SECTOR_BYTES, access, erasure })
}
