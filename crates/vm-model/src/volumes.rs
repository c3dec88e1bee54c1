//! Volumes: the writable disks of VMs, as they are told to users.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Assignment, Bytes, Timestamp, VmId};

/// When what a guest wrote to a disk is given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VolumePolicy {
    /// Seeded from the artifact's image and kept until that image's own content changes, or the VM has been removed for
    /// as long as removed VMs are kept.
    #[default]
    FromImage,
    /// Seeded once and kept until it is deleted by word, or the VM has been removed for as long as removed VMs are kept.
    Persistent,
    /// Made anew at each start.
    Ephemeral,
}

impl VolumePolicy {
    /// As it is written in a description.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromImage => "from_image",
            Self::Persistent => "persistent",
            Self::Ephemeral => "ephemeral",
        }
    }
}

impl fmt::Display for VolumePolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One content of a volume: the one in use, or an earlier one that is still there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeInfo {
    /// Whose disk it is.
    pub vm: VmId,
    /// Which one.
    pub disk: String,
    /// Tells the contents of one disk apart; the newest has the highest. Zero for a volume of which no file is found.
    pub number: u64,
    /// When it is given up; absent where that is not known.
    pub policy: Option<VolumePolicy>,
    /// What the guest sees; of a file without a record, the file's size.
    pub size: Bytes,
    /// What it takes of the host's disk.
    pub allocated: Bytes,
    /// When it was made.
    pub created: Timestamp,
    /// Why it is there.
    pub keep: VolumeKeep,
    /// Why it cannot be used as it is; absent where it can.
    #[serde(default)]
    pub problem: Option<String>,
}

/// A VM that was removed, and whose volumes are kept for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemovedVm {
    /// What it was.
    pub assignment: Assignment,
    /// When it was removed.
    pub removed_at: Timestamp,
    /// When what is kept of it is deleted.
    pub kept_until: Timestamp,
}

/// Why a volume's content is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum VolumeKeep {
    /// Its VM's disk is on it.
    InUse,
    /// A newer content has taken its place; it is there to go back to.
    Replaced {
        /// When it is deleted; absent while the VM has not started on the newer one.
        until: Option<Timestamp>,
    },
    /// Its VM was removed; it is there to come back to.
    Removed {
        /// When it is deleted.
        until: Timestamp,
    },
    /// Its VM no longer has a disk of that name.
    Unused {
        /// When it is deleted; absent for a persistent one.
        until: Option<Timestamp>,
    },
    /// Not known: the volume is not there, or what is on record of it cannot be read. It is left alone.
    Unknown,
}
