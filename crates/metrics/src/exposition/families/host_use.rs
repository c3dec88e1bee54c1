//! Series about what a VM's process takes of its host, and waits for: of those with a control group of their own.

use vm_model::{HostUse, Pressure};

use super::kind::{BYTES, Family, Kind, SECONDS, Sample};
use super::{VmFigures, each, machine_metrics, maybe};

use Kind::{Counter, Gauge};

pub(super) const FAMILIES: &[Family<VmFigures>] = &[
    Family::new(
        "vm_process_memory",
        Gauge,
        BYTES,
        "Memory of the host that counts for the VM's process, pages of files included",
        |vm| maybe(host_use(vm).map(|host| host.memory.get())),
    ),
    Family::new(
        "vm_process_cpu",
        Counter,
        SECONDS,
        "Processor time of the VM's process, and of the host's kernel for it",
        |vm| maybe(host_use(vm).map(|host| host.cpu_time.as_secs_f64())),
    ),
    Family::new(
        "vm_process_throttled_periods",
        Counter,
        None,
        "How often the VM's process had used up its processor time",
        |vm| maybe(host_use(vm).map(|host| host.throttled_periods)),
    ),
    Family::new(
        "vm_process_throttled",
        Counter,
        SECONDS,
        "How long the VM's process was held back for that",
        |vm| maybe(host_use(vm).map(|host| host.throttled_time.as_secs_f64())),
    ),
    Family::new(
        "vm_process_pressure_some",
        Counter,
        SECONDS,
        "How long a thread of the VM's process waited for a resource",
        |vm| pressure(vm, |pressure| pressure.some.as_secs_f64()),
    ),
    Family::new(
        "vm_process_pressure_full",
        Counter,
        SECONDS,
        "How long all threads of the VM's process that had something to do waited for a resource",
        |vm| pressure(vm, |pressure| pressure.full.as_secs_f64()),
    ),
];

fn host_use(vm: &VmFigures) -> Option<HostUse> {
    machine_metrics(vm).and_then(|metrics| metrics.host)
}

fn pressure(vm: &VmFigures, read: fn(Pressure) -> f64) -> Vec<Sample> {
    let Some(HostUse { pressure, .. }) = host_use(vm) else { return Vec::new() };
    let resources = [("cpu", pressure.cpu), ("memory", pressure.memory), ("io", pressure.io)];
    each("resource", resources.map(|(resource, pressure)| (resource, read(pressure))))
}
