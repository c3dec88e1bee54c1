//! All that is known of one VM, as a plain value.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::schema::DurationParts;
use crate::{
    Assignment, BootTrouble, Bytes, Condition, DiskAccess, DiskFormat, FailureReason, Generation, Health,
    MacAddress, NetworkAccess, NetworkName, NicMismatch, OnTrial, OperatorOrder, ResourceLimits, RunEnd,
    StopMethod, Timestamp, VmId, VmStatus, VolumePolicy,
};

/// One VM at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmInfo {
    /// Its name.
    pub id: VmId,
    /// Its machine's identity, drawn once in its life: one of the same name that is made later has another. Not told by
    /// earlier workers.
    #[serde(default)]
    pub uuid: Option<Uuid>,
    /// Where it is in its life.
    pub status: VmStatus,
    /// The definition in force: what its machine was made of, or is being made of.
    pub assignment: Assignment,
    /// The desired state it came with last; zero where it was created by a call.
    pub generation: Generation,
    /// A definition that was asked for and is not in force.
    #[serde(default)]
    pub wanted: Option<WantedChange>,
    /// An operator's order that keeps it in another state than its assignment says. The state in `assignment` is the one
    /// that was ordered then.
    #[serde(default)]
    pub order: Option<OperatorOrder>,
    /// Whether it is ready to start and waits for its turn, because as many VMs as may are being started.
    #[serde(default)]
    pub waits_to_start: bool,
    /// The store path that is hashed before the VM can have its next machine; there while that takes long.
    #[serde(default)]
    pub verifying: Option<Verifying>,
    /// The store path that is fetched before the VM can have its next machine; there while that takes long.
    #[serde(default)]
    pub fetching: Option<Fetching>,
    /// There while its definition is on trial: it is accepted, or the one before is put in force again.
    #[serde(default)]
    pub on_trial: Option<OnTrial>,
    /// What its newest machine is made of; absent before there was one.
    #[serde(default)]
    pub machine: Option<MachineShape>,
    /// What that machine may take of the host, whether all of it is in force or not.
    #[serde(default, skip_serializing_if = "ResourceLimits::is_empty")]
    pub limits: ResourceLimits,
    /// Its network interfaces, in the guest's order; empty until they are set up.
    pub nics: Vec<VmNic>,
    /// How often it got as far as its first instruction.
    pub starts: u64,
    /// How often it was started again after a failure or a reset by the guest, in place or as a new machine.
    pub restarts: u64,
    /// How often its machine was rebuilt in place: after a reset by the guest, which is a restart, or by its reset
    /// button, which is none.
    #[serde(default)]
    pub resets: u64,
    /// How often a start or a run failed.
    pub failures: u64,
    /// How many of its starts and runs failed one after the other, without a minute of healthy life in between.
    #[serde(default)]
    pub failures_in_a_row: u32,
    /// When its newest run began; absent while it does not run.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it is started again; there while it is restarting.
    #[serde(default)]
    pub next_start_at: Option<Timestamp>,
    /// What went wrong last. Stays when it runs again.
    pub last_failure: Option<FailureReason>,
    /// The trouble that its guest told of while it booted and that it waits in, although it runs. Stays until the next
    /// boot.
    #[serde(default)]
    pub boot_trouble: Option<BootTrouble>,
    /// What ended it when it was told to stop last.
    pub last_stop: Option<StopMethod>,
    /// How its latest runs ended, oldest first; also those under earlier workers.
    #[serde(default)]
    pub ends: Vec<RunEnd>,
    /// How long the steps of its newest start took.
    pub timings: VmTimings,
    /// Whether its machine's thread stands still; nothing that is asked of it is done meanwhile.
    #[serde(default)]
    pub hung: bool,
    /// The disk for which it is paused, because the host cannot carry out what its guest asks for.
    #[serde(default)]
    pub disk_trouble: Option<DiskTrouble>,
    /// Settings of its artifact that are ignored here, and what of the host it goes without.
    pub warnings: Vec<String>,
    /// How its guest is, as its probes find it; absent where nothing is watched.
    #[serde(default)]
    pub health: Option<Box<Health>>,
    /// What is stated about it, in the order of [`ConditionKind::ALL`](crate::ConditionKind::ALL).
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Store paths its artifact reaches whose content nobody vouched for.
    pub unverified: Vec<PathBuf>,
}

/// A store path that is being hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verifying {
    /// The store path.
    #[schema(value_type = String)]
    pub store_path: PathBuf,
    /// How many bytes of its files have been hashed.
    pub hashed: Bytes,
}

impl fmt::Display for Verifying {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store_path, hashed } = self;
        write!(formatter, "{} is being verified: {hashed} have been hashed", store_path.display())
    }
}

/// A store path that is being fetched, with what it needs, from a binary cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fetching {
    /// The store path.
    #[schema(value_type = String)]
    pub store_path: PathBuf,
    /// How many bytes have come, unpacked.
    pub fetched: Bytes,
    /// How many there are in all; absent until the cache has said so.
    pub size: Option<Bytes>,
    /// How many came within the last second.
    pub per_second: Bytes,
}

