//! What the worker itself looks like from outside: the JSON that programs may rely on. Keys are added, never changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vm_model::{
    Generation, HeldSet, Lineage, NetworkName, RefusedEntry, SourceKind, SourceStatus, Timestamp, VmId,
};

use crate::Access;

/// The worker, apart from its VMs. Everything but the first two may be missing from an older worker's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    /// The program's version.
    pub version: String,
    /// When it was started, in milliseconds since 1970.
    pub since: Timestamp,
    /// What whoever asked may do; not told by older workers.
    #[serde(default)]
    pub access: Option<Access>,
    /// Where its assignments come from; absent where it was given no file.
    #[serde(default)]
    pub assignments: Option<AssignmentsView>,
    /// The number of the state in force of the source that goes first.
    #[serde(default)]
    pub generation: Option<Generation>,
    /// A newer desired state that waits for an administrator's word.
    #[serde(default)]
    pub held: Option<HeldSet>,
    /// Entries of the desired state that could not be used. Their VMs stay as they are.
    #[serde(default)]
    pub refused_entries: Vec<RefusedEntry>,
    /// The link to the master; absent where there is none.
    #[serde(default)]
    pub master: Option<MasterView>,
    /// Everyone who has said what should run, and what became of it.
    #[serde(default)]
    pub sources: BTreeMap<SourceKind, SourceStatus>,
    /// Whose word each VM follows.
    #[serde(default)]
    pub owners: BTreeMap<VmId, SourceKind>,
    /// VMs of which nobody is known to have spoken, because what was assigned was lost.
    #[serde(default)]
    pub unclaimed: BTreeSet<VmId>,
    /// VMs whose record on disk cannot be used. They are left alone.
    #[serde(default)]
    pub damaged: Vec<DamagedVm>,
    /// What of this host, beside VMs, is not as it should be: its network, processes that were not taken over, a full disk.
    #[serde(default)]
    pub degradations: Vec<String>,
    /// The networks that VMs can have interfaces in.
    #[serde(default)]
    pub networks: Vec<NetworkView>,
    /// Lines that the log lost.
    #[serde(default)]
    pub log_lines_dropped: u64,
    /// Lines that wait to be written to the log.
    #[serde(default)]
    pub log_queue_lines: u64,
    /// How many files the worker may have open; absent where there is no limit.
    #[serde(default)]
    pub open_files_limit: Option<u64>,
    /// Whether guests go on when the worker ends in order; not told by older workers.
    #[serde(default)]
    pub guests_outlive_worker: Option<bool>,
    /// Why the configuration was not taken that was read last, when the worker was told to read it again. The one before it
    /// is in force.
    #[serde(default)]
    pub refused_configuration: Option<String>,
    /// Keys of the configuration that was read last and that hold only after a restart of the worker.
    #[serde(default)]
    pub settings_for_restart: Vec<String>,
    /// The directories that it works with; not told by older workers.
    #[serde(default)]
    pub directories: Option<DirectoriesView>,
}

/// The directories that a worker works with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DirectoriesView {
    /// What must outlive it.
    #[schema(value_type = String)]
    pub state: PathBuf,
    /// Where its admin socket lies.
    #[schema(value_type = String)]
    pub runtime: PathBuf,
    /// Directories whose entries may be artifacts.
    #[schema(value_type = Vec<String>)]
    pub store_roots: Vec<PathBuf>,
}

/// A network of VMs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkView {
    /// Its name; `default` for that of interfaces that name none.
    pub name: NetworkName,
    /// Its bridge on this host.
    pub bridge: String,
    /// The bridge that it is configured to have, where it keeps another one for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_bridge: Option<String>,
    /// Its addresses.
    pub subnet: String,
    /// Its IPv6 addresses, where it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_subnet: Option<String>,
    /// Addresses and ranges that a VM has only if its description asks for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<String>,
    /// The interface of this host that is a port of its bridge, with the VLAN, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// The one that it is configured to have, where it goes on without that for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_uplink: Option<String>,
}

/// A file of assignments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssignmentsView {
    /// Which.
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// What became of its present content.
    pub state: AssignmentsState,
    /// What is missing or wrong.
    #[serde(default)]
    pub problem: Option<String>,
    /// When it was read last, in milliseconds since 1970.
    #[serde(default)]
    pub read_at: Option<Timestamp>,
}

/// What became of a file of assignments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AssignmentsState {
    /// It was not looked at yet.
    Pending,
    /// It is what should run.
    InForce,
    /// It waits for an administrator's word; what was in force stays so.
    Held,
    /// It is not there; what was in force stays so.
    Missing,
    /// It cannot be used; what was in force stays so.
    Refused,
}

/// The link to a master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MasterView {
    /// The master: host and port.
    pub address: String,
    /// What this host is called there.
    pub worker: String,
    /// How the link is.
    pub state: MasterState,
    /// The master that answers, and the counting of its generations; there while it is connected.
    #[serde(default)]
    pub lineage: Option<Lineage>,
    /// Since when it is connected, in milliseconds since 1970.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// When it is dialled again, in milliseconds since 1970.
    #[serde(default)]
    pub next_try_at: Option<Timestamp>,
    /// Why there is no connection.
    #[serde(default)]
    pub problem: Option<String>,
}

/// How a link to a master is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MasterState {
    /// A connection is being made.
    Connecting,
    /// The master has answered.
    Connected,
    /// There is none; it is dialled again later.
    Waiting,
    /// The worker is ending.
    Ended,
}

/// A VM whose record on disk cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DamagedVm {
    /// Its name.
    pub id: VmId,
    /// What is wrong with its record.
    pub problem: String,
}
