//! Whether a machine's guest is well: its monitor, and what follows from what that finds.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use console_log::ConsoleFiles;
use health::{Beginning, ConsoleTarget, HealthMonitor, MonitorRequest, ProbeTargets, VsockDirectory};
use machine_host::MachineHandle;
use tokio::sync::watch;
use tracing::{error, warn};
use vm_model::{Health, HealthSpec, ProbeCheck};

use super::context::HostContext;
use super::step::RunState;
use super::task::Task;
use crate::failure::chain;
use crate::records::{console_directory, socket_directory};

/// What a definition says about its guest's health, and what has to be known before its machine is launched.
#[derive(Clone, Debug)]
pub(super) struct Watching {
    pub(super) spec: HealthSpec,
    /// The newest boot on the console's files before the launch.
    pub(super) console_after: Option<u32>,
}

impl Watching {
    /// What to watch of a VM that is about to be launched. Reads files.
    pub(super) fn before_launch(context: &HostContext, id: &vm_model::VmId, spec: HealthSpec) -> Self {
        let reads_console = spec.probes.iter().any(|probe| matches!(probe.check, ProbeCheck::Console { .. }));
        let files = reads_console.then(|| console_directory(&context.records.directory(id)));
        // Where nothing can be read, nothing older can be mistaken for this boot's either.
        let newest = files.and_then(|files| ConsoleFiles::open(&files).ok()?.newest().ok()?);
        Self { spec, console_after: newest }
    }
}

/// How often a guest can have its record written: so often at once, and once more after each pause. What a guest says of
/// itself can change many times a second.
#[derive(Debug)]
pub(super) struct WriteBudget {
    left: u32,
    counted: Instant,
}

impl WriteBudget {
    const BURST: u32 = 16;
    const PAUSE: Duration = Duration::from_secs(10);

    pub(super) fn new(now: Instant) -> Self {
        Self { left: Self::BURST, counted: now }
    }

    /// Whether one more may be written at `now`.
    fn take(&mut self, now: Instant) -> bool {
        let pauses = now.saturating_duration_since(self.counted).as_secs() / Self::PAUSE.as_secs();
        if pauses > 0 {
            self.left = self.left.saturating_add(u32::try_from(pauses).unwrap_or(u32::MAX)).min(Self::BURST);
            self.counted = now;
        }
        self.left.checked_sub(1).inspect(|left| self.left = *left).is_some()
    }
}

/// A guest that is watched.
#[derive(Debug)]
pub(super) struct WatchedGuest {
    health: watch::Receiver<Health>,
    /// Whether the monitor tells anything any more.
    is_told: bool,
    /// Ends when it is dropped.
    _monitor: HealthMonitor,
}

impl WatchedGuest {
    /// Begins to watch the guest of `machine`.
    pub(super) fn begin(
        context: &HostContext,
        machine: &MachineHandle,
        address: Option<Ipv4Addr>,
        watching: Watching,
        beginning: Beginning,
    ) -> Result<Self, String> {
        let Watching { spec, console_after } = watching;
        let directory = context.records.directory(machine.id());
        let console = machine.console_recorder().map(ConsoleTarget::Memory).unwrap_or_else(|| {
            ConsoleTarget::Files { directory: console_directory(&directory), after: console_after }
        });
        let needs_sockets = spec.probes.iter().any(|probe| match probe.check {
            ProbeCheck::Vsock { .. } | ProbeCheck::Systemd { .. } => true,
            ProbeCheck::Console { .. } | ProbeCheck::Tcp { .. } | ProbeCheck::Http(_) => false,
        });
        let vsock = needs_sockets.then(|| VsockDirectory::open(&socket_directory(&directory)));
        let vsock = vsock.transpose().map_err(|problem| format!("its sockets cannot be used: {problem}"))?;
        let monitor = HealthMonitor::spawn(MonitorRequest {
            vm: machine.id().clone(),
            spec,
            targets: ProbeTargets { address, vsock, console: Some(console) },
            status: machine.status(),
            beginning,
            permits: context.probes.clone(),
        });
        let monitor = monitor.map_err(|problem| chain(&problem))?;
        Ok(Self { health: monitor.health(), is_told: true, _monitor: monitor })
    }

    /// Returns when something else is known of the guest. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        if self.is_told && self.health.changed().await.is_ok() {
            return;
        }
        self.is_told = false;
        std::future::pending().await
    }

    /// How the guest is.
    pub(super) fn health(&self) -> Health {
        self.health.borrow().clone()
    }
}

impl Task {
    /// Begins to watch the guest of the machine that runs. Where that fails, the VM goes on and says so.
    pub(super) fn watch_guest(&mut self, watching: Option<Watching>, beginning: Beginning) {
        let (RunState::Up { machine, .. }, Some(watching)) = (&mut self.state, watching) else { return };
        if let Err(problem) = machine.watch_guest(&self.context, watching, beginning) {
            warn!(vm_id = %self.id, problem, "its guest's health is not watched");
            let warning = format!("its guest's health is not watched: {problem}");
            self.info.send_modify(|info| info.warnings.push(warning));
        }
    }

    /// Watches the guest of a machine that runs already by `spec`, in place of what was watched before.
    pub(super) fn watch_guest_anew(&mut self, spec: Option<HealthSpec>) {
        let RunState::Up { machine, .. } = &mut self.state else { return };
        machine.unwatch_guest();
        self.info.send_if_modified(|info| info.health.take().is_some());
        let known = self.record.value().health.clone();
        let watching = spec.map(|spec| Watching { spec, console_after: None });
        self.watch_guest(watching, Beginning::Adopted(known));
    }

    /// Tells how the guest is, and keeps what a later worker could not find out again; why it is held to be dead, if it is.
    pub(super) async fn look_at_guest(&mut self) -> Option<String> {
        let RunState::Up { machine, .. } = &self.state else { return None };
        let health = machine.guest_health()?;
        let dead = health.dead.clone();
        self.info.send_if_modified(|info| {
            let is_new = info.health.as_deref() != Some(&health);
            if is_new {
                info.health = Some(Box::new(health.clone()));
            }
            is_new
        });
        let gist = |health: &Health| {
            let systemd = health.systemd.as_ref().map(|told| told.ready);
            (health.ready, health.boot, systemd, health.dead.is_some())
        };
        let is_new = self.record.value().health.as_deref().map(gist) != Some(gist(&health));
        if is_new && self.health_writes.take(Instant::now()) {
            let kept = self.record.update(|record| record.health = Some(Box::new(health)));
            if let Err(problem) = kept.await {
                error!(vm_id = %self.id, error = problem.message, "how its guest is was not kept");
            }
        }
        dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_its_record_written_now_and_then_only() {
        let start = Instant::now();
        let mut budget = WriteBudget::new(start);
        let written = (0..1000).filter(|_| budget.take(start)).count();
        assert_eq!(written, 16);
        let later = start + Duration::from_secs(25);
        assert_eq!((0..1000).filter(|_| budget.take(later)).count(), 2);
        let much_later = start + Duration::from_secs(10_000);
        assert_eq!((0..1000).filter(|_| budget.take(much_later)).count(), 16);
    }
}
