//! What a host process tells of its machines, and what is to be done about it.

use machine_host::LaunchError;
use vm_model::{MachineCounters, MachineStatus, VmId};

use super::super::{Conversation, Link};
use super::{Stage, Tracked};
use crate::client::hearsay::repeated;
use crate::wire::{CallId, FromHost};

/// What is to be done after a message.
#[derive(Debug)]
pub(in super::super) enum Then {
    Nothing,
    /// It was launched, and nobody waits for it.
    Kill(VmId),
    /// Its process says that it is released.
    Released(VmId),
    /// Its process has ended the connection, and is not listened to any more.
    HangUp,
}

impl Conversation {
    /// Takes note of what the process says.
    pub(in super::super) fn take_note(&mut self, message: FromHost) -> Then {
        match message {
            FromHost::Launched { call, failure } => return self.launched(call, failure),
            FromHost::Reply { call, reply } => self.calls.replied(call, reply),
            FromHost::NotTaken { call } => self.calls.not_taken(call),
            FromHost::Counters { call, counters } => self.calls.counted(call, counters),
            FromHost::Status { vm, status, counters } => self.note_status(&vm, status, counters),
            FromHost::Health { vm, health } => {
                if let Some(tracked) = self.machines.0.get(&vm) {
                    tracked.machine.set_health(health);
                }
            }
            FromHost::Released { vm } => return Then::Released(vm),
            FromHost::Refused { reason } => {
                let reason = repeated(&reason);
                tracing::warn!(pid = self.process.pid(), reason, "a host process ends its connection");
                return Then::HangUp;
            }
            FromHost::LastWords { text } => self.process.note_last_words(&text),
            FromHost::Welcome(_) => {
                let pid = self.process.pid();
                tracing::warn!(pid, "a host process says a second welcome, and its connection ends");
                return Then::HangUp;
            }
            // Nobody knows what it is.
            FromHost::Unknown => {}
        }
        Then::Nothing
    }

    /// Takes note of a machine's status, and of its counters where they came with it.
    pub(super) fn note_status(
        &self,
        vm: &VmId,
        status: MachineStatus,
        counters: Option<Box<MachineCounters>>,
    ) {
        if let Some(tracked) = self.machines.0.get(vm)
            && !tracked.machine.is_released()
        {
            // Before the status: whoever sees the end finds the last counters.
            if let Some(counters) = counters {
                tracked.machine.set_counters(*counters);
            }
            tracked.machine.set_status(status);
        }
    }

    fn launched(&mut self, call: CallId, failure: Option<LaunchError>) -> Then {
        let answer = self.calls.take_launch(call);
        let by_it = |(_, tracked): &(&VmId, &Tracked)| tracked.launched_by == Some(call);
        let Some(vm) = self.machines.0.iter().find(by_it).map(|(vm, _)| vm.clone()) else {
            return Then::Nothing;
        };
        if let Some(failure) = failure {
            // Its name is free before anybody learns of it.
            drop(self.machines.0.remove(&vm));
            if let Some(answer) = answer {
                let _ = answer.send(Err(failure));
            }
            return Then::Nothing;
        }
        if let Some(tracked) = self.machines.0.get_mut(&vm) {
            tracked.stage = Stage::Launched;
        }
        match answer.map(|answer| answer.send(Ok(()))) {
            Some(Ok(())) => Then::Nothing,
            Some(Err(_)) | None => {
                self.machines.let_go(&vm);
                Then::Kill(vm)
            }
        }
    }

    /// Does what a message asks for.
    pub(in super::super) async fn act(&mut self, then: Then, link: &mut Link) {
        match then {
            Then::Nothing => {}
            Then::Kill(vm) => self.kill(&vm, link).await,
            Then::Released(vm) => self.released(&vm, link).await,
            Then::HangUp if link.is_up() => self.lose(link),
            Then::HangUp => {}
        }
    }
}
