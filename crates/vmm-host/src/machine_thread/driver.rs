//! Drives a machine on its thread, and the machines that follow it in place: carries out the commands of the mailbox,
//! keeps the status, and answers the launch when the machine is under way.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use machine_host::LaunchFailure;
use tokio::sync::{oneshot, watch};
use vm_model::{
    BootTimings, Command, CommandKind, MachinePhase, MachineStatus, PowerButton, Reply, ResetPolicy, VmId,
    error_chain,
};

use super::admission::{Admission, admit, phase_after};
use super::boot_files::BootFiles;
use super::renewal::ResetBy;
use super::slow_turns::SlowTurns;
use super::standing_orders::StandingOrders;
use crate::engine::{Controls, Driver, Event, Flow, TurnReport};
use crate::error::Cause;
use crate::heartbeat::Heartbeat;
use crate::mailbox::{Envelope, Inbox};

/// Commands carried out in one turn, so that a flood of them does not keep the machine's devices waiting.
const COMMANDS_A_TURN: usize = 16;

/// Drives one machine.
pub(crate) struct MachineDriver {
    /// Whose machine it is, for messages.
    pub(crate) id: VmId,
    pub(crate) inbox: Inbox,
    pub(crate) status: watch::Sender<MachineStatus>,
    /// Moved on at each turn of the machine's event loop.
    pub(crate) heartbeat: Arc<Heartbeat>,
    /// When the machine was requested, or its latest rebuild in place began.
    pub(crate) requested: Instant,
    /// Answers the launch that waits for the machine to be under way; taken once it is answered.
    pub(crate) under_way: Option<oneshot::Sender<Result<(), LaunchFailure>>>,
    pub(crate) slow_turns: SlowTurns,
    /// The last command of the present turn.
    pub(crate) last_command: Option<CommandKind>,
    /// Whether the reset button works.
    pub(crate) resets: ResetPolicy,
    /// What it boots from, as that was verified.
    pub(crate) boot_files: BootFiles,
    /// The command that pressed the reset button, to be answered when the machine has ended.
    pub(crate) button: Option<Envelope>,
    pub(crate) orders: StandingOrders,
}

impl MachineDriver {
    /// The machine has ended and another is about to take its place.
    pub(crate) fn begin_again(&mut self, by: ResetBy, console_start: u64) {
        self.requested = Instant::now();
        self.inbox.forget_console_news();
        self.status.send_modify(|status| {
            let count = match by {
                ResetBy::Guest => &mut status.resets.by_guest,
                ResetBy::Button => &mut status.resets.by_button,
            };
            *count = count.saturating_add(1);
            status.phase = MachinePhase::Booting;
            status.timings = BootTimings::default();
            status.console_start = console_start;
            status.panic = None;
            status.stands_still = false;
            status.boot_trouble = None;
            status.disk_trouble = None;
            status.power_button = PowerButton::Untouched;
        });
        if let Some(pressed) = self.button.take() {
            pressed.answer(Reply::Done);
        }
    }

    /// Answers the launch, as the machine is under way in `phase`, and wakes the event loop for commands that came
    /// meanwhile.
    pub(crate) fn announce(&mut self, phase: MachinePhase) {
        self.set_phase(phase);
        self.inbox.ring();
        if let Some(waiting) = self.under_way.take() {
            // A launch that was given up dropped its port too, which the inbox tells.
            let _ = waiting.send(Ok(()));
        }
    }

    fn phase(&self) -> MachinePhase {
        self.status.borrow().phase.clone()
    }

    fn set_phase(&self, phase: MachinePhase) {
        self.status.send_if_modified(|status| {
            let is_new = status.phase != phase;
            status.phase = phase;
            is_new
        });
    }

