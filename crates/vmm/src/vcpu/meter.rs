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
    },
    /// The last ones.
    Ended(Option<ThreadCounters>, Option<KvmCounters>),
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
        self.replace(KernelSide::Running { thread: ThreadFiles::of_this_thread(), kvm: kvm.ok() });
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
        let (thread, kvm) = self.kernel.lock().unwrap_or_else(PoisonError::into_inner).read();
        VcpuCounters { cpu_time: self.clock.read(), exits: exit_kinds.total(), exit_kinds, thread, kvm }
    }

    fn replace(&self, side: KernelSide) {
        *self.kernel.lock().unwrap_or_else(PoisonError::into_inner) = side;
    }
}

impl KernelSide {
    fn read(&self) -> (Option<ThreadCounters>, Option<KvmCounters>) {
        match self {
            Self::NotStarted => (None, None),
            Self::Running { thread, kvm } => {
                let counts = kvm.as_ref().and_then(|statistics| statistics.read().ok());
                (thread.read(), counts.map(of_kvm))
            }
            Self::Ended(thread, kvm) => (*thread, *kvm),
        }
    }
}

impl Drop for Measuring<'_> {
    /// Keeps the last figures, and lets go of the statistics: they would keep the machine's memory in the kernel.
    fn drop(&mut self) {
        let mut kernel = self.meter.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let (thread, kvm) = kernel.read();
        *kernel = KernelSide::Ended(thread, kvm);
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
