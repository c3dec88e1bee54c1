//! What the outside holds of a machine: cheap to clone, the same for a machine in this process and in
//! another.

mod pressing;
mod stop;

use std::fmt;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use console_log::{ConsoleRecorder, ConsoleSource};
use tokio::sync::watch;
use tokio::time::timeout;
use vm_model::{
    Bytes, Command, LinkState, MachineCounters, MachineExit, MachineStatus, Reply, ThreadHealth, VcpuDump,
    VmId,
};

pub use stop::{StopError, StopPolicy, StopReport};

use crate::{CommandError, CommandPort, CountersSource, PortClosed, ReplyFuture};

/// How long vCPUs may take to leave the guest for a look at them; a machine's event loop waits meanwhile.
const VCPU_PATIENCE: Duration = Duration::from_secs(1);

/// What a [`MachineHandle`] is made of, by whoever runs the machine.
pub struct HandleParts {
    /// Whose machine it is.
    pub id: VmId,
    /// Where commands go.
    pub port: Box<dyn CommandPort>,
    /// The machine's status, as its thread tells it.
    pub status: watch::Receiver<MachineStatus>,
    /// Whether that thread gets on, as whoever watches it finds.
    pub health: watch::Receiver<ThreadHealth>,
    /// Becomes true, or loses its sender, when the machine is settled and all that it held is given back.
    pub released: watch::Receiver<bool>,
    /// Where counters are read.
    pub counters: Arc<dyn CountersSource>,
    /// What the guest writes.
    pub console: Arc<dyn ConsoleSource>,
    /// How long a command may take.
    pub command_deadline: Duration,
}

/// Where commands to a machine go that has ended.
struct NoPort;

impl CommandPort for NoPort {
    fn call(&self, _command: Command) -> ReplyFuture<'_> {
        Box::pin(ready(Err(PortClosed)))
    }
}

/// The counters of a machine that has ended.
struct LastCounters(MachineCounters);

impl CountersSource for LastCounters {
    fn read(&self) -> MachineCounters {
        self.0.clone()
    }
}

/// One machine, from the outside. What dropping the last clone does to the machine is its host's to say: see
/// [`crate::MachineHost`].
#[derive(Clone)]
pub struct MachineHandle {
    parts: Arc<HandleParts>,
}

impl fmt::Debug for MachineHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MachineHandle")
            .field("id", &self.parts.id)
            .field("status", &*self.parts.status.borrow())
            .finish_non_exhaustive()
    }
}

impl MachineHandle {
    /// A handle of a machine that is reached by `parts`.
    pub fn from_parts(parts: HandleParts) -> Self {
        Self { parts: Arc::new(parts) }
    }

    /// What is known of a machine that has ended, as a handle that holds nothing of its host: the host may forget it.
    pub fn ended(&self) -> Self {
        let parts = &self.parts;
        Self::from_parts(HandleParts {
            id: parts.id.clone(),
            port: Box::new(NoPort),
            status: watch::channel(parts.status.borrow().clone()).1,
            health: watch::channel(*parts.health.borrow()).1,
            released: watch::channel(true).1,
            counters: Arc::new(LastCounters(parts.counters.read())),
            console: Arc::clone(&parts.console),
            command_deadline: parts.command_deadline,
        })
    }

    /// Whose machine it is.
    pub fn id(&self) -> &VmId {
        &self.parts.id
    }

    /// Where commands to the machine go, for hosts that pass on what others ask: no deadline, and replies as they come.
    pub fn port(&self) -> &dyn CommandPort {
        self.parts.port.as_ref()
    }

    /// The machine's status, to be looked at or waited on.
    pub fn status(&self) -> watch::Receiver<MachineStatus> {
        self.parts.status.clone()
    }

    /// Whether the machine's thread gets on, to be looked at or waited on; see [`MachineStatus::is_hung`].
    pub fn health(&self) -> watch::Receiver<ThreadHealth> {
        self.parts.health.clone()
    }

