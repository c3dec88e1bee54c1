//! `report`: how a worker and its VMs are.

use serde::{Deserialize, Serialize};
use vm_model::VmId;

use super::{Held, Name, Path, Words};
use crate::wire::{List, Text};

/// How many VMs a report names at most; the next one goes on.
pub const VMS_MOST: usize = 4096;

/// How the worker is: all of it, or what has changed since the report before on the same connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Counts the reports of a connection, from 1. Parts of one report that was too long for a frame share it.
    pub sequence: u64,
    /// Whether this begins a description of everything: VMs that it does not name are gone.
    #[serde(default)]
    pub full: bool,
    /// Whether the next report continues this one, because together they would be too long.
    #[serde(default)]
    pub more: bool,
    /// The worker itself, and how it stands to this master.
    pub node: NodeReport,
    /// All VMs, or those that changed.
    #[serde(default)]
    pub vms: List<VmReport, VMS_MOST>,
    /// VMs that are gone since the report before; empty in a full report.
    #[serde(default)]
    pub gone: List<VmId, VMS_MOST>,
}

/// How the worker stands to what it was assigned, and what its host has left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// When this was looked at.
    pub at_ms: u64,
    /// The newest generation that came from this master on this connection, whatever became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<u64>,
    /// The generation in force that came from a master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_generation: Option<u64>,
    /// A desired state that waits for somebody's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// Why the newest desired state was not taken; absent where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Words>,
    /// Entries of the newest desired state that could not be used.
    #[serde(default)]
    pub refused_vms: List<RefusedVm, 256>,
    /// Memory that the host could give without swapping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_available_bytes: Option<u64>,
    /// Space left where volumes lie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_available_bytes: Option<u64>,
    /// Statements about the host as a whole.
    #[serde(default)]
    pub conditions: List<Condition, 16>,
    /// VMs that were removed and whose volumes are kept.
    #[serde(default)]
    pub kept: List<Kept, 1024>,
}

/// An entry of an assignment that could not be used. Its VM stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedVm {
    /// The VM it speaks of.
    pub vm: VmId,
    /// What is wrong, where, and what is accepted.
    pub problem: Words,
}

/// A VM that was removed and whose volumes are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The VM.
    pub vm: VmId,
    /// When it was removed.
    pub removed_at_ms: u64,
    /// When its volumes are deleted.
    pub kept_until_ms: u64,
}

/// How a VM is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmReport {
    /// Its name.
    pub vm: VmId,
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether its guest serves.
    #[serde(default)]
    pub readiness: Readiness,
    /// Why it is in its phase, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Its addresses.
    #[serde(default)]
    pub addresses: List<Address, 16>,
    /// The store path of its artifact.
    pub image: Path,
    /// The artifact's hash.
    pub hash: Text<128>,
    /// The desired state it came with last, in the counting of whoever it came from; zero where it has none.
    #[serde(default)]
    pub generation: u64,
    /// Whose word it follows; absent where nobody speaks of it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// How often it was started again after a failure or a reset.
    #[serde(default)]
    pub restarts: u64,
    /// When its newest run began; absent while it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<u64>,
    /// What it has used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// Statements about it.
    #[serde(default)]
    pub conditions: List<Condition, 16>,
}

/// Who says that a VM should exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A master.
    Master,
    /// A file on the host.
    File,
    /// An administrator of the host.
    Local,
    /// A source of a newer worker.
    #[serde(other)]
    Unknown,
}

/// Where a VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its artifact is being verified, its disks and network prepared.
    Creating,
    /// Its machine is being built.
    Booting,
    /// Its first vCPU was entered.
    Running,
    /// Its vCPUs are parked.
    Paused,
    /// It was asked to stop.
    Stopping,
    /// It is off and stays so.
    Stopped,
    /// It waits for its next start.
    Restarting,
    /// It is off because something went wrong.
    Failed,
    /// A phase of a newer worker.
    #[serde(other)]
    Unknown,
}

/// Whether a guest serves, as its probe says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// It serves.
    Ready,
    /// It does not, or not yet.
    NotReady,
    /// Nothing tells it: it has no probe, or the word is a newer worker's.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Why a VM is in its phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The kind of failure: `artifact`, `hash_mismatch`, `disk`, `host`, `guest`, `machine`, or another word.
    pub kind: Text<64>,
    /// What it was more closely, as a word: `no_root_device`, `kernel_panic`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Text<64>>,
    /// The whole story in one line.
    pub message: Words,
    /// What usually helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<Words>,
    /// Whether another start can help although nobody changes anything.
    #[serde(default)]
    pub retried: bool,
}

/// An address of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The network interface in the machine's description.
    pub nic: Name,
    /// The address in the form of RFC 5952 or dotted quads.
    pub address: Text<64>,
    /// The hardware address.
    pub mac: Text<17>,
}

/// What a VM has used. What ends in `_total` only grows while the worker's record of the VM lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// When this was sampled.
    pub sampled_at_ms: u64,
    /// Thousandths of a processor in use over the last interval; absent before there are two samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millicores: Option<u64>,
    /// Processor time of all vCPUs.
    pub cpu_ms_total: u64,
    /// Guest memory as configured.
    pub memory_size_bytes: u64,
    /// Guest memory that occupies host memory.
    pub memory_resident_bytes: u64,
    /// What the guest says it could use without swapping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_available_bytes: Option<u64>,
    /// Bytes that the guest received.
    pub network_receive_bytes_total: u64,
    /// Bytes that the guest sent.
    pub network_transmit_bytes_total: u64,
    /// Bytes that the guest read from disks.
    pub disk_read_bytes_total: u64,
    /// Bytes that the guest wrote to disks.
    pub disk_written_bytes_total: u64,
}

/// A statement about a VM or a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What is stated.
    pub kind: ConditionKind,
    /// Whether it holds.
    pub holds: bool,
    /// Since when it does, or does not, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Why it does not; empty where it holds.
    #[serde(default)]
    pub reason: Words,
}

/// What is stated about a VM or a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConditionKind {
    /// The definition in force is the one that was asked for last.
    Applied,
    /// It is in the phase in which it should be.
    InPhase,
    /// It runs, and its probes, if it has any, find that it can serve.
    Ready,
    /// Its host carries out all that it asks for.
    Undisturbed,
    /// It does not fail again and again.
    Stable,
    /// Somebody vouched for the content of every store path that its artifact reaches.
    Verified,
    /// It, or the host, has all that was asked for.
    Complete,
    /// A statement of a newer worker.
    #[serde(other)]
    Unknown,
}
