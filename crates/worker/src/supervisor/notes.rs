//! What is noted with a running machine for a worker that takes it over: all that the one which launched it knew of it and
//! that no record says. The process that runs the machine keeps it, so that it is there exactly as long as the machine; and
//! sealed, because a guest may have taken that process over (`records/seal_key.rs`).

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;
use vm_model::{
    Assignment, Footprint, HealthSpec, MachineShape, MemorySpec, Timestamp, VmId, VmNic, VmTimings,
};

use super::RestartPolicy;
use crate::records::{RunCounts, SealKey};

/// The form that is written. Keys may be added to it; a later one may not be understood here.
const VERSION: u32 = 1;

/// What is noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineNotes {
    pub(super) version: u32,
    /// The definition it was made by.
    pub(crate) assignment: Assignment,
    /// The identity of its VM, which tells it from another VM of the same name; not noted by earlier workers.
    #[serde(default)]
    pub(crate) uuid: Option<Uuid>,
    /// When it was launched.
    pub(crate) launched_at: Timestamp,
    /// Its interfaces.
    pub(crate) nics: Vec<NotedNic>,
    /// What it takes of the host's memory.
    pub(crate) memory: MemorySpec,
    /// What it takes of the host besides; not noted by earlier workers.
    #[serde(default)]
    pub(crate) footprint: Option<Footprint>,
    /// What it is made of, for people.
    pub(crate) shape: MachineShape,
    /// What its definition says about restarts.
    #[serde(default)]
    pub(crate) restart: Option<RestartPolicy>,
    /// How it is found out whether its guest is well.
    #[serde(default)]
    pub(crate) health: Option<HealthSpec>,
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
    #[serde(default)]
    pub(crate) unverified: Vec<PathBuf>,
    #[serde(default)]
    pub(crate) timings: VmTimings,
    /// What was counted of its VM before it was launched.
    #[serde(default)]
    pub(crate) counted: RunCounts,
}

/// An interface, and how its TAP was set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NotedNic {
    pub(crate) nic: VmNic,
    #[serde(default)]
    pub(crate) mask: Option<Ipv4Addr>,
    #[serde(default)]
    pub(crate) mtu: Option<u16>,
}

/// The identity of the VM whose machine has the notes `text`, where that is noted.
///
/// # Errors
/// They cannot be used.
pub(crate) fn noted_uuid(id: &VmId, text: &str) -> Result<Option<Uuid>, NotesError> {
    MachineNotes::parse(id, text).map(|notes| notes.uuid)
}

/// Why notes cannot be used.
#[derive(Debug, Error)]
pub enum NotesError {
    /// They have no form that is known.
    #[error("what is noted with it cannot be read")]
    Unreadable(#[source] serde_json::Error),
    /// A later release wrote them.
    #[error("what is noted with it has version {found}; versions up to {VERSION} are understood")]
    Newer {
        /// Their version.
        found: u32,
    },
    /// They are not of the machine they were found with.
    #[error("what is noted with it is of VM {found}")]
    OtherVm {
        /// Whose they are.
        found: VmId,
    },
}

/// Checks that a manager of this release could take over the machine of `vm` with what was noted at its launch.
///
/// # Errors
/// It could not.
pub fn check_notes(vm: &VmId, notes: &str) -> Result<(), NotesError> {
    MachineNotes::parse(vm, notes).map(drop)
}

/// What of notes every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl MachineNotes {
    /// The notes of a machine that is about to be launched, made by `assignment`.
    pub(crate) fn new(assignment: Assignment, memory: MemorySpec, shape: MachineShape) -> Self {
        Self {
            version: VERSION,
            assignment,
            uuid: None,
            launched_at: Timestamp::now(),
            nics: Vec::new(),
            memory,
            footprint: None,
            shape,
            restart: None,
            health: None,
            warnings: Vec::new(),
            unverified: Vec::new(),
            timings: VmTimings::default(),
            counted: RunCounts::default(),
        }
    }

    /// The text that is kept with the machine, sealed where the run has a key for that.
    pub(crate) fn to_text(&self, seal_key: Option<&SealKey>) -> String {
        let text = serde_json::to_string(self).expect("notes are made of plain values with names for keys");
        seal_key.map_or_else(|| text.clone(), |key| key.seal(&text))
    }

    /// Reads the notes of VM `id`.
    pub(crate) fn parse(id: &VmId, text: &str) -> Result<Self, NotesError> {
        // The version first: what comes after it may have another form.
        let Versioned { version } = serde_json::from_str(text).map_err(NotesError::Unreadable)?;
        if version > VERSION {
            return Err(NotesError::Newer { found: version });
        }
        let notes: Self = serde_json::from_str(text).map_err(NotesError::Unreadable)?;
        if notes.assignment.id != *id {
            return Err(NotesError::OtherVm { found: notes.assignment.id });
        }
        Ok(notes)
    }
}

#[cfg(test)]
mod tests {
    use vm_model::{Bytes, MemoryBacking};

    use super::*;

    fn notes() -> MachineNotes {
        let memory =
            MemorySpec { size: Bytes::from_mib(64), backing: MemoryBacking::SharedMemfd, prefault: false };
        let shape =
            MachineShape { vcpus: 1, memory: memory.size, cmdline: "quiet".to_owned(), disks: Vec::new() };
        MachineNotes::new(Assignment::new(VmId::new("web-1"), "", "/nix/store/x"), memory, shape)
    }

    #[test]
    fn notes_read_back_and_keys_may_be_added() {
        let (id, notes) = (VmId::new("web-1"), notes());
        assert_eq!(MachineNotes::parse(&id, &notes.to_text(None)).expect("readable"), notes);
        let longer = notes.to_text(None).replacen('{', r#"{"of_later":1,"#, 1);
        assert_eq!(MachineNotes::parse(&id, &longer).expect("readable"), notes);
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let (id, text) = (VmId::new("web-1"), notes().to_text(None));
        let refused = |id: &VmId, text: &str| MachineNotes::parse(id, text).expect_err("refused").to_string();
        assert!(refused(&id, "").contains("cannot be read"));
        let newer = refused(&id, r#"{"version":2}"#);
        assert_eq!(newer, "what is noted with it has version 2; versions up to 1 are understood");
        assert!(refused(&VmId::new("web-2"), &text).ends_with("of VM web-1"));
    }
}
