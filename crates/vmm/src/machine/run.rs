//! The event loop: one wait after another until the machine has ended, on the machine's own thread. Nothing else on
//! that thread blocks, but for pausing, which has a deadline.

use std::os::fd::AsRawFd;
use std::time::Instant;

use vm_model::MachineExit;

use super::trouble::Trouble;
use super::turn_report::{Handled, Handler, TurnClock};
use super::{Controller, Flow, Machine, MachineEvent};
use crate::poller::{Token, Trigger};

impl Machine {
    /// Runs the event loop until the machine has ended; its vCPU threads are joined then.
    ///
    /// A machine that was not started ends when the controller kills it.
    pub fn run(&mut self, controller: &mut dyn Controller) -> MachineExit {
        let wake = controller.wake_fd().as_raw_fd();
        if let Err(error) = self.poller.watch(&wake, Token::Controller, Trigger::Level) {
            self.outcome.conclude(MachineExit::Failed(format!(
                "the event loop could not watch its controller: {error}"
            )));
        }
        // One for all turns: a turn allocates nothing.
        let mut tokens = Vec::new();
        while !self.outcome.is_concluded() {
            self.turn(controller, &mut tokens);
        }
        // The descriptor may be closed by now, which forgets it too.
        let _ = self.poller.forget(wake);
        self.end();
        self.tell_news(controller);
        self.outcome.exit().cloned().expect("the loop ends when the outcome is concluded")
    }

    /// Waits once, and serves everything that became readable.
    fn turn(&mut self, controller: &mut dyn Controller, tokens: &mut Vec<Token>) {
        let deadline = controller.next_deadline();
        let next_try = self.trouble.as_ref().map(Trouble::next_try);
        let wakes_at = deadline.into_iter().chain(next_try).min();
        if let Err(error) = self.poller.wait(wakes_at, tokens) {
            self.outcome.conclude(MachineExit::Failed(format!("the event loop could not wait: {error}")));
            return;
        }
        controller.turning();
        let now = Instant::now();
        let mut clock = TurnClock::begin(now);
        self.tell_news(controller);
        // Without it there is nothing to tell. Clocks are not free everywhere: two readings do for most turns.
        if tokens.contains(&Token::Outcome) {
            clock.note(Handled::News, Instant::now());
        }
        if deadline.is_some_and(|deadline| deadline <= now) {
            let flow = controller.deadline_passed(self);
            self.follow(flow);
            clock.note(Handled::Deadline, Instant::now());
        }
        for token in tokens.drain(..) {
            if self.outcome.is_concluded() {
                break;
            }
            self.serve(token, controller);
            clock.note(Handled::Token(token), Instant::now());
        }
        if !self.outcome.is_concluded() {
            let was_in_trouble = self.trouble.is_some();
            self.attend_to_disks(controller);
            if was_in_trouble || self.trouble.is_some() {
                clock.note(Handled::DiskTrouble, Instant::now());
            }
        }
        controller.turned(clock.finish(|handled| self.handler(handled)));
    }

    fn handler(&self, handled: Handled) -> Handler<'_> {
        match handled {
            Handled::News | Handled::Token(Token::Outcome) => Handler::News,
            Handled::Deadline => Handler::Deadline,
            Handled::DiskTrouble => Handler::DiskTrouble,
            Handled::Token(Token::Controller) => Handler::Controller,
            Handled::Token(Token::SerialRoom | Token::ConsoleRoom) => Handler::ConsoleRoom,
            Handled::Token(Token::Watchdog) => Handler::Watchdog,
            Handled::Token(Token::Doorbell { device, queue }) => {
                Handler::Queue { device: self.virtio.name_of(device), queue }
            }
            Handled::Token(Token::Device { device, token }) => {
                Handler::Device { device: self.virtio.name_of(device), token }
            }
        }
    }

    fn serve(&mut self, token: Token, controller: &mut dyn Controller) {
        match token {
            Token::Controller => {
                let flow = controller.woken(self);
                self.follow(flow);
            }
            // Told at the start of each turn.
            Token::Outcome => {}
            Token::SerialRoom | Token::ConsoleRoom => controller.event(MachineEvent::ConsoleRoom),
            Token::Watchdog => self.virtio.watchdog_event(),
            Token::Doorbell { device, queue } if !self.is_paused() => self.virtio.doorbell(device, queue),
            Token::Device { device, token } if self.serves(device) => self.virtio.event(device, token),
            // Resuming looks at every queue and every device.
            Token::Doorbell { .. } | Token::Device { .. } => {}
        }
    }

    fn follow(&self, flow: Flow) {
        match flow {
            Flow::Continue => {}
            Flow::Kill => self.outcome.conclude(MachineExit::Killed),
        }
    }

    fn tell_news(&mut self, controller: &mut dyn Controller) {
        if !self.told.first_entry
            && let Some(at) = self.outcome.first_entry_at()
        {
            self.told.first_entry = true;
            controller.event(MachineEvent::FirstEntry { at });
        }
        if !self.told.first_console_byte
            && let Some(at) = self.outcome.first_console_byte_at()
        {
            self.told.first_console_byte = true;
            controller.event(MachineEvent::FirstConsoleByte { at });
        }
        // One that was pressed again meanwhile has still to be seen.
        if self.outcome.take_power_button_seen() && !self.platform.event_device.is_power_button_pending() {
            controller.event(MachineEvent::PowerButtonSeen);
        }
        let panic = self.outcome.guest_panic();
        if let Some(report) = panic
            && self.told.guest_panic != panic
        {
            self.told.guest_panic = panic;
            controller.event(MachineEvent::GuestPanicked(report));
        }
    }
}