    fn carry_out(&mut self, envelope: Envelope, controls: &mut dyn Controls) -> Flow {
        let (phase, kind) = (self.phase(), envelope.command.kind());
        let in_trouble = self.status.borrow().disk_trouble.is_some();
        let reply = match (admit(&phase, kind), kind, self.resets) {
            // Nobody paused it, and yet its vCPUs wait: for a disk, which is tried again at once.
            (Admission::AlreadySo, CommandKind::Resume, _) if in_trouble => match controls.resume() {
                Ok(()) => Reply::Done,
                Err(cause) => Reply::Failed { reason: error_chain(cause.as_ref()) },
            },
            (Admission::AlreadySo, _, _) => Reply::Done,
            (Admission::Deny, _, _) => Reply::Denied { phase },
            (Admission::Perform, CommandKind::Reset, ResetPolicy::InPlace(_)) => {
                match self.boot_files.difference() {
                    None => {
                        self.button = Some(envelope);
                        return Flow::Kill;
                    }
                    Some(changed) => Reply::Failed { reason: format!("{changed}; a new start verifies it") },
                }
            }
            (Admission::Perform, CommandKind::Reset, ResetPolicy::EndsMachine) => {
                Reply::Failed { reason: "it was launched as one whose resets end it".to_owned() }
            }
            (Admission::Perform, _, _) => self
                .perform(&envelope.command, controls)
                .unwrap_or_else(|cause| Reply::Failed { reason: error_chain(cause.as_ref()) }),
        };
        envelope.answer(reply);
        Flow::Continue
    }

    /// Carries out an admitted command. The phase follows each step that worked, so that it stays true where
    /// a later one fails.
    fn perform(&mut self, command: &Command, controls: &mut dyn Controls) -> Result<Reply, Cause> {
        match command {
            Command::Pause { within } => controls.pause(*within)?,
            Command::Resume => controls.resume()?,
            Command::PressPowerButton => self.press_power_button(controls)?,
            Command::RequestShutdown => {
                if self.phase() == MachinePhase::Paused {
                    controls.resume()?;
                    self.set_phase(MachinePhase::Running);
                }
                self.press_power_button(controls)?;
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
            // The one ends the machine, which others do, and the other is the mailbox's: it never arrives as a command.
            Command::Reset | Command::Kill => {}
        }
        self.orders.note(command);
        self.set_phase(phase_after(&self.phase(), command.kind()));
        Ok(Reply::Done)
    }

    fn press_power_button(&mut self, controls: &mut dyn Controls) -> Result<(), Cause> {
        controls.press_power_button()?;
        // What the guest reads of it is told in a later turn.
        self.status.send_modify(|status| status.power_button = PowerButton::Pressed);
        Ok(())
    }
}

impl Driver for MachineDriver {
    fn turning(&mut self) {
        self.heartbeat.begin();
        self.last_command = None;
    }

    fn turned(&mut self, turn: &TurnReport<'_>) {
        self.heartbeat.end();
        if let Some(suppressed) = self.slow_turns.note(turn.took, Instant::now) {
            tracing::warn!(
                vm_id = %self.id,
                took = ?turn.took,
                handler = %turn.slowest,
                handler_took = ?turn.slowest_took,
                last_command = ?self.last_command,
                suppressed,
                "a turn of the machine's event loop kept everything else of it waiting"
            );
        }
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.inbox.wake_fd()
    }

    fn woken(&mut self, controls: &mut dyn Controls) -> Flow {
        self.inbox.silence();
        if self.inbox.heard_panic() {
            self.status.send_if_modified(|status| !std::mem::replace(&mut status.stands_still, true));
        }
        if let Some(trouble) = self.inbox.take_boot_trouble() {
            tracing::info!(vm_id = %self.id, class = %trouble.class, line = trouble.line, "the guest waits for a person");
            self.status.send_modify(|status| status.boot_trouble = Some(trouble));
        }
        for _ in 0..COMMANDS_A_TURN {
            if self.inbox.is_killed() {
                self.set_phase(MachinePhase::Stopping);
                return Flow::Kill;
            }
            // Commands to a machine that is being rebuilt wait until its guest runs: see `announce`.
            if self.phase() == MachinePhase::Booting {
                return Flow::Continue;
            }
            let Some(envelope) = self.inbox.take() else {
                return Flow::Continue;
            };
            self.last_command = Some(envelope.command.kind());
            if self.carry_out(envelope, controls) == Flow::Kill {
                return Flow::Kill;
            }
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
            Event::DiskTrouble(trouble) => self.status.send_modify(|status| status.disk_trouble = trouble),
            Event::PowerButtonSeen => {
                self.status.send_modify(|status| status.power_button = PowerButton::Seen)
            }
        }
    }
}

#[cfg(test)]
mod tests;
