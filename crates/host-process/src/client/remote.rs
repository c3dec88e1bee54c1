//! A machine in a host process, as this process knows it, and what its handle is made of.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use console_log::ConsoleSource;
use machine_host::{
    BoxFuture, CommandPort, CountersSource, HandleParts, MachineHandle, PortClosed, ReplyFuture,
};
use tokio::sync::watch;
use tokio::time::timeout;
use vm_model::{
    Command, MachineCounters, MachineExit, MachinePhase, MachineStatus, Reply, ThreadHealth, VmId,
};

use super::line::ProcessLine;

/// What is known of one machine. Written by the task of its process alone.
#[derive(Debug)]
pub(super) struct RemoteMachine {
    pub(super) id: VmId,
    status: watch::Sender<MachineStatus>,
    health: watch::Sender<ThreadHealth>,
    /// What its process told last of its thread, and whether the process answers. Replaced whole: a poisoned lock is used on.
    told: Mutex<Told>,
    released: watch::Sender<bool>,
    /// When it was first seen to have ended.
    ended: OnceLock<Instant>,
    /// The newest reading. Replaced whole: a poisoned lock is used on.
    counters: Mutex<MachineCounters>,
}

#[derive(Debug)]
struct Told {
    health: ThreadHealth,
    is_silent: bool,
}

impl RemoteMachine {
    pub(super) fn new(id: VmId, status: MachineStatus, health: ThreadHealth) -> Arc<Self> {
        let machine = Self {
            id,
            status: watch::Sender::new(MachineStatus::booting()),
            health: watch::Sender::new(health),
            told: Mutex::new(Told { health, is_silent: false }),
            released: watch::Sender::new(false),
            ended: OnceLock::new(),
            counters: Mutex::default(),
        };
        machine.set_status(status);
        Arc::new(machine)
    }

    pub(super) fn set_status(&self, status: MachineStatus) {
        if status.phase.exit().is_some() {
            self.ended.get_or_init(Instant::now);
        }
        self.status.send_if_modified(|told| {
            let is_new = *told != status;
            *told = status;
            is_new
        });
    }

    pub(super) fn set_health(&self, health: ThreadHealth) {
        self.tell_health(|told| told.health = health);
    }

    /// Its process does not answer, or does again.
    pub(super) fn set_silent(&self, is_silent: bool) {
        self.tell_health(|told| told.is_silent = is_silent);
    }

    fn tell_health(&self, change: impl FnOnce(&mut Told)) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut told);
        let health = if told.is_silent { ThreadHealth::Hung } else { told.health };
        self.health.send_if_modified(|shown| std::mem::replace(shown, health) != health);
    }

    pub(super) fn set_counters(&self, counters: MachineCounters) {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner) = counters;
    }

    /// The machine has ended by `exit`, unless its process told how.
    pub(super) fn end(&self, exit: MachineExit) {
        if !self.has_ended() {
            let status = self.status.borrow().clone();
            self.set_status(MachineStatus {
                phase: MachinePhase::Exited(exit),
                disk_trouble: None,
                ..status
            });
        }
    }

    pub(super) fn release(&self) {
        self.released.send_replace(true);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    /// How long ago it ended, as far as it has.
    pub(super) fn ended_for(&self) -> Option<Duration> {
        self.ended.get().map(Instant::elapsed)
    }

    /// What keeps it from giving back what it held, as its process told last.
    pub(super) fn obstacle(&self) -> Option<String> {
        self.status.borrow().obstacle.clone()
    }

    pub(super) fn is_released(&self) -> bool {
        *self.released.borrow()
    }

    /// A handle of this machine. When its last clone is dropped the machine goes on, and is forgotten once it has ended.
    pub(super) fn handle(
        self: &Arc<Self>,
        line: Arc<ProcessLine>,
        console: Arc<dyn ConsoleSource>,
        command_deadline: Duration,
    ) -> MachineHandle {
        let counters = RemoteCounters { machine: self.clone(), line: line.clone(), command_deadline };
        MachineHandle::from_parts(HandleParts {
            id: self.id.clone(),
            port: Box::new(RemotePort { machine: self.clone(), line }),
            status: self.status.subscribe(),
            health: self.health.subscribe(),
            released: self.released.subscribe(),
            counters: Arc::new(counters),
            console,
            command_deadline,
        })
    }
}

struct RemotePort {
    machine: Arc<RemoteMachine>,
    line: Arc<ProcessLine>,
}

impl RemotePort {
    async fn exchange(&self, command: Command) -> Result<Reply, PortClosed> {
        if command != Command::Kill {
            return self.line.command(&self.machine.id, command).await;
        }
        if self.machine.has_ended() {
            return Err(PortClosed);
        }
        self.line.kill(&self.machine.id);
        Ok(Reply::Done)
    }
}

impl CommandPort for RemotePort {
    fn call(&self, command: Command) -> ReplyFuture<'_> {
        Box::pin(self.exchange(command))
    }
}

impl Drop for RemotePort {
    fn drop(&mut self) {
        self.line.let_go(&self.machine.id);
    }
}

struct RemoteCounters {
    machine: Arc<RemoteMachine>,
    line: Arc<ProcessLine>,
    command_deadline: Duration,
}

impl RemoteCounters {
    async fn bring_up_to_date(&self) {
        // The last reading comes by itself.
        if !self.machine.is_released()
            && let Ok(Some(counters)) =
                timeout(self.command_deadline, self.line.counters(&self.machine.id)).await
        {
            self.machine.set_counters(counters);
        }
        self.measure_host();
    }

    /// Adds what the process takes of the host, where the machine has it for itself.
    fn measure_host(&self) {
        let Some(usage) = self.line.confinement().usage() else { return };
        let mut counters = self.machine.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.host = Some(usage);
    }
}

impl CountersSource for RemoteCounters {
    fn read(&self) -> MachineCounters {
        self.machine.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn refresh(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.bring_up_to_date())
    }
}