impl fmt::Display for Fetching {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        let Some(size) = self.size else { return write!(formatter, "asking a binary cache for its image") };
        let (fetched, size) = (self.fetched.get() / MIB, size.get().div_ceil(MIB));
        write!(formatter, "fetching {fetched} of {size} MiB")?;
        let rate = self.per_second.get() / MIB;
        if rate > 0 { write!(formatter, ", {rate} MiB/s") } else { Ok(()) }
    }
}

/// A definition that was asked for and is not in force yet, or cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WantedChange {
    /// What was asked for.
    pub assignment: Assignment,
    /// Why it is not in force; absent while it is being verified and prepared.
    pub refusal: Option<FailureReason>,
    /// When it is tried again, where that can help.
    pub next_try_at: Option<Timestamp>,
}

/// What a machine is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineShape {
    /// Its vCPUs.
    pub vcpus: u8,
    /// Its guest's memory.
    pub memory: Bytes,
    /// The kernel's command line.
    pub cmdline: String,
    /// Its disks, in the guest's order.
    pub disks: Vec<VmDisk>,
}

/// A VM's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmDisk {
    /// Its name in the machine's description.
    pub id: String,
    /// The file it lies on.
    pub path: PathBuf,
    /// What the guest sees of it.
    pub size: Bytes,
    /// What the guest may do with it.
    pub access: DiskAccess,
    /// How the file is laid out.
    pub format: DiskFormat,
    /// When what the guest writes is given up; absent where it cannot write.
    pub policy: Option<VolumePolicy>,
}

/// A disk whose requests the host cannot carry out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskTrouble {
    /// The disk's name in the machine's description.
    pub disk: String,
    /// What the host said: `No space left on device (os error 28)`.
    pub problem: String,
}

/// Who gives the guest of an interface its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AddressSource {
    /// The worker.
    #[default]
    Worker,
    /// A server beyond its network, or the guest itself: the worker does not know it.
    Others,
}

impl AddressSource {
    /// Whether it is the worker.
    #[must_use]
    pub fn is_worker(&self) -> bool {
        *self == Self::Worker
    }
}

/// A VM's network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmNic {
    /// Its name in the machine's description.
    pub id: String,
    /// Which of the host's networks it is in.
    #[serde(default)]
    pub network: NetworkName,
    /// The guest's address; where others give it one, that which the worker keeps for it.
    pub address: Ipv4Addr,
    /// Who gives the guest its address.
    #[serde(default, skip_serializing_if = "AddressSource::is_worker")]
    pub address_source: AddressSource,
    /// The guest's IPv6 address, where the network has IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// The guest's hardware address.
    pub mac: MacAddress,
    /// The host's end, while there is a machine.
    pub tap: Option<String>,
    /// What passes between it and what lies beyond its network, while there is a machine.
    #[serde(default)]
    pub access: NetworkAccess,
    /// What of it does not fit its network, where that was configured anew while the machine ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mismatch: Option<NicMismatch>,
}

/// How long the steps of a start took. A step that is not over yet is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmTimings {
    /// Verifying and opening the artifact.
    #[schema(value_type = Option<DurationParts>)]
    pub artifact: Option<Duration>,
    /// Preparing its disks.
    #[serde(default)]
    #[schema(value_type = Option<DurationParts>)]
    pub disks: Option<Duration>,
    /// Setting up the network.
    #[schema(value_type = Option<DurationParts>)]
    pub network: Option<Duration>,
    /// From the request to build the machine until its first vCPU was entered.
    #[schema(value_type = Option<DurationParts>)]
    pub first_entry: Option<Duration>,
    /// From the same request until the guest's first console byte.
    #[schema(value_type = Option<DurationParts>)]
    pub first_console_byte: Option<Duration>,
    /// From the same request until the run ended.
    #[serde(default)]
    #[schema(value_type = Option<DurationParts>)]
    pub ended: Option<Duration>,
}

/// From so many failures in a row on a VM counts as one in a crash loop.
pub const CRASH_LOOP_FAILURES: u32 = 5;

impl VmInfo {
    /// Whether it fails again and again: [`CRASH_LOOP_FAILURES`] times in a row or more.
    pub fn is_crash_looping(&self) -> bool {
        self.failures_in_a_row >= CRASH_LOOP_FAILURES
    }

    /// A VM about which nothing is known but what was asked for.
    pub fn new(assignment: Assignment, generation: Generation) -> Self {
        Self {
            id: assignment.id.clone(),
            uuid: None,
            status: VmStatus::Creating,
            assignment,
            generation,
            wanted: None,
            order: None,
            waits_to_start: false,
            verifying: None,
            fetching: None,
            on_trial: None,
            machine: None,
            limits: ResourceLimits::default(),
            nics: Vec::new(),
            starts: 0,
            restarts: 0,
            resets: 0,
            failures: 0,
            failures_in_a_row: 0,
            started_at: None,
            next_start_at: None,
            last_failure: None,
            boot_trouble: None,
            last_stop: None,
            ends: Vec::new(),
            timings: VmTimings::default(),
            hung: false,
            disk_trouble: None,
            warnings: Vec::new(),
            health: None,
            conditions: Vec::new(),
            unverified: Vec::new(),
        }
    }
}
