//! What a card does at a doorbell, and when one of its descriptors becomes readable.

use std::time::Instant;

use vm_model::LinkState;

use super::control::{self, Answer, Command};
use super::device::{NetDevice, State};
use super::frame_path::FramePath;
use super::kernel_path::KernelPath;
use super::offloads::{GUEST_OFFLOADS, Offloads};
use super::{TURN_FRAMES, TurnContext};
use crate::virtio::queue::QueueFault;
use crate::virtio::work_left::WorkLeft;

/// Frames that may wait in a port: the kernel's default for a TAP is half of it.
const WAITING_FRAMES: usize = 1024;

impl NetDevice {
    /// Frames a turn of one pair.
    fn share(&self) -> usize {
        (TURN_FRAMES / self.tap_queues.attached()).max(1)
    }

    pub(super) fn receive(&mut self, index: usize) {
        let (share, link) = (self.share(), self.handle.link());
        let (FramePath::Process(path), State::Active(active)) = (&mut self.path, &mut self.state) else {
            return;
        };
        if link == LinkState::Down {
            return self.discard(index, share);
        }
        let (Some(pair), Some(port)) = (active.pair(index), self.tap_queues.port(index)) else { return };
        if index >= self.tap_queues.attached()
            || pair.receiver.is_starved()
            || path.receive_limit.is_exhausted()
        {
            return;
        }
        path.receive_limit.begin(index);
        let mut context =
            TurnContext { share, link, port, limit: &mut path.receive_limit, counters: &self.counters };
        let turn = pair.receiver.turn(&mut pair.receive_queue, &mut context);
        self.note(turn);
    }

    /// Discards frames that arrive while the link is down, so that they do not appear when it is up again.
    fn discard(&self, index: usize, share: usize) {
        let discarded = self.tap_queues.discard(index, share);
        (0..discarded).for_each(|_| self.counters.count_receive_dropped());
        if discarded == share {
            self.go_on.ring();
        }
    }

    pub(super) fn transmit(&mut self, index: usize) {
        let (share, link) = (self.share(), self.handle.link());
        let (FramePath::Process(path), State::Active(active)) = (&mut self.path, &mut self.state) else {
            return;
        };
        let (Some(pair), Some(port)) = (active.pair(index), self.tap_queues.port(index)) else { return };
        if index >= self.tap_queues.attached()
            || pair.transmitter.is_blocked()
            || path.transmit_limit.is_exhausted()
        {
            return;
        }
        path.transmit_limit.begin(index);
        let mut context =
            TurnContext { share, link, port, limit: &mut path.transmit_limit, counters: &self.counters };
        let turn = pair.transmitter.turn(&mut pair.transmit_queue, &mut context);
        if pair.transmitter.is_blocked() && self.tap_queues.watch_for_room(index).is_err() {
            // Not with a port that could be watched. The next turn tries again.
            pair.transmitter.unblock();
            self.go_on.ring();
        }
        self.note(turn);
    }

    pub(super) fn on_room(&mut self, index: usize) {
        self.tap_queues.take_room(index);
        if let State::Active(active) = &mut self.state
            && let Some(pair) = active.pair(index)
        {
            pair.transmitter.unblock();
        }
        self.transmit(index);
    }

    /// Carries out the driver's commands on the control queue.
    pub(super) fn control(&mut self) {
        let State::Active(active) = &mut self.state else { return };
        let Some(mut queue) = active.control.take() else { return };
        let features = active.features;
        let turn = control::turn(&mut queue, features, |command| self.obey(command));
        if let State::Active(active) = &mut self.state {
            active.control = Some(queue);
        }
        self.note(turn);
    }

    /// Passes a change of the link on to the ports, as the carrier of the host's interface.
    pub(super) fn follow_link(&mut self) {
        let link = self.handle.link();
        if std::mem::replace(&mut self.carrier, link) != link {
            self.tap_queues.set_carrier(link);
            if self.path.kernel().is_some() && link == LinkState::Up {
                // Frames that came before the carrier went down; see `discard`.
                for index in 0..self.tap_queues.attached() {
                    let _older = self.tap_queues.discard(index, WAITING_FRAMES);
                }
            }
        }
    }

