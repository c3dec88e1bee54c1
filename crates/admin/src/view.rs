//! What a VM looks like from outside: the JSON that programs may rely on. Keys are added, never changed.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vm_model::{
    BootTrouble, Condition, DesiredState, DiskTrouble, EgressRule, FailureReason, Fetching, Generation,
    Health, HostUse, MacAddress, OnTrial, OperatorOrder, Overrides, PortForward, ResourceLimits, RunEnd,
    SourceKind, StopMethod, Timestamp, Verifying, VmId, VmStatus, VmTimings, WantedChange,
};
use worker::vms::{BalloonMetrics, VmInfo, VmMetrics};

use crate::interface_view::InterfaceView;
use crate::machine_view::MachineView;
use crate::process_view::ProcessView;

/// The answer to a listing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmList {
    /// All VMs, ordered by id.
    pub vms: Vec<VmView>,
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmView {
    /// Its name.
    pub id: VmId,
    /// Its machine's identity, drawn once in its life: a VM of this name that is made later has another.
    #[serde(default)]
    pub uuid: Option<String>,
    /// The directory of what belongs to it; its vsock socket lies there as `sockets/vsock.sock`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub directory: Option<PathBuf>,
    /// Where it is in its life: `creating`, `booting`, `running`, `paused`, `stopping`, `stopped`, `restarting` or
    /// `failed`.
    pub phase: String,
    /// Where it should be.
    pub desired: DesiredState,
    /// Whose word it follows: `master`, `file` or `local`; absent where nobody speaks of it any more.
    #[serde(default)]
    pub source: Option<SourceKind>,
    /// Who wants it switched off for a while, because the whole host is drained.
    #[serde(default)]
    pub drained_by: Option<SourceKind>,
    /// Whether it is being removed.
    #[serde(default)]
    pub removing: bool,
    /// An operator's order that goes before what its assignment says of its state.
    #[serde(default)]
    pub order: Option<OperatorOrder>,
    /// What went wrong last: why it is failed or restarting now, or what it recovered from.
    pub reason: Option<FailureReason>,
    /// The first interface's address.
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub address: Option<Ipv4Addr>,
    /// The first interface's IPv6 address.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Ipv6)]
    pub ipv6: Option<Ipv6Addr>,
    /// The first interface's hardware address.
    pub mac: Option<MacAddress>,
    /// The host's end of the first interface, while there is a machine.
    pub tap: Option<String>,
    /// All of its interfaces, the first one among them.
    #[serde(default)]
    pub interfaces: Vec<InterfaceView>,
    /// Ports of the host that lead to it, like `8080:80/tcp`.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub ports: Vec<PortForward>,
    /// What it may open connections to beyond its network, like `10.0.0.0/8`; empty where that is nothing, absent where it is
    /// everything.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub egress: Option<Vec<EgressRule>>,
    /// The artifact.
    #[schema(value_type = String)]
    pub store_path: PathBuf,
    /// The artifact's NAR hash.
    pub hash: String,
    /// The desired state it came with last.
    pub generation: Generation,
    /// How often it was started again after a failure or a reset by the guest, in place or as a new machine.
    pub restarts: u64,
    /// How often its machine was made anew in place: after a reset by the guest, which is a restart, or by its reset
    /// button, which is none.
    #[serde(default)]
    pub resets: u64,
    /// How many of its starts and runs failed one after the other, without a minute of healthy life in between.
    #[serde(default)]
    pub failures_in_a_row: u32,
    /// Whether those are so many that it counts as a VM in a crash loop.
    #[serde(default)]
    pub crash_looping: bool,
    /// The trouble that its guest told of while it booted and that it waits in, although it runs.
    #[serde(default)]
    pub boot_trouble: Option<BootTrouble>,
    /// What ended it when it was told to stop last.
    pub last_stop: Option<StopMethod>,
    /// How long the steps of its newest start took.
    pub timings: TimingsView,
    /// Whether its machine's thread stands still.
    #[serde(default)]
    pub hung: bool,
    /// What of its description the assignment in force changes.
    #[serde(default)]
    pub overrides: Overrides,
    /// A definition that was asked for and is not in force.
    #[serde(default)]
    pub wanted: Option<WantedChange>,
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
    pub machine: Option<MachineView>,
    /// What that machine may take of the host, whether all of it is in force or not.
    #[serde(default, skip_serializing_if = "ResourceLimits::is_empty")]
    pub limits: ResourceLimits,
    /// The process that runs its machine; absent where it has none, or none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessView>,
    /// When its newest run began, in milliseconds since 1970; absent while it does not run.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it is started again, in milliseconds since 1970; there while it is restarting.
    #[serde(default)]
    pub next_start_at: Option<Timestamp>,
    /// How its latest runs ended, oldest first.
    #[serde(default)]
    pub ends: Vec<RunEnd>,
    /// How its guest is, as its probes find it; absent where nothing is watched.
    #[serde(default)]
    pub health: Option<Health>,
    /// What is stated about it: whether it is what and where it should be, since when, and why not.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The disk for which it is paused, because the host cannot carry out what its guest asks for.
    #[serde(default)]
    pub disk_trouble: Option<DiskTrouble>,
    /// Settings of its artifact that are ignored here, and what of the host it goes without.
    pub warnings: Vec<String>,
    /// Store paths its artifact reaches whose content nobody vouched for.
    #[schema(value_type = Vec<String>)]
    pub unverified: Vec<PathBuf>,
    /// What it used, as sampled last; absent before it ran.
    pub metrics: Option<MetricsView>,
}

