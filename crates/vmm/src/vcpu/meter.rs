//! A vCPU's counters, read by other threads while it runs and after it ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hypervisor::{Exit, Vcpu, VcpuCounts, VcpuStatistics};
use vm_model::{ExitCounts, KvmCounters, ThreadCounters, VcpuCounters};

use super::clock::{Measuring as MeasuringClock, ThreadClock};
use super::scheduling::ThreadFiles;

/// What one vCPU counts.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    clock: ThreadClock,
    exits: Exits,
    /// What the kernel tells of the vCPU and its thread. Held during a reading, and replaced whole: a poisoned lock is used
    /// on. Never taken while the guest runs but by readers.
    kernel: Mutex<KernelSide>,
}

/// Exits to user space, by kind.
#[derive(Debug, Default)]
struct Exits {
    port: AtomicU64,
    memory: AtomicU64,
    interrupted: AtomicU64,
    other: AtomicU64,
}

/// Where the kernel's figures come from.
#[derive(Debug, Default)]
enum KernelSide {
    #[default]
    NotStarted,
    Running {
        thread: ThreadFiles,
        /// `None` where the kernel has no such statistics.
        kvm: Option<VcpuStatistics>,
        /// The latest figures, and the thread's processor time before they were read.
        latest: Option<(Duration, KernelFigures)>,
    },
    /// The last ones.
    Ended(KernelFigures),
}

/// What the kernel told.
#[derive(Clone, Copy, Debug, Default)]
struct KernelFigures {
    thread: Option<ThreadCounters>,
    kvm: Option<KvmCounters>,
}

/// Measures the calling thread, and the vCPU that runs on it, until dropped.
pub(super) struct Measuring<'a> {
    meter: &'a Meter,
    _clock: MeasuringClock<'a>,
}

impl Meter {
    /// Starts measuring `vcpu` on the calling thread. To be dropped before the vCPU is.
    pub(super) fn measure_this_thread(&self, vcpu: &Vcpu) -> Measuring<'_> {
        let kvm = vcpu.statistics();
        if let Err(problem) = &kvm {
            tracing::debug!(vcpu = vcpu.index(), %problem, "this kernel's KVM tells nothing of a vCPU");
        }
        let thread = ThreadFiles::of_this_thread();
        self.replace(KernelSide::Running { thread, kvm: kvm.ok(), latest: None });
        Measuring { meter: self, _clock: self.clock.measure_this_thread() }
    }

    /// Counts an exit.
    pub(super) fn count(&self, exit: &Exit<'_>) {
        let Exits { port, memory, interrupted, other } = &self.exits;
        let counter = match exit {
            Exit::IoIn { .. } | Exit::IoOut { .. } => port,
            Exit::MmioRead { .. } | Exit::MmioWrite { .. } => memory,
            Exit::Interrupted => interrupted,
            Exit::Shutdown
            | Exit::SystemEvent { .. }
            | Exit::Halt
            | Exit::FailEntry { .. }
            | Exit::InternalError { .. }
            | Exit::MemoryFault { .. }
            | Exit::Unexpected { .. } => other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> VcpuCounters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Exits { port, memory, interrupted, other } = &self.exits;
        let exit_kinds = ExitCounts {
            port: load(port),
            memory: load(memory),
            interrupted: load(interrupted),
            other: load(other),
        };
        let cpu_time = self.clock.read();
        let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let KernelFigures { thread, kvm } = kernel.read(cpu_time);
        VcpuCounters { cpu_time, exits: exit_kinds.total(), exit_kinds, thread, kvm }
    }

    fn replace(&self, side: KernelSide) {
        *self.kernel.lock().unwrap_or_else(PoisonError::into_inner) = side;
    }
}

impl KernelSide {
    /// The figures of a thread that has run for `cpu_time`. They only change while it runs: those of a vCPU that has slept
    /// since the reading before are not read again. An idle host of many VMs has little else to do.
    fn read(&mut self, cpu_time: Duration) -> KernelFigures {
        match self {
            Self::NotStarted => KernelFigures::default(),
            Self::Running { latest: Some((before, figures)), .. } if *before == cpu_time => *figures,
            Self::Running { thread, kvm, latest } => {
                let counts = kvm.as_ref().and_then(|statistics| statistics.read().ok());
                let figures = KernelFigures { thread: thread.read(), kvm: counts.map(of_kvm) };
                *latest = Some((cpu_time, figures));
                figures
            }
            Self::Ended(figures) => *figures,
        }
    }
}

impl Drop for Measuring<'_> {
    /// Keeps the last figures, and lets go of the statistics: they would keep the machine's memory in the kernel.
    fn drop(&mut self) {
        let cpu_time = self.meter.clock.read();
        let mut kernel = self.meter.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        *kernel = KernelSide::Ended(kernel.read(cpu_time));
    }
}

fn of_kvm(counts: VcpuCounts) -> KvmCounters {
    let VcpuCounts {
        exits,
        io_exits,
        mmio_exits,
        halt_exits,
        signal_exits,
        irq_exits,
        irq_window_exits,
        hypercalls,
        insn_emulation,
        irq_injections,
        pf_taken,
        halt_wait_ns,
        halt_poll_success_ns,
        halt_poll_fail_ns,
    } = counts;
    let halted = [halt_wait_ns, halt_poll_success_ns, halt_poll_fail_ns];
    KvmCounters {
        exits,
        port_exits: io_exits,
        memory_exits: mmio_exits,
        halt_exits,
        signal_exits,
        interrupt_exits: irq_exits,
        interrupt_window_exits: irq_window_exits,
        hypercalls,
        emulated_instructions: insn_emulation,
        injected_interrupts: irq_injections,
        memory_faults: pf_taken,
        halt_time: Duration::from_nanos(halted.into_iter().fold(0, u64::saturating_add)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_again_only_about_a_thread_that_has_run() {
        let mut side = KernelSide::Running { thread: ThreadFiles::of_this_thread(), kvm: None, latest: None };
        let mut faults = |cpu_time| {
            let thread = side.read(Duration::from_millis(cpu_time)).thread.expect("it is there");
            thread.minor_faults + thread.major_faults
        };
        let before = faults(1);
        // Each page of it is touched for the first time.
        assert_eq!(vec![1_u8; 8 << 20].iter().map(|byte| u64::from(*byte)).sum::<u64>(), 8 << 20);
        assert_eq!(faults(1), before, "asleep");
        assert!(faults(2) > before, "it has run");
    }
}
