//! Series about the worker itself.

use super::kind::{Family, Kind, SECONDS};
use super::{WorkerFigures, each, maybe, one};

use Kind::{Counter, Gauge, Histogram, Info};

pub(super) const FAMILIES: &[Family<WorkerFigures>] = &[
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
    Family::new("log_queue_lines", Gauge, None, "Lines that wait to be written to the log", |worker| {
        one(worker.log_queue_lines)
    }),
    Family::new(
        "desired_state_queue_messages",
        Gauge,
        None,
        "Desired states and commands that wait for the reconciler",
        |worker| one(worker.node_queue_messages),
    ),
    Family::new(
        "reconcile_duration",
        Histogram,
        SECONDS,
        "How long it took to take in a desired state or command, and to give orders to VMs",
        |worker| one(worker.durations.reconcile),
    ),
    Family::new(
        "sampling_duration",
        Histogram,
        SECONDS,
        "How long a round of reading all VMs' counters took",
        |worker| one(worker.durations.sampling),
    ),
    Family::new(
        "start_step_duration",
        Histogram,
        SECONDS,
        "How long steps of starts of VMs took",
        |worker| each("step", worker.durations.steps),
    ),
    Family::new(
        "phase_duration",
        Histogram,
        SECONDS,
        "How long VMs were in a phase that they have left",
        |worker| each("phase", worker.durations.phases),
    ),
];
