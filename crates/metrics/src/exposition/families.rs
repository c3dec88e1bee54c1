//! Which series there are, and where each is read.

use std::fmt;

use prometheus_client::encoding::{MetricEncoder, NoLabelSet};
use prometheus_client::registry;
use vm_model::{Readiness, VmStatus};

use super::{VmFigures, WorkerFigures};
use crate::{DiskMetrics, NicMetrics, VmMetrics};

/// The phases a VM can be in.
const PHASES: [&str; 8] =
    ["creating", "booting", "running", "paused", "stopping", "stopped", "restarting", "failed"];

/// What a family's figures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A figure that goes up and down.
    Gauge,
    /// A total that grows. `_total` is added to its name.
    Counter,
    /// A fact in labels. `_info` is added to its name.
    Info,
}

/// What a family's figures are measured in, which is added to its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

impl Unit {
    pub(super) fn encoded(self) -> registry::Unit {
        match self {
            Self::Bytes => registry::Unit::Bytes,
            Self::Seconds => registry::Unit::Seconds,
        }
    }
}

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Any number.
    Real(f64),
}

impl Value {
    /// Writes it as what a figure of `kind` is.
    pub(super) fn write(self, metric: &mut MetricEncoder<'_>, kind: Kind) -> Result<(), fmt::Error> {
        match (kind, self) {
            (Kind::Gauge | Kind::Info, Self::Whole(value)) => metric.encode_gauge(&value),
            (Kind::Gauge | Kind::Info, Self::Real(value)) => metric.encode_gauge(&value),
            (Kind::Counter, Self::Whole(value)) => metric.encode_counter::<NoLabelSet, _, f64>(&value, None),
            (Kind::Counter, Self::Real(value)) => metric.encode_counter::<NoLabelSet, _, f64>(&value, None),
        }
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(u64::from(value))
    }
}