/// How long steps took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TimingsView {
    /// Verifying and opening the artifact.
    pub artifact_ms: Option<f64>,
    /// Preparing its disks.
    #[serde(default)]
    pub disks_ms: Option<f64>,
    /// Setting up the network.
    pub network_ms: Option<f64>,
    /// Building the machine, until its first vCPU was entered.
    pub first_entry_ms: Option<f64>,
    /// Building the machine, until the guest's first console byte.
    pub first_console_byte_ms: Option<f64>,
    /// Until the run ended, from when building the machine began.
    #[serde(default)]
    pub ended_ms: Option<f64>,
}

/// What a VM used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricsView {
    /// How old the sample is, in milliseconds.
    pub age_ms: f64,
    /// Processor time over the last interval, of one core.
    pub cpu_percent: f64,
    /// Resident memory in MiB.
    pub memory_mb: u64,
    /// Configured memory in bytes.
    pub memory_size_bytes: u64,
    /// Resident memory in bytes.
    pub memory_resident_bytes: u64,
    /// What the guest itself calls available, in bytes; absent where nothing in it reports it.
    pub memory_available_bytes: Option<u64>,
    /// The balloon's figures; absent where there is none.
    #[serde(default)]
    pub balloon: Option<BalloonView>,
    /// Bytes the guest received.
    pub network_rx_bytes: u64,
    /// Bytes the guest sent.
    pub network_tx_bytes: u64,
    /// Frames for the guest that it did not get.
    #[serde(default)]
    pub network_rx_dropped: u64,
    /// Frames of the guest that the host did not take.
    #[serde(default)]
    pub network_tx_dropped: u64,
    /// Bytes the guest read from disks.
    pub disk_read_bytes: u64,
    /// Bytes the guest wrote to disks.
    pub disk_write_bytes: u64,
    /// Requests to discard or zero ranges of disks.
    #[serde(default)]
    pub disk_erase_operations: u64,
    /// Requests to disks that failed.
    #[serde(default)]
    pub disk_errors: u64,
    /// What its process takes of the host; absent where that is not counted for it alone.
    #[serde(default)]
    pub host: Option<HostUseView>,
}

/// What the host's kernel counts for the process of a VM since that was started: of waits, the time in which at least one of
/// its threads waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostUseView {
    /// Memory that counts for it now, pages of files included, in bytes.
    pub memory_bytes: u64,
    /// Processor time, of the kernel for it as well, in milliseconds.
    pub cpu_ms: u64,
    /// How long it was held back at its limit of processor time, in milliseconds.
    pub throttled_ms: u64,
    /// How long it waited for processors, in milliseconds.
    pub cpu_pressure_ms: u64,
    /// How long it waited for memory, in milliseconds.
    pub memory_pressure_ms: u64,
    /// How long it waited for disks, in milliseconds.
    pub io_pressure_ms: u64,
}

/// What a VM gave up by its balloon, in bytes. Figures of the guest are absent until it reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BalloonView {
    /// What the guest is asked to give up.
    pub target_bytes: u64,
    /// What the guest says it gave up.
    pub actual_bytes: u64,
    /// What the guest has no use for at all.
    pub free_bytes: Option<u64>,
    /// What the guest has in all.
    pub total_bytes: Option<u64>,
    /// What was given back to the host, counted again for memory that came back in between.
    pub discarded_bytes: u64,
    /// Pages that the host did not take back.
    pub refused_pages: u64,
}

