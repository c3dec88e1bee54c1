//! What happened on a host, as it is told to whoever follows it. Keys and kinds are added, never changed.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Bytes, DesiredState, FailureClass, FailureKind, FailureReason, Generation, Readiness, SourceKind,
    Timestamp, VmId,
};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number. Numbers grow by one from event to event, and jump where the worker was started again.
    pub id: u64,
    /// When it happened, in milliseconds since 1970.
    pub at: Timestamp,
    /// The VM it happened to; absent where it concerns no single one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmId>,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What can happen. `event` names it in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum EventKind {
    /// The VM is looked after from now on.
    VmCreated {
        /// Its artifact.
        #[schema(value_type = String)]
        store_path: PathBuf,
    },
    /// The VM was on record when the worker started, and is looked after again.
    VmTakenUp {
        /// Its artifact.
        #[schema(value_type = String)]
        store_path: PathBuf,
    },
    /// The VM is gone.
    VmRemoved {
        /// Until when its volumes are kept; absent where nothing is kept.
        #[serde(default)]
        kept_until: Option<Timestamp>,
    },
    /// The VM entered another phase of its life.
    PhaseChanged {
        /// The phase before.
        from: String,
        /// The phase now.
        to: String,
        /// What went wrong, where something did.
        #[serde(default)]
        reason: Option<EventReason>,
    },
    /// Another state is desired of the VM.
    DesiredChanged {
        /// What was desired before.
        from: DesiredState,
        /// What is desired now.
        to: DesiredState,
    },
    /// Its guest became ready, or is ready no longer.
    ReadinessChanged {
        /// How it is now.
        readiness: Readiness,
        /// Why it is not ready.
        #[serde(default)]
        reason: Option<String>,
    },
    /// Its machine was rebuilt in place, because its guest or an operator reset it.
    MachineReset {
        /// How often so far.
        resets: u64,
    },
    /// Another definition was asked for; it is not in force yet.
    DefinitionWanted {
        /// Its artifact.
        #[schema(value_type = String)]
        store_path: PathBuf,
        /// The artifact's hash.
        hash: String,
    },
    /// The definition that was asked for cannot be used; the one before stays in force.
    DefinitionRefused {
        /// Its artifact.
        #[schema(value_type = String)]
        store_path: PathBuf,
        /// Why.
        reason: EventReason,
    },
    /// Another definition is in force.
    DefinitionChanged {
        /// Its artifact.
        #[schema(value_type = String)]
        store_path: PathBuf,
        /// The artifact's hash.
        hash: String,
        /// The desired state that it came with.
        generation: Generation,
    },
    /// Another definition is tried from now on: it stays where its guest becomes ready.
    RolloutBegun {
        /// Its artifact.
        #[schema(value_type = String)]
        store_path: PathBuf,
    },
    /// The definition that was tried stays in force.
    RolloutAccepted,
    /// The definition that was tried failed.
    RolloutFailed {
        /// In what.
        problem: String,
    },
    /// Something disturbs the VM although it runs: a disk, its boot, or a thread that stands still.
    Disturbed {
        /// What, in words.
        problem: String,
    },
    /// What disturbed the VM is over.
    Undisturbed,
    /// An operator asked for something to be changed.
    Ordered {
        /// What was asked for: `stop`, `create`, `gc`.
        verb: String,
        /// Who asked.
        by: Caller,
        /// The HTTP status of the answer.
        status: u16,
    },
    /// A desired state is in force.
    SourceTaken {
        /// Whose.
        source: SourceKind,
        /// Its number.
        generation: Generation,
    },
    /// A desired state waits for an operator's word.
    SourceHeld {
        /// Whose.
        source: SourceKind,
        /// Its number.
        generation: Generation,
        /// Why, and what lets it go.
        reason: String,
    },
    /// A desired state was refused.
    SourceRefused {
        /// Whose.
        source: SourceKind,
        /// Why.
        problem: String,
    },
    /// The master has answered.
    MasterConnected {
        /// Its name.
        master: String,
        /// Its address.
        address: String,
    },
    /// The master does not answer, or no longer.
    MasterLost {
        /// Why.
        problem: String,
    },
    /// What was kept of volumes was deleted before its time.
    VolumesDeleted {
        /// Each in words.
        deleted: Vec<String>,
    },
    /// A store path that the VM needs is missing here, and is fetched.
    FetchBegun {
        /// The path.
        #[schema(value_type = String)]
        store_path: PathBuf,
    },
    /// It is there, with all that it needs.
    FetchFinished {
        /// The path.
        #[schema(value_type = String)]
        store_path: PathBuf,
        /// How many paths were missing.
        paths: usize,
        /// Their size, unpacked.
        size: Bytes,
        /// How long that took.
        milliseconds: u64,
    },
    /// It cannot be had.
    FetchFailed {
        /// The path.
        #[schema(value_type = String)]
        store_path: PathBuf,
        /// Why.
        problem: String,
    },
    /// Fetched store paths that nothing needs were deleted.
    ImagesCollected {
        /// How many.
        paths: usize,
        /// Their size, unpacked.
        size: Bytes,
    },
}

