//! The task that watches one VM's guest: runs probes when they are due, hears what the guest reports, and publishes what
//! that amounts to.
//!
//! The task is the one writer of the VM's [`Health`]. Probes that ask the guest run beside it, at most one of each at a
//! time, and of all VMs together no more than the [`ProbePermits`] allow; console and reports have a task each, whose events
//! come over a bounded channel. All end with the monitor.

mod boot;
mod publish;
mod reports;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use vm_model::{Health, HealthSpec, MachineStatus, ProbeCheck, Timestamp, VmId};

use self::boot::{Boot, guest_of};
use self::publish::publish;
use self::reports::{Report, Reports};
use crate::finding::Finding;
use crate::notify::NotifyError;
use crate::probe::ask;
use crate::state::{Guest, HealthState, Ticket};
use crate::targets::ProbeTargets;

/// How many probes ask guests at the same time where nothing else is said, of all VMs together. Each costs a descriptor.
pub const PROBES_AT_ONCE: usize = 256;
/// How long the task sleeps at most where nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// How many probes ask guests at the same time; shared by all monitors of a host.
#[derive(Clone, Debug)]
pub struct ProbePermits(Arc<Semaphore>);

impl ProbePermits {
    /// So many at the same time, and at least one.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS))))
    }
}

impl Default for ProbePermits {
    fn default() -> Self {
        Self::new(PROBES_AT_ONCE)
    }
}

/// How the guest came under this worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It boots now.
    Launched,
    /// It ran under an earlier worker, which published this last; `None` where that is not known.
    Adopted(Option<Box<Health>>),
}

/// What to watch.
#[derive(Debug)]
pub struct MonitorRequest {
    /// Whose guest it is.
    pub vm: VmId,
    /// Its probes.
    pub spec: HealthSpec,
    /// Where they find it.
    pub targets: ProbeTargets,
    /// What its machine's thread tells. The monitor ends when the machine has.
    pub status: watch::Receiver<MachineStatus>,
    /// How it came under this worker.
    pub beginning: Beginning,
    /// Shared by all monitors of a host.
    pub permits: ProbePermits,
}

/// Watches one VM's guest until it is dropped or the machine ends.
#[derive(Debug)]
pub struct HealthMonitor {
    health: watch::Receiver<Health>,
    task: JoinHandle<()>,
}

impl HealthMonitor {
    /// Begins to watch. To be called on a runtime, and before the machine is launched where systemd is listened to, so that
    /// no report is lost.
    ///
    /// # Errors
    /// The socket for the reports of systemd cannot be made.
    pub fn spawn(request: MonitorRequest) -> Result<Self, NotifyError> {
        let reports = Reports::new(&request)?;
        let mut state = HealthState::new(&request.vm, &request.spec);
        let mut boot = Boot::begin(&request.status.borrow());
        if let Beginning::Adopted(known) = request.beginning
            && let Some(known) = boot.adopt(known.map(|known| *known))
        {
            state.carry_over(known);
        }
        let (sender, health) = watch::channel(Health::unknown(Timestamp::now()));
        let watching = Watch {
            spec: request.spec,
            targets: request.targets,
            permits: request.permits,
            status: request.status,
            state,
            boot,
            reports,
            running: JoinSet::new(),
            since: Instant::now(),
            health: sender,
        };
        Ok(Self { health, task: tokio::spawn(watching.run()) })
    }

    /// How the guest is. The sender is gone once the machine has ended; the last value stays.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Ends the watch and returns when nothing of it is left.
    pub async fn stop(mut self) {
        self.task.abort();
        // It was aborted, or had ended.
        let _ = (&mut self.task).await;
    }
}

impl Drop for HealthMonitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task's own.
struct Watch {
    spec: HealthSpec,
    targets: ProbeTargets,
    permits: ProbePermits,
    status: watch::Receiver<MachineStatus>,
    state: HealthState,
    boot: Boot,
    reports: Reports,
    /// Probes that ask the guest.
    running: JoinSet<(Ticket, Finding)>,
    /// The beginning of all moments.
    since: Instant,
    health: watch::Sender<Health>,
}

impl Watch {
    async fn run(mut self) {
        self.reports.watch_console(&self.status.borrow());
        while self.observe() {
            self.run_due();
            publish(&self.health, &self.state, &self.boot);
            self.wait().await;
        }
        self.running.shutdown().await;
    }

    /// Waits for the next thing, and takes it in. Reports go first: one that was sent before a reset is not taken for one
    /// after it.
    async fn wait(&mut self) {
        let due = self.state.next_due().map_or_else(|| Instant::now() + IDLE, |due| self.since + due);
        // All arms are cancel-safe.
        tokio::select! {
            biased;
            Some(report) = self.reports.next() => self.take(report),
            changed = self.status.changed() => if changed.is_err() {
                // Whoever ran the machine is gone; nothing is known of it any more.
                self.boot.end();
            },
            Some(ended) = self.running.join_next() => if let Ok((ticket, finding)) = ended {
                self.state.finish(ticket, finding, self.since.elapsed());
            },
            () = sleep_until(due) => {}
        }
    }

    /// Takes note of what the machine does; false once it has ended.
    fn observe(&mut self) -> bool {
        let status = self.status.borrow_and_update().clone();
        if self.boot.is_over(&status) {
            return false;
        }
        if self.boot.is_another(&status) {
            self.running.abort_all();
            self.boot = Boot::begin(&status);
            self.state.rebooted();
            self.reports.rebooted(&status);
        }
        let guest = guest_of(&status);
        if guest != Guest::Running {
            // A guest that stands still is not to be asked, and not to be failed for an answer that it owes.
            self.running.abort_all();
        }
        self.state.observe(guest, self.since.elapsed());
        true
    }

    /// Begins the runs that are due. What the guest reports by itself is answered at once.
    fn run_due(&mut self) {
        loop {
            let now = self.since.elapsed();
            let due = self.state.take_due(now);
            if due.is_empty() {
                return;
            }
            for ticket in due {
                let Some(probe) = self.spec.probes.get(ticket.probe) else { continue };
                match self.boot.known(ticket.probe, &probe.check) {
                    Some(finding) => self.state.finish(ticket, finding, now),
                    None => self.ask(ticket, probe.check.clone(), probe.timing.timeout),
                }
            }
        }
    }

    fn ask(&mut self, ticket: Ticket, check: ProbeCheck, within: Duration) {
        let (targets, permits) = (self.targets.clone(), self.permits.clone());
        self.running.spawn(async move {
            // The semaphore is never closed. Waiting for a turn does not count as the guest's time.
            let _permit = permits.0.acquire().await;
            (ticket, Finding::from(ask(&check, &targets, within).await))
        });
    }

    fn take(&mut self, report: Report) {
        let now = self.since.elapsed();
        match report {
            Report::Marker(probe) => {
                self.boot.found(probe);
                self.state.hasten(probe, now);
            }
            Report::Systemd(message) => {
                self.boot.heard(message);
                for (place, probe) in self.spec.probes.iter().enumerate() {
                    if matches!(probe.check, ProbeCheck::Systemd { .. }) {
                        self.state.hasten(place, now);
                    }
                }
            }
        }
    }
}
