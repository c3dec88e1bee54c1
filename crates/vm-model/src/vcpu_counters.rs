//! What a vCPU has used: as its thread counts, as the host's scheduler does, and as the kernel's KVM does.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::durations::combine_time;

/// A vCPU's use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuCounters {
    /// Processor time of its thread, in guest and host.
    pub cpu_time: Duration,
    /// Exits to user space.
    pub exits: u64,
    /// The same, by kind. Earlier releases do not tell.
    #[serde(default)]
    pub exit_kinds: ExitCounts,
    /// What the host's scheduler and memory management say of its thread; `None` where they say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<ThreadCounters>,
    /// What KVM counts of it; `None` where the kernel has no such statistics (before Linux 5.14).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvm: Option<KvmCounters>,
}

/// Exits to user space by what the guest did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExitCounts {
    /// It accessed a port.
    pub port: u64,
    /// It accessed a device's registers in memory.
    pub memory: u64,
    /// Nothing: the worker interrupted it.
    pub interrupted: u64,
    /// Anything else.
    pub other: u64,
}

/// A vCPU's thread as the host's kernel sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThreadCounters {
    /// How long it was ready to run and had no processor: what the guest sees as stolen time.
    pub run_delay: Duration,
    /// Page faults that were served from the host's memory.
    pub minor_faults: u64,
    /// Page faults that waited for a disk: swapped memory.
    pub major_faults: u64,
}

/// A vCPU as KVM counts it. Figures that a kernel lacks are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KvmCounters {
    /// Exits of the guest, whoever handled them.
    pub exits: u64,
    /// Of these, accesses of ports that user space handled.
    pub port_exits: u64,
    /// Accesses of registers in memory that user space handled.
    pub memory_exits: u64,
    /// The guest had nothing to do.
    pub halt_exits: u64,
    /// A signal was pending.
    pub signal_exits: u64,
    /// An interrupt of the host came.
    pub interrupt_exits: u64,
    /// The guest became ready to take an interrupt.
    pub interrupt_window_exits: u64,
    /// Calls of the guest to the hypervisor.
    pub hypercalls: u64,
    /// Instructions that KVM carried out for the guest.
    pub emulated_instructions: u64,
    /// Interrupts that the guest was given.
    pub injected_interrupts: u64,
    /// Faults of the guest's memory that KVM handled.
    pub memory_faults: u64,
    /// How long the guest was halted, KVM's polling included.
    pub halt_time: Duration,
}

// Everything is taken apart, so that no new figure is forgotten.

impl VcpuCounters {
    /// Replaces each figure by what `with` makes of it and of the same one of `other`; what only one of both knows stays.
    /// Durations are nanoseconds there.
    pub fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64 + Copy) {
        let Self { cpu_time, exits, exit_kinds, thread, kvm } = other;
        combine_time(&mut self.cpu_time, *cpu_time, with);
        self.exits = with(self.exits, *exits);
        self.exit_kinds.combine(exit_kinds, with);
        if let Some(thread) = thread {
            self.thread.get_or_insert_default().combine(thread, with);
        }
        if let Some(kvm) = kvm {
            self.kvm.get_or_insert_default().combine(kvm, with);
        }
    }
}

impl ExitCounts {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { port, memory, interrupted, other } = *self;
        [port, memory, interrupted, other].into_iter().fold(0, u64::saturating_add)
    }

    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64) {
        let Self { port, memory, interrupted, other } = other;
        self.port = with(self.port, *port);
        self.memory = with(self.memory, *memory);
        self.interrupted = with(self.interrupted, *interrupted);
        self.other = with(self.other, *other);
    }
}

impl ThreadCounters {
    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64 + Copy) {
        let Self { run_delay, minor_faults, major_faults } = other;
        combine_time(&mut self.run_delay, *run_delay, with);
        self.minor_faults = with(self.minor_faults, *minor_faults);
        self.major_faults = with(self.major_faults, *major_faults);
    }
}

impl KvmCounters {
    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64 + Copy) {
        let Self {
            exits,
            port_exits,
            memory_exits,
            halt_exits,
            signal_exits,
            interrupt_exits,
            interrupt_window_exits,
            hypercalls,
            emulated_instructions,
            injected_interrupts,
            memory_faults,
            halt_time,
        } = other;
        let figures = [
            (&mut self.exits, exits),
            (&mut self.port_exits, port_exits),
            (&mut self.memory_exits, memory_exits),
            (&mut self.halt_exits, halt_exits),
            (&mut self.signal_exits, signal_exits),
            (&mut self.interrupt_exits, interrupt_exits),
            (&mut self.interrupt_window_exits, interrupt_window_exits),
            (&mut self.hypercalls, hypercalls),
            (&mut self.emulated_instructions, emulated_instructions),
            (&mut self.injected_interrupts, injected_interrupts),
            (&mut self.memory_faults, memory_faults),
        ];
        for (figure, other) in figures {
            *figure = with(*figure, *other);
        }
        combine_time(&mut self.halt_time, *halt_time, with);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_one_of_two_machines_knows_stays() {
        let known = VcpuCounters {
            exits: 3,
            exit_kinds: ExitCounts { port: 2, other: 1, ..ExitCounts::default() },
            thread: Some(ThreadCounters { run_delay: Duration::from_millis(5), ..ThreadCounters::default() }),
            kvm: Some(KvmCounters { halt_exits: 7, ..KvmCounters::default() }),
            ..VcpuCounters::default()
        };
        let mut sum = VcpuCounters::default();
        sum.combine(&known, u64::saturating_add);
        assert_eq!(sum, known);
        sum.combine(&VcpuCounters::default(), u64::saturating_add);
        assert_eq!(sum, known);
        sum.combine(&known, u64::saturating_add);
        assert_eq!(sum.kvm.map(|kvm| kvm.halt_exits), Some(14));
        assert_eq!(sum.thread.map(|thread| thread.run_delay), Some(Duration::from_millis(10)));
        assert_eq!((sum.exits, sum.exit_kinds.total()), (6, 6));
    }

    #[test]
    fn what_an_earlier_release_tells_is_understood() {
        let text = r#"{ "cpu_time": { "secs": 1, "nanos": 0 }, "exits": 4 }"#;
        let counters: VcpuCounters = serde_json::from_str(text).expect("it is read");
        let expected = VcpuCounters { cpu_time: Duration::from_secs(1), exits: 4, ..VcpuCounters::default() };
        assert_eq!(counters, expected);
        assert_eq!(counters.exit_kinds.total(), 0, "kinds are not told");
    }
}