/// A figure, with what tells it apart from others of its family and subject.
pub type Sample = (Vec<(&'static str, String)>, Value);

/// A family of series about subjects `S`.
#[derive(Debug)]
pub struct Family<S> {
    /// Its name, without prefix, unit and what its kind adds.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// What it is measured in.
    pub unit: Option<Unit>,
    /// What its figures are.
    pub kind: Kind,
    /// What it tells of a subject.
    pub read: fn(&S) -> Vec<Sample>,
}

impl<S> Family<S> {
    const fn new(
        name: &'static str,
        kind: Kind,
        unit: Option<Unit>,
        help: &'static str,
        read: fn(&S) -> Vec<Sample>,
    ) -> Self {
        Self { name, help, unit, kind, read }
    }

    /// The name of its series, as a scraper sees it.
    pub fn full_name(&self) -> String {
        let unit = match self.unit {
            None => "",
            Some(Unit::Bytes) => "_bytes",
            Some(Unit::Seconds) => "_seconds",
        };
        let kind = match self.kind {
            Kind::Gauge => "",
            Kind::Counter => "_total",
            Kind::Info => "_info",
        };
        format!("procurator_{}{unit}{kind}", self.name)
    }
}

use Kind::{Counter, Gauge, Info};

const BYTES: Option<Unit> = Some(Unit::Bytes);
const SECONDS: Option<Unit> = Some(Unit::Seconds);

/// Series about the worker itself.
pub const WORKER_FAMILIES: &[Family<WorkerFigures>] = &[
    Family::new("build", Info, None, "The running program", |worker| {
        vec![(vec![("version", worker.version.clone())], true.into())]
    }),
    Family::new("start_time", Gauge, SECONDS, "When the worker was started, since 1970", |worker| {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit in 52 bits for long")]
        let seconds = worker.since.as_millis() as f64 / 1e3;
        one(seconds)
    }),
    Family::new("master_connected", Gauge, None, "Whether the master answers", |worker| {
        maybe(worker.master_connected)
    }),
    Family::new(
        "state_held",
        Gauge,
        None,
        "Whether a desired state waits for an operator's word",
        |worker| one(worker.is_held),
    ),
    Family::new(
        "network_degradations",
        Gauge,
        None,
        "Faults of the host's network that are known",
        |worker| one(worker.degradations),
    ),
    Family::new("vms_damaged", Gauge, None, "VMs whose record on disk cannot be used", |worker| {
        one(worker.damaged)
    }),
    Family::new("log_lines_dropped", Counter, None, "Lines that the log lost", |worker| {
        one(worker.log_lines_dropped)
    }),
];

/// Series about each VM. All have the label `vm`.
pub const VM_FAMILIES: &[Family<VmFigures>] = &[
    Family::new("vm", Info, None, "The VM's definition", |vm| {
        let assignment = &vm.info.assignment;
        let labels = vec![
            ("store_path", assignment.store_path.display().to_string()),
            ("hash", assignment.hash.clone()),
            ("generation", vm.info.generation.to_string()),
        ];
        vec![(labels, true.into())]
    }),
    Family::new("vm_phase", Gauge, None, "Whether the VM is in this phase of its life", |vm| {
        let phase = vm.info.status.phase_name();
        PHASES.map(|name| (vec![("phase", name.to_owned())], (name == phase).into())).into()
    }),
    Family::new("vm_ready", Gauge, None, "Whether the guest is ready, as its probes find", |vm| {
        let readiness = vm.info.health.as_ref().filter(|_| is_up(vm)).map(|health| health.ready);
        match readiness {
            Some(Readiness::Ready) => one(true),
            Some(Readiness::NotReady) => one(false),
            Some(Readiness::Unknown) | None => Vec::new(),
        }
    }),
    Family::new(
        "vm_crash_looping",
        Gauge,
        None,
        "Whether so many starts failed in a row that it is a crash loop",
        |vm| one(vm.info.is_crash_looping()),
    ),
    Family::new(
        "vm_failures_in_a_row",
        Gauge,
        None,
        "Starts and runs that failed one after the other",
        |vm| one(u64::from(vm.info.failures_in_a_row)),
    ),
    Family::new("vm_restarts", Counter, None, "Starts after a failure or a reset by the guest", |vm| {
        one(vm.info.restarts)
    }),
    Family::new("vm_resets", Counter, None, "Resets in place", |vm| one(vm.info.resets)),
    Family::new("vm_start_step", Gauge, SECONDS, "How long a step of the newest start took", |vm| {
        let timings = &vm.info.timings;
        let steps = [
            ("artifact", timings.artifact),
            ("disks", timings.disks),
            ("network", timings.network),
            ("first_entry", timings.first_entry),
            ("first_console_byte", timings.first_console_byte),
        ];
        let known = steps.into_iter().filter_map(|(step, took)| Some((step, took?)));
        known.map(|(step, took)| (vec![("step", step.to_owned())], took.as_secs_f64().into())).collect()
    }),
    Family::new("vm_vcpu", Counter, SECONDS, "Processor time of a vCPU's thread", |vm| {
        each_vcpu(vm, |metrics, vcpu| metrics.vcpus[vcpu].seconds.into())
    }),
    Family::new("vm_vcpu_exits", Counter, None, "Exits of a vCPU to user space", |vm| {
        each_vcpu(vm, |metrics, vcpu| metrics.vcpus[vcpu].exits.into())
    }),
    Family::new("vm_memory_size", Gauge, BYTES, "Memory that the guest was given", |vm| {
        maybe(machine_metrics(vm).map(|metrics| metrics.memory_size_bytes))
    }),
    Family::new("vm_memory_resident", Gauge, BYTES, "Guest memory that occupies host memory", |vm| {
        maybe(machine_metrics(vm).map(|metrics| metrics.memory_resident_bytes))
    }),
    Family::new("vm_memory_available", Gauge, BYTES, "Memory that the guest calls available", |vm| {
        maybe(machine_metrics(vm).and_then(|metrics| metrics.memory_available_bytes))
    }),
    Family::new("vm_balloon_target", Gauge, BYTES, "Memory that the guest is asked to give up", |vm| {
        maybe(machine_metrics(vm).and_then(|metrics| metrics.balloon).map(|balloon| balloon.target_bytes))
    }),
    Family::new("vm_balloon_actual", Gauge, BYTES, "Memory that the guest says it gave up", |vm| {
        maybe(machine_metrics(vm).and_then(|metrics| metrics.balloon).map(|balloon| balloon.actual_bytes))
    }),
    Family::new("vm_network_receive", Counter, BYTES, "Bytes that the guest received", |vm| {
        each_nic(vm, |nic| nic.receive_bytes)
    }),
    Family::new("vm_network_transmit", Counter, BYTES, "Bytes that the guest sent", |vm| {
        each_nic(vm, |nic| nic.transmit_bytes)
    }),
    Family::new("vm_network_receive_frames", Counter, None, "Frames that the guest received", |vm| {
        each_nic(vm, |nic| nic.receive_frames)
    }),
    Family::new("vm_network_transmit_frames", Counter, None, "Frames that the guest sent", |vm| {
        each_nic(vm, |nic| nic.transmit_frames)
    }),
    Family::new(
        "vm_network_receive_dropped",
        Counter,
        None,
        "Frames for the guest that it did not get",
        |vm| each_nic(vm, |nic| nic.receive_dropped),
    ),
    Family::new(
        "vm_network_transmit_dropped",
        Counter,
        None,
        "Frames of the guest that the host did not take",
        |vm| each_nic(vm, |nic| nic.transmit_dropped),
    ),
    Family::new("vm_disk_read", Counter, BYTES, "Bytes that the guest read", |vm| {
        each_disk(vm, |disk| disk.read_bytes)
    }),
    Family::new("vm_disk_written", Counter, BYTES, "Bytes that the guest wrote", |vm| {
        each_disk(vm, |disk| disk.written_bytes)
    }),
    Family::new("vm_disk_read_operations", Counter, None, "Reads completed", |vm| {
        each_disk(vm, |disk| disk.read_operations)
    }),
    Family::new("vm_disk_write_operations", Counter, None, "Writes completed", |vm| {
        each_disk(vm, |disk| disk.write_operations)
    }),
    Family::new("vm_disk_flush_operations", Counter, None, "Flushes completed", |vm| {
        each_disk(vm, |disk| disk.flush_operations)
    }),
    Family::new("vm_disk_erase_operations", Counter, None, "Discards and zeroings completed", |vm| {
        each_disk(vm, |disk| disk.erase_operations)
    }),
    Family::new("vm_disk_errors", Counter, None, "Requests to a disk that failed", |vm| {
        each_disk(vm, |disk| disk.errors)
    }),
    Family::new(
        "vm_disk_kept_requests",
        Counter,
        None,
        "Requests that the host could not carry out at first, kept and tried again",
        |vm| each_disk(vm, |disk| disk.kept_requests),
    ),
    Family::new("vm_disk_troubles", Counter, None, "Times that such requests stopped the VM", |vm| {
        each_disk(vm, |disk| disk.troubles)
    }),
    Family::new("vm_disk_trouble", Counter, SECONDS, "Time that the VM was stopped by them", |vm| {
        each_disk(vm, |disk| disk.trouble_time.as_secs_f64())
    }),
];

fn one(value: impl Into<Value>) -> Vec<Sample> {
    vec![(Vec::new(), value.into())]
}

fn maybe(value: Option<impl Into<Value>>) -> Vec<Sample> {
    value.map(one).unwrap_or_default()
}

/// Whether there is a machine whose figures are those of now.
fn is_up(vm: &VmFigures) -> bool {
    match vm.info.status {
        VmStatus::Booting | VmStatus::Running | VmStatus::Paused | VmStatus::Stopping => true,
        VmStatus::Creating | VmStatus::Stopped | VmStatus::Restarting | VmStatus::Failed(_) => false,
    }
}

/// What a machine uses now; nothing where there is none. Totals stay.
fn machine_metrics(vm: &VmFigures) -> Option<&VmMetrics> {
    vm.metrics.as_ref().filter(|_| is_up(vm))
}

fn each_vcpu(vm: &VmFigures, read: fn(&VmMetrics, usize) -> Value) -> Vec<Sample> {
    let Some(metrics) = &vm.metrics else { return Vec::new() };
    (0..metrics.vcpus.len()).map(|vcpu| (vec![("vcpu", vcpu.to_string())], read(metrics, vcpu))).collect()
}

fn each_nic(vm: &VmFigures, read: fn(&NicMetrics) -> u64) -> Vec<Sample> {
    let nics = vm.metrics.iter().flat_map(|metrics| &metrics.nics);
    nics.map(|nic| (vec![("device", nic.id.clone())], read(nic).into())).collect()
}

fn each_disk<V: Into<Value>>(vm: &VmFigures, read: fn(&DiskMetrics) -> V) -> Vec<Sample> {
    let disks = vm.metrics.iter().flat_map(|metrics| &metrics.disks);
    disks.map(|disk| (vec![("disk", disk.id.clone())], read(disk).into())).collect()
}