impl VmView {
    /// The view of a VM with its newest sample.
    pub fn new(info: VmInfo, metrics: Option<&VmMetrics>) -> Self {
        let nic = info.nics.first();
        let mut metrics = metrics.map(MetricsView::new);
        if !has_machine(&info.status) {
            metrics = metrics.map(MetricsView::without_machine);
        }
        let reason = last_failure(&info);
        let crash_looping = info.is_crash_looping();
        Self {
            uuid: info.uuid.map(|uuid| uuid.to_string()),
            directory: None,
            process: None,
            phase: info.status.phase_name().to_owned(),
            desired: info.assignment.desired,
            source: None,
            drained_by: None,
            removing: false,
            order: info.order,
            reason,
            address: nic.map(|nic| nic.address),
            ipv6: nic.and_then(|nic| nic.ipv6),
            mac: nic.map(|nic| nic.mac),
            tap: nic.and_then(|nic| nic.tap.clone()),
            interfaces: info.nics.iter().map(InterfaceView::new).collect(),
            ports: info.nics.iter().flat_map(|nic| nic.access.forwards.clone()).collect(),
            egress: nic.and_then(|nic| nic.access.egress.clone()),
            store_path: info.assignment.store_path,
            hash: info.assignment.hash,
            generation: info.generation,
            restarts: info.restarts,
            resets: info.resets,
            failures_in_a_row: info.failures_in_a_row,
            crash_looping,
            boot_trouble: info.boot_trouble,
            last_stop: info.last_stop,
            timings: TimingsView::new(&info.timings),
            hung: info.hung,
            overrides: info.assignment.overrides,
            wanted: info.wanted.map(without_secrets),
            waits_to_start: info.waits_to_start,
            verifying: info.verifying,
            fetching: info.fetching,
            on_trial: info.on_trial,
            machine: info.machine.map(MachineView::new),
            limits: info.limits,
            started_at: info.started_at,
            next_start_at: info.next_start_at,
            ends: info.ends,
            disk_trouble: info.disk_trouble,
            health: info.health.map(|health| *health),
            conditions: info.conditions,
            warnings: info.warnings,
            unverified: info.unverified,
            metrics,
            id: info.id,
        }
    }
}

/// Why it is failed, or what went wrong with it last.
fn last_failure(info: &VmInfo) -> Option<FailureReason> {
    match &info.status {
        VmStatus::Failed(reason) => Some(reason.clone()),
        VmStatus::Creating
        | VmStatus::Booting
        | VmStatus::Running
        | VmStatus::Paused
        | VmStatus::Stopping
        | VmStatus::Stopped
        | VmStatus::Restarting => info.last_failure.clone(),
    }
}

/// Whether there is a machine that uses something now.
fn has_machine(status: &VmStatus) -> bool {
    match status {
        VmStatus::Booting | VmStatus::Running | VmStatus::Paused | VmStatus::Stopping => true,
        VmStatus::Creating | VmStatus::Stopped | VmStatus::Restarting | VmStatus::Failed(_) => false,
    }
}

impl TimingsView {
    fn new(timings: &VmTimings) -> Self {
        Self {
            artifact_ms: timings.artifact.map(milliseconds),
            disks_ms: timings.disks.map(milliseconds),
            network_ms: timings.network.map(milliseconds),
            first_entry_ms: timings.first_entry.map(milliseconds),
            first_console_byte_ms: timings.first_console_byte.map(milliseconds),
            ended_ms: timings.ended.map(milliseconds),
        }
    }
}

impl MetricsView {
    /// The same totals, and nothing that a machine would have to be there for.
    fn without_machine(self) -> Self {
        Self {
            cpu_percent: 0.0,
            memory_mb: 0,
            memory_resident_bytes: 0,
            memory_available_bytes: None,
            balloon: None,
            host: None,
            ..self
        }
    }