    /// The machine's counters as they are known here; the last ones after it ended. Of a machine in this process they are
    /// those of now, of others those of the last [`MachineHandle::refresh_counters`].
    pub fn counters(&self) -> MachineCounters {
        self.parts.counters.read()
    }

    /// Brings the counters up to date where the machine is in another process; waits no longer than a command may take.
    pub async fn refresh_counters(&self) {
        self.parts.counters.refresh().await;
    }

    /// The machine's console, which outlives the machine.
    pub fn console(&self) -> &Arc<dyn ConsoleSource> {
        &self.parts.console
    }

    /// The machine's console as it is in this process' memory, where the machine is in this process: it can be followed.
    pub fn console_recorder(&self) -> Option<Arc<ConsoleRecorder>> {
        self.parts.console.clone().in_memory()
    }

    /// Parks the vCPUs. Parking parked ones is fine.
    ///
    /// # Errors
    /// The machine is stopping or has ended, the vCPUs did not park, or there was no answer in time.
    pub async fn pause(&self) -> Result<(), CommandError> {
        // The machine gives up first, so that its reason arrives.
        let within = self.parts.command_deadline.mul_f64(0.75);
        self.command(Command::Pause { within }).await
    }

    /// Lets the vCPUs go on. Resuming running ones is fine.
    ///
    /// # Errors
    /// The machine has ended, or there was no answer in time.
    pub async fn resume(&self) -> Result<(), CommandError> {
        self.command(Command::Resume).await
    }

    /// Presses the ACPI power button and leaves it at that; see [`MachineHandle::stop`].
    ///
    /// # Errors
    /// The machine is paused or has ended, or there was no answer in time.
    pub async fn press_power_button(&self) -> Result<(), CommandError> {
        self.command(Command::PressPowerButton).await
    }

    /// Presses the reset button: the machine is rebuilt in place and runs, also a paused one. Returns when the old
    /// machine has ended; how the new one gets on is seen in the status. It is not counted against the guest's own resets.
    ///
    /// # Errors
    /// The machine is stopping or has ended, its resets are not carried out in place, or there was no answer in time.
    pub async fn reset(&self) -> Result<(), CommandError> {
        self.command(Command::Reset).await
    }

    /// Types into the console; answers how many of `bytes`, from the front, there was room for.
    ///
    /// # Errors
    /// The machine has ended, or there was no answer in time.
    pub async fn write_console(&self, bytes: Vec<u8>) -> Result<usize, CommandError> {
        let command = Command::WriteConsole { bytes };
        let kind = command.kind();
        match self.call(command, self.parts.command_deadline).await? {
            Reply::Written { accepted } => Ok(accepted),
            Reply::Done | Reply::Vcpus { .. } | Reply::Denied { .. } | Reply::Failed { .. } => {
                Err(CommandError::Unexpected { vm: self.id().clone(), command: kind })
            }
        }
    }

    /// Tells the guest the size of the terminal behind its virtio console. The size outlasts resets in place.
    ///
    /// # Errors
    /// The machine has no virtio console or has ended, or there was no answer in time.
    pub async fn resize_console(&self, columns: u16, rows: u16) -> Result<(), CommandError> {
        self.command(Command::ResizeConsole { columns, rows }).await
    }

    /// Queues a non-maskable interrupt on every vCPU. Linux makes a crash dump of it where it is told to by
    /// `kernel.unknown_nmi_panic`.
    ///
    /// # Errors
    /// A vCPU did not take it in time, the machine has ended, or there was no answer in time.
    pub async fn inject_nmi(&self) -> Result<(), CommandError> {
        self.command(Command::InjectNmi { within: self.patience_with_vcpus() }).await
    }

