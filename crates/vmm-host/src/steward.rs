//! The one that is in charge of a machine on its thread: carries out what the mailbox brings, keeps the
//! status, and tells the launch when the machine is under way.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{oneshot, watch};
use vm_model::{MachinePhase, VmId};

use crate::admission::{Admission, admit, phase_after};
use crate::engine::{Cause, Controls, Driver, Event, Flow, Turn};
use crate::error::{LaunchFailure, chain};
use crate::heartbeat::Heartbeat;
use crate::mailbox::Inbox;
use crate::slow_turns::SlowTurns;
use crate::{Command, CommandKind, MachineStatus, Reply};

/// Commands carried out in one turn, so that a flood of them does not keep the machine's devices waiting.
const COMMANDS_A_TURN: usize = 16;

/// Drives one machine.
pub(crate) struct Steward {
    /// Whose machine it is, for messages.
    pub(crate) id: VmId,
    pub(crate) inbox: Inbox,
    /// Its one writer is the machine's thread, but for [`MachineStatus::hung`], which that cannot know.
    pub(crate) status: watch::Sender<MachineStatus>,
    /// Moved on at each turn of the machine's event loop.
    pub(crate) heartbeat: Arc<Heartbeat>,
    /// When the machine was asked for.
    pub(crate) requested: Instant,
    /// Who waits for the machine to be under way.
    pub(crate) under_way: Option<oneshot::Sender<Result<(), LaunchFailure>>>,
    pub(crate) slow_turns: SlowTurns,
    /// The last command of the present turn.
    pub(crate) last_command: Option<CommandKind>,
}

impl Steward {
    /// Tells the launch that the machine is under way.
    pub(crate) fn announce(&mut self, phase: MachinePhase) {
        self.set_phase(phase);
        if let Some(waiting) = self.under_way.take() {
            // A launch that was given up dropped its port too, which the inbox tells.
            let _ = waiting.send(Ok(()));
        }
    }

    fn phase(&self) -> MachinePhase {
        self.status.borrow().phase
    }

    fn set_phase(&self, phase: MachinePhase) {
        self.status.send_if_modified(|status| std::mem::replace(&mut status.phase, phase) != phase);
    }

    fn carry_out(&self, command: &Command, controls: &mut dyn Controls) -> Reply {
        let phase = self.phase();
        match admit(phase, command.kind()) {
            Admission::AlreadySo => Reply::Done,
            Admission::Deny => Reply::Denied { phase },
            Admission::Perform => self
                .perform(command, controls)
                .unwrap_or_else(|cause| Reply::Failed { reason: chain(cause.as_ref()) }),
        }
    }

    /// Carries out an admitted command. The phase follows each step that worked, so that it stays true where
    /// a later one fails.
    fn perform(&self, command: &Command, controls: &mut dyn Controls) -> Result<Reply, Cause> {
        match command {
            Command::Pause { within } => controls.pause(*within)?,
            Command::Resume => controls.resume()?,
            Command::PressPowerButton => controls.press_power_button()?,
            Command::RequestShutdown => {
                if self.phase() == MachinePhase::Paused {
                    controls.resume()?;
                    self.set_phase(MachinePhase::Running);
                }
                controls.press_power_button()?;
            }
            Command::ResizeConsole { columns, rows } => controls.resize_console(*columns, *rows)?,
            Command::SetBalloon { size } => controls.set_balloon(*size)?,
            Command::SetLink { nic, link } => controls.set_link(nic, *link)?,
            Command::Announce { nic } => controls.announce(nic)?,
            Command::WriteConsole { bytes } => {
                let accepted = controls.write_console(bytes);
                return Ok(Reply::Written { accepted });
            }
            Command::InjectNmi { within } => controls.inject_nmi(*within)?,
            Command::DumpVcpus { within } => {
                return Ok(Reply::Vcpus { vcpus: controls.dump_vcpus(*within)? });
            }
            // The mailbox's: it never arrives as a command.
            Command::Kill => {}
        }
        self.set_phase(phase_after(self.phase(), command.kind()));
        Ok(Reply::Done)
    }
}

impl Driver for Steward {
    fn turning(&mut self) {
        self.heartbeat.begin();
        self.last_command = None;
    }

    fn turned(&mut self, turn: &Turn<'_>) {
        self.heartbeat.end();
        if let Some(untold) = self.slow_turns.note(turn.took, Instant::now()) {
            tracing::warn!(
                vm = %self.id,
                took = ?turn.took,
                handler = %turn.slowest,
                handler_took = ?turn.slowest_took,
                last_command = ?self.last_command,
                untold,
                "a turn of the machine's event loop kept everything else of it waiting"
            );
        }
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.inbox.wake_fd()
    }

    fn woken(&mut self, controls: &mut dyn Controls) -> Flow {
        self.inbox.silence();
        for _ in 0..COMMANDS_A_TURN {
            if self.inbox.is_killed() {
                self.set_phase(MachinePhase::Stopping);
                return Flow::Kill;
            }
            let Some(envelope) = self.inbox.take() else {
                return Flow::Continue;
            };
            self.last_command = Some(envelope.command.kind());
            let reply = self.carry_out(&envelope.command, controls);
            envelope.answer(reply);
        }
        // There may be more: come back after the devices had their turn.
        self.inbox.ring();
        Flow::Continue
    }

    fn event(&mut self, event: Event) {
        let since_request = |at: Instant| Some(at.saturating_duration_since(self.requested));
        match event {
            Event::FirstEntry { at } => {
                let elapsed = since_request(at);
                self.status.send_modify(|status| status.timings.first_entry = elapsed);
                // A machine that was launched paused was announced when it was parked.
                if self.phase() == MachinePhase::Booting {
                    self.announce(MachinePhase::Running);
                }
            }
            Event::FirstConsoleByte { at } => {
                let elapsed = since_request(at);
                self.status.send_modify(|status| status.timings.first_console_byte = elapsed);
            }
            Event::GuestPanicked(panic) => self.status.send_modify(|status| status.panic = Some(panic)),
        }
    }
}

#[cfg(test)]
mod tests;