    fn new(metrics: &VmMetrics) -> Self {
        Self {
            age_ms: milliseconds(metrics.age),
            cpu_percent: metrics.cpu_percent,
            memory_mb: metrics.memory_mb,
            memory_size_bytes: metrics.memory_size_bytes,
            memory_resident_bytes: metrics.memory_resident_bytes,
            memory_available_bytes: metrics.memory_available_bytes,
            balloon: metrics.balloon.map(BalloonView::new),
            network_rx_bytes: metrics.network_rx_bytes,
            network_tx_bytes: metrics.network_tx_bytes,
            network_rx_dropped: sum(metrics.nics.iter().map(|nic| nic.receive_dropped)),
            network_tx_dropped: sum(metrics.nics.iter().map(|nic| nic.transmit_dropped)),
            disk_read_bytes: metrics.disk_read_bytes,
            disk_write_bytes: metrics.disk_write_bytes,
            disk_erase_operations: sum(metrics.disks.iter().map(|disk| disk.erase_operations)),
            disk_errors: sum(metrics.disks.iter().map(|disk| disk.errors)),
            host: metrics.host.map(HostUseView::new),
        }
    }
}

impl HostUseView {
    fn new(used: HostUse) -> Self {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            memory_bytes: used.memory.get(),
            cpu_ms: milliseconds(used.cpu_time),
            throttled_ms: milliseconds(used.throttled_time),
            cpu_pressure_ms: milliseconds(used.pressure.cpu.some),
            memory_pressure_ms: milliseconds(used.pressure.memory.some),
            io_pressure_ms: milliseconds(used.pressure.io.some),
        }
    }
}

impl BalloonView {
    fn new(metrics: BalloonMetrics) -> Self {
        Self {
            target_bytes: metrics.target_bytes,
            actual_bytes: metrics.actual_bytes,
            free_bytes: metrics.free_bytes,
            total_bytes: metrics.total_bytes,
            discarded_bytes: metrics.discarded_bytes,
            refused_pages: metrics.refused_pages,
        }
    }
}

fn sum(figures: impl Iterator<Item = u64>) -> u64 {
    figures.fold(0, u64::saturating_add)
}

/// With a microsecond's precision: more is noise.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn without_secrets(wanted: WantedChange) -> WantedChange {
    WantedChange { assignment: wanted.assignment.without_secrets(), ..wanted }
}

#[cfg(test)]
mod tests {
    use vm_model::Assignment;

    use super::*;

    #[test]
    fn secrets_of_a_wanted_definition_are_not_shown() {
        let mut assignment = Assignment::new(VmId::new("a"), "sha256-x=", "/nix/store/x");
        let secret = serde_json::json!({ "db": { "value": "hunter2" } });
        assignment.procurator.insert("credentials".to_owned(), secret);
        let wanted = WantedChange { assignment: assignment.clone(), refusal: None, next_try_at: None };
        let info = VmInfo { wanted: Some(wanted), ..VmInfo::new(assignment, Generation::new(1)) };
        let json = serde_json::to_string(&VmView::new(info, None)).expect("serialises");
        assert!(json.contains("credentials") && !json.contains("hunter2"), "{json}");
    }

    #[test]
    fn a_machine_that_is_gone_uses_nothing_and_its_totals_stay() {
        let sampled = VmMetrics {
            cpu_percent: 80.0,
            memory_mb: 64,
            memory_resident_bytes: 64 << 20,
            memory_available_bytes: Some(1),
            network_rx_bytes: 7,
            ..VmMetrics::default()
        };
        let view = |status| {
            let assignment = Assignment::new(VmId::new("a"), "sha256-x=", "/nix/store/x");
            let info = VmInfo { status, ..VmInfo::new(assignment, Generation::new(1)) };
            VmView::new(info, Some(&sampled)).metrics.expect("it was sampled")
        };
        assert_eq!((view(VmStatus::Running).memory_mb, view(VmStatus::Running).cpu_percent), (64, 80.0));
        let gone = view(VmStatus::Stopped);
        assert_eq!((gone.memory_mb, gone.memory_resident_bytes, gone.memory_available_bytes), (0, 0, None));
        assert_eq!((gone.cpu_percent, gone.network_rx_bytes), (0.0, 7));
    }

    #[test]
    fn what_an_older_worker_tells_is_understood() {
        let assignment = Assignment::new(VmId::new("a"), "sha256-x=", "/nix/store/x");
        let view = VmView::new(VmInfo::new(assignment, Generation::new(1)), None);
        let mut json = serde_json::to_value(&view).expect("views serialise");
        let keys = json.as_object_mut().expect("an object");
        for new in [
            "overrides",
            "wanted",
            "machine",
            "started_at",
            "next_start_at",
            "ends",
            "disk_trouble",
            "failures_in_a_row",
            "crash_looping",
            "boot_trouble",
        ] {
            assert!(keys.remove(new).is_some(), "{new}");
        }
        assert_eq!(serde_json::from_value::<VmView>(json).expect("views parse"), view);
    }
}
