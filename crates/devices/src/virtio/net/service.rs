//! What a card does when a bell rings or a descriptor becomes readable.

use std::time::Instant;

use super::control::{self, Answer, Command};
use super::device::{NetDevice, State};
use super::handle::LinkState;
use super::{TURN_FRAMES, Turn, Way};
use crate::virtio::queue::QueueFault;

impl NetDevice {
    /// Frames a turn of one pair.
    fn share(&self) -> usize {
        (TURN_FRAMES / self.outlets.attached()).max(1)
    }

    pub(super) fn receive(&mut self, index: usize) {
        let (share, link) = (self.share(), self.handle.link());
        let State::Active(active) = &mut self.state else { return };
        if link == LinkState::Down {
            return self.discard(index, share);
        }
        let (Some(pair), Some(port)) = (active.pair(index), self.outlets.port(index)) else { return };
        if index >= self.outlets.attached() || pair.receiver.is_starved() || self.inward.is_shut() {
            return;
        }
        self.inward.begin(index);
        let mut way = Way { share, link, port, gate: &mut self.inward, counters: &self.counters };
        let turn = pair.receiver.turn(&mut pair.receive_queue, &mut way);
        self.note(turn);
    }

    /// What comes while the link is down is lost, and not there when it is up again.
    fn discard(&self, index: usize, share: usize) {
        let discarded = self.outlets.discard(index, share);
        (0..discarded).for_each(|_| self.counters.count_receive_dropped());
        if discarded == share {
            self.go_on.ring();
        }
    }

    pub(super) fn transmit(&mut self, index: usize) {
        let (share, link) = (self.share(), self.handle.link());
        let State::Active(active) = &mut self.state else { return };
        let (Some(pair), Some(port)) = (active.pair(index), self.outlets.port(index)) else { return };
        if index >= self.outlets.attached() || pair.transmitter.is_blocked() || self.outward.is_shut() {
            return;
        }
        self.outward.begin(index);
        let mut way = Way { share, link, port, gate: &mut self.outward, counters: &self.counters };
        let turn = pair.transmitter.turn(&mut pair.transmit_queue, &mut way);
        if pair.transmitter.is_blocked() && self.outlets.watch_for_room(index).is_err() {
            // Not with a port that could be watched. The next turn tries again.
            pair.transmitter.unblock();
            self.go_on.ring();
        }
        self.note(turn);
    }

    pub(super) fn on_room(&mut self, index: usize) {
        self.outlets.take_room(index);
        if let State::Active(active) = &mut self.state
            && let Some(pair) = active.pair(index)
        {
            pair.transmitter.unblock();
        }
        self.transmit(index);
    }

    /// Obeys the driver's commands.
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

    fn obey(&mut self, command: Command) -> Answer {
        match command {
            Command::UsePairs(count) => self.use_pairs(count.into()),
            Command::Announced => {
                self.handle.acknowledge();
                Answer::Done
            }
        }
    }

    fn use_pairs(&mut self, count: usize) -> Answer {
        let State::Active(active) = &self.state else { return Answer::Refused };
        if !active.has_pairs(count) {
            return Answer::Refused;
        }
        let before = self.outlets.attached();
        let changed = before.abs_diff(count) as u64;
        if self.changes.ready(Instant::now(), changed).is_err() {
            tracing::debug!(count, "a driver changes its number of queues too often");
            return Answer::Refused;
        }
        self.changes.take(changed);
        if let Err(error) = self.outlets.attach(count) {
            tracing::debug!(count, %error, "the host does not spread frames over the queues of a network card");
            // As far as it goes: frames go to no more queues than the driver knows of.
            let _kept = self.outlets.attach(before);
            return Answer::Refused;
        }
        // Their bells may have rung before they were in use.
        self.go_on.ring();
        Answer::Done
    }

    fn note(&mut self, turn: Result<Turn, QueueFault>) {
        match turn {
            Ok(Turn::Idle) => {}
            Ok(Turn::Again) => self.go_on.ring(),
            Err(fault) => {
                tracing::debug!(error = %fault, "a network card's queue is broken");
                self.state = State::Broken;
            }
        }
    }
}
