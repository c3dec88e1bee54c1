//! Series about a VM as a whole: what it is, how it is, its memory.

use vm_model::Readiness;

use super::kind::{BYTES, Family, Kind, SECONDS};
use super::{VmFigures, each, is_up, machine_metrics, maybe, one};
use crate::PHASES;

use Kind::{Counter, Gauge, Info};

pub(super) const FAMILIES: &[Family<VmFigures>] = &[
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
        each("phase", PHASES.map(|name| (name, name == phase)))
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
        let known = steps.into_iter().filter_map(|(step, took)| Some((step, took?.as_secs_f64())));
        each("step", known)
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
];