    /// Where every vCPU is, by index; the machine goes on. One that does not leave the guest or a device within a
    /// second is reported as silent.
    ///
    /// # Errors
    /// The machine has ended, or there was no answer in time.
    pub async fn dump_vcpus(&self) -> Result<Vec<VcpuDump>, CommandError> {
        let command = Command::DumpVcpus { within: self.patience_with_vcpus() };
        let kind = command.kind();
        match self.call(command, self.parts.command_deadline).await? {
            Reply::Vcpus { vcpus } => Ok(vcpus),
            Reply::Done | Reply::Written { .. } | Reply::Denied { .. } | Reply::Failed { .. } => {
                Err(CommandError::Unexpected { vm: self.id().clone(), command: kind })
            }
        }
    }

    /// The machine gives up first, so that what it found arrives.
    fn patience_with_vcpus(&self) -> Duration {
        self.parts.command_deadline.mul_f64(0.75).min(VCPU_PATIENCE)
    }

    /// Asks the guest to give up `size` of its memory from now on. Whether it did is seen in the counters. After a reset
    /// in place it is what the description says again.
    ///
    /// # Errors
    /// The machine has no balloon, less memory or has ended, or there was no answer in time.
    pub async fn set_balloon(&self, size: Bytes) -> Result<(), CommandError> {
        self.command(Command::SetBalloon { size }).await
    }

    /// Takes the link of interface `nic` up or down, until the machine ends; resets in place do not change it.
    ///
    /// # Errors
    /// There is no such interface, the machine has ended, or there was no answer in time.
    pub async fn set_link(&self, nic: String, link: LinkState) -> Result<(), CommandError> {
        self.command(Command::SetLink { nic, link }).await
    }

    /// Asks the guest to tell the network behind interface `nic` where it is.
    ///
    /// # Errors
    /// There is no such interface, its driver does not know how, the machine has ended, or there was no answer in time.
    pub async fn announce(&self, nic: String) -> Result<(), CommandError> {
        self.command(Command::Announce { nic }).await
    }

    /// How the machine ended, when it has. What it held may not be given back yet.
    pub async fn exited(&self) -> MachineExit {
        let mut status = self.status();
        let ended = status.wait_for(|status| status.phase.exit().is_some()).await;
        ended
            .ok()
            .and_then(|status| status.phase.exit().cloned())
            .unwrap_or_else(|| MachineExit::Failed("its host went away".to_owned()))
    }

    /// Returns when the machine is settled (no I/O of it is in flight that may still change a disk) and all that it held
    /// (descriptors, threads, memory) is given back. That can take as long as its slowest disk takes to answer, and
    /// depends on no other machine.
    pub async fn released(&self) {
        // An error is a sender that is gone, which is as good.
        let _ = self.parts.released.clone().wait_for(|released| *released).await;
    }

    /// How the machine ended, if it has.
    pub(crate) fn exit_now(&self) -> Option<MachineExit> {
        self.parts.status.borrow().phase.exit().cloned()
    }

    pub(crate) fn command_deadline(&self) -> Duration {
        self.parts.command_deadline
    }

    async fn command(&self, command: Command) -> Result<(), CommandError> {
        self.call(command, self.parts.command_deadline).await.map(drop)
    }

    /// Sends `command`; turns replies that are refusals into errors.
    pub(crate) async fn call(&self, command: Command, deadline: Duration) -> Result<Reply, CommandError> {
        let vm = self.id().clone();
        let kind = command.kind();
        let reply = timeout(deadline, self.parts.port.call(command)).await;
        match reply {
            Err(_) => Err(CommandError::Deadline { vm, command: kind, deadline }),
            Ok(Err(_)) => Err(CommandError::Ended { vm, command: kind }),
            Ok(Ok(Reply::Denied { phase })) => Err(CommandError::Denied { vm, command: kind, phase }),
            Ok(Ok(Reply::Failed { reason })) => Err(CommandError::Failed { vm, command: kind, reason }),
            Ok(Ok(reply @ (Reply::Done | Reply::Written { .. } | Reply::Vcpus { .. }))) => Ok(reply),
        }
    }
}
