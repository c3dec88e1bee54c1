//! The vCPUs of a machine: made ready for the first instruction, run on a thread each, parked, resumed, ended.
//!
//! ```text
//! spawn → (parked) ⇄ running → ended          all but the last transition are requested by the event loop at a gate
//! ```
//!
//! What an exit means is decided in `thread`; that a machine has ended, and how, goes to its `outcome`.

mod affinity;
mod clock;
mod core_scheduling;
mod gate;
mod meter;
mod registers;
mod request;
mod scheduling;
mod setup;
mod thread;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hypervisor::{Vcpu, VcpuKicker};
use thiserror::Error;
use vm_model::CoreScheduling;

pub(crate) use affinity::Affinity;
pub use affinity::AffinityError;
pub(crate) use gate::RunRequest;
pub(crate) use meter::Meter;
pub(crate) use request::{VcpuAnswer, VcpuRequest};
pub use setup::CpuSetupError;
pub(crate) use setup::prepare;
pub(crate) use thread::Buses;

use crate::outcome::Outcome;
use gate::VcpuGate;

/// How long a vCPU may take to leave the guest before it is kicked again: a kick may be delayed, never lost.
const KICK_AGAIN: Duration = Duration::from_millis(20);

/// Bytes of stack for a vCPU's thread. Exits are handled in a few frames; pages are committed as they are used.
const STACK_SIZE: usize = 512 * 1024;

/// Why vCPU threads could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// The machine was started before.
    #[error("the machine was started before")]
    Started,
    /// The host gives no thread.
    #[error(
        "could not start the thread of vCPU {index}; the host's or the process's limit of threads may be reached"
    )]
    Thread {
        /// The vCPU.
        index: u8,
        /// The underlying error.
        #[source]
        source: std::io::Error,
    },
}

/// A panic that a test wants to see contained.
#[cfg(any(test, feature = "fault-injection"))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct InjectedPanic {
    /// On which vCPU.
    pub(crate) vcpu: u8,
}

/// The vCPU threads of a started machine. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct RunningVcpus {
    gate: Arc<VcpuGate>,
    kickers: Vec<VcpuKicker>,
    threads: Vec<JoinHandle<()>>,
}

/// What each vCPU thread works with.
#[derive(Clone)]
pub(crate) struct VcpuContext {
    pub(crate) name: String,
    pub(crate) buses: Arc<Buses>,
    pub(crate) outcome: Arc<Outcome>,
    pub(crate) affinity: Arc<Affinity>,
    pub(crate) core_scheduling: CoreScheduling,
    #[cfg(any(test, feature = "fault-injection"))]
    pub(crate) injected_panic: Option<InjectedPanic>,
}

impl RunningVcpus {
    /// Starts a thread for each of `vcpus`, with its meter of the same index.
    ///
    /// # Errors
    /// The host gives no thread; those started are ended and joined.
    pub(crate) fn start(
        vcpus: Vec<Vcpu>,
        meters: &[Arc<Meter>],
        context: &VcpuContext,
        run: RunRequest,
    ) -> Result<Self, StartError> {
        core_scheduling::enter_machine(context.core_scheduling);
        let mut running = Self {
            gate: Arc::new(VcpuGate::new(run)),
            kickers: vcpus.iter().map(Vcpu::kicker).collect(),
            threads: Vec::with_capacity(vcpus.len()),
        };
        for (vcpu, meter) in vcpus.into_iter().zip(meters) {
            let index = vcpu.index();
            let member = gate::Member::join(&running.gate, index);
            let (meter, context) = (meter.clone(), context.clone());
            let spawned = std::thread::Builder::new()
                .name(thread_name(index, &context.name))
                .stack_size(STACK_SIZE)
                .spawn(move || thread::run(vcpu, &member, &meter, &context));
            match spawned {
                Ok(handle) => running.threads.push(handle),
                Err(source) => return Err(StartError::Thread { index, source }),
            }
        }
        Ok(running)
    }

    /// Makes every vCPU leave the guest and wait; `false` when one did not until `deadline`.
    pub(crate) fn park(&self, deadline: Instant) -> bool {
        self.gate.request_run(RunRequest::Park);
        self.kick_until(deadline, VcpuGate::all_parked_or_ended)
    }

    /// Lets parked vCPUs go on.
    pub(crate) fn resume(&self) {
        self.gate.request_run(RunRequest::Run);
    }

    /// Has every vCPU carry out `request`, running or parked, and go on. Returns the answers by vCPU: `None` for one
    /// that did not reach the gate before `deadline`, or whose thread has ended.
    pub(crate) fn ask(&self, request: VcpuRequest, deadline: Instant) -> Vec<Option<VcpuAnswer>> {
        self.gate.begin_round(request, self.kickers.len());
        self.kick_until(deadline, VcpuGate::all_answered);
        self.gate.end_round()
    }

    /// Ends every thread; `false` when one was still there at `deadline`, which is then left to itself.
    pub(crate) fn end(&mut self, deadline: Instant) -> bool {
        self.gate.request_run(RunRequest::End);
        let all_ended = self.kick_until(deadline, VcpuGate::all_ended);
        for thread in self.threads.drain(..) {
            if all_ended || thread.is_finished() {
                // Its panics were caught inside; what is left of the thread is its return.
                let _ = thread.join();
            } else {
                tracing::error!(
                    thread = thread.thread().name(),
                    "a vCPU thread did not end and is left behind"
                );
            }
        }
        all_ended
    }

    fn kick_until(&self, deadline: Instant, reached: impl Fn(&VcpuGate, Instant) -> bool) -> bool {
        loop {
            for kicker in &self.kickers {
                kicker.kick();
            }
            let next_kick = Instant::now() + KICK_AGAIN;
            if reached(&self.gate, next_kick.min(deadline)) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
        }
    }
}

impl Drop for RunningVcpus {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.end(Instant::now() + Duration::from_secs(5));
        }
    }
}

/// The name of a vCPU's thread, in the 15 bytes that the kernel keeps.
fn thread_name(index: u8, machine: &str) -> String {
    let mut name = format!("vcpu{index}:{machine}");
    let mut end = name.len().min(15);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_names_fit_the_kernels_fifteen_bytes() {
        assert_eq!(thread_name(0, "web-1"), "vcpu0:web-1");
        assert_eq!(thread_name(12, "a-machine-with-a-name"), "vcpu12:a-machin");
        assert_eq!(thread_name(0, "äöüäöüäöü").len(), 14);
    }
}
