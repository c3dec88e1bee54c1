//! Why a volume cannot be used, and whose matter that is.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use vm_model::{Bytes, FailureKind, VmId};

use super::copy::DiskError;
use super::decide::VolumeProblem;
use crate::records::{ReadError, WriteError};

/// Why a volume cannot be used.
#[derive(Debug, Error)]
pub(crate) enum VolumeError {
    /// What is there is not what was left there.
    #[error("volume {vm}/{disk} ({}) cannot be used; `gc {vm}/{disk}` sets it aside, to have it made anew", path.display())]
    Problem {
        vm: VmId,
        disk: String,
        path: PathBuf,
        #[source]
        source: VolumeProblem,
    },
    /// What is on record of it cannot be read.
    #[error("volume {} cannot be used", path.display())]
    Record {
        path: PathBuf,
        #[source]
        source: ReadError,
    },
    #[error(
        "volume {vm}/{disk} ({}) cannot be used: its files are there and its volume.json is not: put it back; \
         `gc {vm}/{disk}` sets the volume aside, to have it made anew",
        path.display()
    )]
    NoRecord { vm: VmId, disk: String, path: PathBuf },
    /// It is larger than the definition of a running VM says.
    #[error(
        "disk {disk} of {vm} has {has}, and its new definition says {asked}: disks do not shrink; say {has} or more, or leave \
         the size out"
    )]
    Shrinks { vm: VmId, disk: String, has: Bytes, asked: Bytes },
    /// It is not any more as it was when the start was made ready.
    #[error("volume {} changed since it was made ready", path.display())]
    Changed { path: PathBuf },
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    File(#[from] DiskError),
}

impl VolumeError {
    /// What kind of failure it is for its VM.
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Problem { .. } | Self::NoRecord { .. } => FailureKind::Disk,
            Self::Shrinks { .. } => FailureKind::Artifact,
            Self::Record { source: ReadError::Io { .. }, .. }
            | Self::Changed { .. }
            | Self::Write(_)
            | Self::File(_) => FailureKind::Host,
            Self::Record { source: ReadError::Damaged { .. } | ReadError::Newer { .. }, .. } => {
                FailureKind::Disk
            }
        }
    }

    /// Whether the host's disk is full.
    pub(crate) fn is_for_want_of_space(&self) -> bool {
        let is_full = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        match self {
            Self::File(problem) => is_full(&problem.source),
            Self::Write(problem) => is_full(problem.source()),
            Self::Problem { .. }
            | Self::Record { .. }
            | Self::NoRecord { .. }
            | Self::Shrinks { .. }
            | Self::Changed { .. } => false,
        }
    }
}