impl EventKind {
    /// Its name in JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::VmCreated { .. } => "vm_created",
            Self::VmTakenUp { .. } => "vm_taken_up",
            Self::VmRemoved { .. } => "vm_removed",
            Self::PhaseChanged { .. } => "phase_changed",
            Self::DesiredChanged { .. } => "desired_changed",
            Self::ReadinessChanged { .. } => "readiness_changed",
            Self::MachineReset { .. } => "machine_reset",
            Self::DefinitionWanted { .. } => "definition_wanted",
            Self::DefinitionRefused { .. } => "definition_refused",
            Self::DefinitionChanged { .. } => "definition_changed",
            Self::RolloutBegun { .. } => "rollout_begun",
            Self::RolloutAccepted => "rollout_accepted",
            Self::RolloutFailed { .. } => "rollout_failed",
            Self::Disturbed { .. } => "disturbed",
            Self::Undisturbed => "undisturbed",
            Self::Ordered { .. } => "ordered",
            Self::SourceTaken { .. } => "source_taken",
            Self::SourceHeld { .. } => "source_held",
            Self::SourceRefused { .. } => "source_refused",
            Self::MasterConnected { .. } => "master_connected",
            Self::MasterLost { .. } => "master_lost",
            Self::VolumesDeleted { .. } => "volumes_deleted",
            Self::FetchBegun { .. } => "fetch_begun",
            Self::FetchFinished { .. } => "fetch_finished",
            Self::FetchFailed { .. } => "fetch_failed",
            Self::ImagesCollected { .. } => "images_collected",
        }
    }

    /// The names of all kinds.
    pub const NAMES: [&'static str; 26] = [
        "vm_created",
        "vm_taken_up",
        "vm_removed",
        "phase_changed",
        "desired_changed",
        "readiness_changed",
        "machine_reset",
        "definition_wanted",
        "definition_refused",
        "definition_changed",
        "rollout_begun",
        "rollout_accepted",
        "rollout_failed",
        "disturbed",
        "undisturbed",
        "ordered",
        "source_taken",
        "source_held",
        "source_refused",
        "master_connected",
        "master_lost",
        "volumes_deleted",
        "fetch_begun",
        "fetch_finished",
        "fetch_failed",
        "images_collected",
    ];
}

/// What went wrong, without the guest's console lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventReason {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// The known cause, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    /// What happened.
    pub message: String,
    /// What can be done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<&FailureReason> for EventReason {
    fn from(reason: &FailureReason) -> Self {
        let FailureReason { kind, class, message, hint, .. } = reason;
        Self { kind: *kind, class: *class, message: message.clone(), hint: hint.clone() }
    }
}

/// Who asked, as the kernel tells of the process that connected to the socket (`SO_PEERCRED` of unix(7)), or of the host that
/// connected to the page's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Caller {
    /// The process' effective user; 4294967295 of another host's.
    pub uid: u32,
    /// The process' effective group; 4294967295 of another host's.
    pub gid: u32,
    /// The process; absent where the kernel does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The host that it came from; absent where it came by a socket of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
}

impl Caller {
    /// Who cannot be told: user and group are `(uid_t) -1` of credentials(7), which nobody has.
    pub const UNKNOWN: Self = Self { uid: u32::MAX, gid: u32::MAX, pid: None, address: None };

    /// A process of this host.
    pub const fn process(uid: u32, gid: u32, pid: Option<i32>) -> Self {
        Self { uid, gid, pid, address: None }
    }

    /// Somebody at `address` who came by the network.
    pub const fn at(address: IpAddr) -> Self {
        Self { address: Some(address), ..Self::UNKNOWN }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address {
            return write!(formatter, "address {address}");
        }
        write!(formatter, "uid {} gid {}", self.uid, self.gid)?;
        match self.pid {
            Some(pid) => write!(formatter, " pid {pid}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_object_that_reads_back() {
        let kind =
            EventKind::PhaseChanged { from: "running".to_owned(), to: "stopping".to_owned(), reason: None };
        let event = Event { id: 7, at: Timestamp::from_millis(1), vm: Some(VmId::new("web-1")), kind };
        let json = serde_json::to_value(&event).expect("events serialise");
        assert_eq!(
            json,
            serde_json::json!({
                "id": 7, "at": 1, "vm": "web-1", "event": "phase_changed",
                "from": "running", "to": "stopping", "reason": null,
            })
        );
        assert_eq!(serde_json::from_value::<Event>(json).expect("events parse"), event);
    }

    #[test]
    fn a_kind_is_written_by_its_name() {
        let kinds = [EventKind::Undisturbed, EventKind::MasterLost { problem: "gone".to_owned() }];
        for kind in kinds {
            let json = serde_json::to_value(&kind).expect("kinds serialise");
            assert_eq!(json["event"], kind.name());
            assert!(EventKind::NAMES.contains(&kind.name()));
        }
    }
}
