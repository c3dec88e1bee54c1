//! Series about a VM's vCPUs. What the host's kernel does not tell has no series.

use vm_model::{ExitCounts, KvmCounters, ThreadCounters};

use super::VmFigures;
use super::kind::{Family, Kind, SECONDS, Sample, Value};
use crate::VcpuMetrics;

use Kind::Counter;

pub(super) const FAMILIES: &[Family<VmFigures>] = &[
    Family::new("vm_vcpu", Counter, SECONDS, "Processor time of a vCPU's thread", |vm| {
        each_vcpu(vm, |vcpu| Some(vcpu.seconds))
    }),
    Family::new(
        "vm_vcpu_run_delay",
        Counter,
        SECONDS,
        "How long a vCPU was ready to run and had no processor, which its guest sees as stolen time",
        |vm| each_vcpu(vm, |vcpu| Some(vcpu.thread?.run_delay.as_secs_f64())),
    ),
    Family::new("vm_vcpu_halted", Counter, SECONDS, "How long a vCPU had nothing to do", |vm| {
        each_vcpu(vm, |vcpu| Some(vcpu.kvm?.halt_time.as_secs_f64()))
    }),
    Family::new("vm_vcpu_page_faults", Counter, None, "Page faults of a vCPU's thread on the host", |vm| {
        each_kind(vm, |vcpu| {
            let ThreadCounters { run_delay: _, minor_faults, major_faults } = vcpu.thread?;
            Some(vec![("minor", minor_faults), ("major", major_faults)])
        })
    }),
    Family::new("vm_vcpu_exits", Counter, None, "Exits of a vCPU to user space", |vm| {
        each_vcpu(vm, |vcpu| Some(vcpu.exits))
    }),
    Family::new("vm_vcpu_exits_by_kind", Counter, None, "The same, by what the guest did", |vm| {
        each_kind(vm, |vcpu| {
            let ExitCounts { port, memory, interrupted, other } = vcpu.exit_kinds;
            Some(vec![("port", port), ("memory", memory), ("interrupted", interrupted), ("other", other)])
        })
    }),
    Family::new("vm_vcpu_kvm_exits", Counter, None, "Exits of a vCPU from its guest", |vm| {
        each_vcpu(vm, |vcpu| Some(vcpu.kvm?.exits))
    }),
    Family::new(
        "vm_vcpu_kvm_exits_by_kind",
        Counter,
        None,
        "The same, by reason, as far as the kernel tells them apart",
        |vm| each_kind(vm, |vcpu| Some(kvm_exits(&vcpu.kvm?))),
    ),
    Family::new(
        "vm_vcpu_emulated_instructions",
        Counter,
        None,
        "Instructions that KVM carried out for the guest",
        |vm| each_vcpu(vm, |vcpu| Some(vcpu.kvm?.emulated_instructions)),
    ),
    Family::new("vm_vcpu_injected_interrupts", Counter, None, "Interrupts that the guest was given", |vm| {
        each_vcpu(vm, |vcpu| Some(vcpu.kvm?.injected_interrupts))
    }),
    Family::new(
        "vm_vcpu_memory_faults",
        Counter,
        None,
        "Faults of the guest's memory that KVM handled",
        |vm| each_vcpu(vm, |vcpu| Some(vcpu.kvm?.memory_faults)),
    ),
];

fn kvm_exits(kvm: &KvmCounters) -> Vec<(&'static str, u64)> {
    vec![
        ("port", kvm.port_exits),
        ("memory", kvm.memory_exits),
        ("halt", kvm.halt_exits),
        ("signal", kvm.signal_exits),
        ("interrupt", kvm.interrupt_exits),
        ("interrupt_window", kvm.interrupt_window_exits),
        ("hypercall", kvm.hypercalls),
    ]
}

fn each_vcpu<T: Into<Value>>(vm: &VmFigures, read: fn(&VcpuMetrics) -> Option<T>) -> Vec<Sample> {
    let vcpus = vm.metrics.iter().flat_map(|metrics| metrics.vcpus.iter().enumerate());
    let known = vcpus.filter_map(|(index, vcpu)| Some((index, read(vcpu)?)));
    known.map(|(index, value)| (vec![("vcpu", index.to_string())], value.into())).collect()
}

/// A kind of something, and how often it was counted.
type KindCount = (&'static str, u64);

fn each_kind(vm: &VmFigures, read: fn(&VcpuMetrics) -> Option<Vec<KindCount>>) -> Vec<Sample> {
    let vcpus = vm.metrics.iter().flat_map(|metrics| metrics.vcpus.iter().enumerate());
    let known = vcpus.filter_map(|(index, vcpu)| Some((index, read(vcpu)?)));
    let figures = known.flat_map(|(index, kinds)| {
        kinds.into_iter().map(move |(kind, value)| {
            (vec![("vcpu", index.to_string()), ("kind", kind.to_owned())], value.into())
        })
    });
    figures.collect()
}