    /// Has the kernel serve the pairs that are in use, or none while the link is down.
    pub(super) fn settle(&mut self) {
        if let Some(kernel) = self.path.kernel_mut() {
            kernel.is_held = false;
        }
        let wanted = if self.carrier == LinkState::Up { self.tap_queues.attached() } else { 0 };
        self.run_kernel(wanted);
    }

    /// Stops the kernel's service of all queues until [`NetDevice::settle`].
    pub(super) fn hold(&mut self) {
        if let Some(kernel) = self.path.kernel_mut() {
            kernel.is_held = true;
        }
        self.run_kernel(0);
    }

    fn run_kernel(&mut self, pairs: usize) {
        let (FramePath::Kernel(kernel), State::Active(active)) = (&mut self.path, &mut self.state) else {
            return;
        };
        if let Err(error) = kernel.run(pairs, active, &self.tap_queues) {
            tracing::debug!(pairs, %error, "the kernel does not serve a network card's queues");
            self.break_down();
        }
    }

    pub(super) fn on_kernel_fault(&mut self) {
        let is_faulty = self.path.kernel().is_some_and(KernelPath::take_fault);
        if is_faulty && matches!(self.state, State::Active(_)) {
            tracing::debug!("the kernel found a network card's queue broken");
            self.break_down();
        }
    }

    pub(super) fn end_kernel(&mut self) {
        if let (FramePath::Kernel(kernel), State::Active(_)) = (&mut self.path, &self.state) {
            kernel.end();
        }
    }

    fn break_down(&mut self) {
        self.end_kernel();
        self.state = State::Broken;
    }

    fn obey(&mut self, command: Command) -> Answer {
        match command {
            Command::UsePairs(count) => self.use_pairs(count.into()),
            Command::AcceptOffloads(features) => self.accept_offloads(features),
            Command::Announced => {
                self.handle.acknowledge();
                Answer::Done
            }
        }
    }

    /// Sets the offloads that the driver accepts; those it did not negotiate are refused (§5.1.6.5.6).
    fn accept_offloads(&mut self, features: u64) -> Answer {
        let State::Active(active) = &self.state else { return Answer::Refused };
        if features & !(active.features & GUEST_OFFLOADS) != 0 || !self.may_change(1) {
            return Answer::Refused;
        }
        match self.tap_queues.set_offloads(Offloads::accepted_by(features)) {
            Ok(()) => Answer::Done,
            Err(error) => {
                tracing::debug!(features, %error, "the host does not change the offloads of a network card");
                Answer::Refused
            }
        }
    }

    /// Whether the driver may have the host change the ports in `count` ways now; they are counted then.
    pub(super) fn may_change(&mut self, count: u64) -> bool {
        let may = self.changes.ready(Instant::now(), count).is_ok();
        if may {
            self.changes.take(count);
        }
        may
    }

    fn use_pairs(&mut self, count: usize) -> Answer {
        let State::Active(active) = &self.state else { return Answer::Refused };
        if !active.has_pairs(count) {
            return Answer::Refused;
        }
        let before = self.tap_queues.attached();
        if !self.may_change(before.abs_diff(count) as u64) {
            tracing::debug!(count, "a driver changes its number of queues too often");
            return Answer::Refused;
        }
        if let Err(error) = self.tap_queues.attach(count) {
            tracing::debug!(count, %error, "the host does not spread frames over the queues of a network card");
            // Undone as far as possible: frames go to no more queues than the driver knows of.
            let _kept = self.tap_queues.attach(before);
            return Answer::Refused;
        }
        // Their bells may have rung before they were in use.
        self.go_on.ring();
        Answer::Done
    }

    fn note(&mut self, turn: Result<WorkLeft, QueueFault>) {
        match turn {
            Ok(WorkLeft::Nothing) => {}
            Ok(WorkLeft::Maybe) => self.go_on.ring(),
            Err(fault) => {
                tracing::debug!(error = %fault, "a network card's queue is broken");
                self.break_down();
            }
        }
    }
}
