//! What was asked of a host process and is not answered yet, and how it is asked.

use std::collections::BTreeMap;

use machine_host::LaunchError;
use tokio::sync::oneshot;
use tokio::time::Instant;
use vm_model::{MachineCounters, Reply, VmId, error_chain};

use super::{Conversation, Link};
use crate::client::launching::LaunchOrder;
use crate::client::line::{LaunchAnswer, Request};
use crate::wire::{CallId, Message, ToHost};

/// What was asked and is not answered yet.
#[derive(Debug, Default)]
pub(super) struct Calls(BTreeMap<CallId, Waiting>);

#[derive(Debug)]
enum Waiting {
    Launch { vm: VmId, answer: LaunchAnswer },
    Command(oneshot::Sender<Reply>),
    Counters(oneshot::Sender<MachineCounters>),
}

impl Calls {
    /// Nobody waits for `call` any more. Whether it was not answered yet.
    pub(super) fn cancel(&mut self, call: CallId) -> bool {
        self.0.remove(&call).is_some()
    }

    /// Who waits for a launch, no longer kept here.
    pub(super) fn take_launch(&mut self, call: CallId) -> Option<LaunchAnswer> {
        match self.0.remove(&call)? {
            Waiting::Launch { answer, .. } => Some(answer),
            Waiting::Command(_) | Waiting::Counters(_) => None,
        }
    }

    pub(super) fn replied(&mut self, call: CallId, reply: Reply) {
        if let Some(Waiting::Command(answer)) = self.0.remove(&call) {
            // A caller that gave up has its own error already.
            let _ = answer.send(reply);
        }
    }

    pub(super) fn counted(&mut self, call: CallId, counters: MachineCounters) {
        if let Some(Waiting::Counters(answer)) = self.0.remove(&call) {
            // As above.
            let _ = answer.send(counters);
        }
    }

    /// There is no such machine any more: dropping what waits tells it so.
    pub(super) fn not_taken(&mut self, call: CallId) {
        drop(self.0.remove(&call));
    }

    /// No launch is answered any more. Commands are not known to have failed: they wait as long as their callers do.
    pub(super) fn fail_launches(&mut self, problem: &str) {
        let is_launch = |_: &CallId, waiting: &mut Waiting| matches!(waiting, Waiting::Launch { .. });
        for (_, waiting) in self.0.extract_if(.., is_launch) {
            if let Waiting::Launch { vm, answer } = waiting {
                let _ = answer.send(Err(LaunchError::Host { vm, problem: problem.to_owned() }));
            }
        }
    }
}

impl Conversation {
    /// Asks the process what somebody waits for.
    pub(super) async fn send_request(&mut self, request: Request, link: &mut Link) {
        match request {
            Request::Launch(order) => self.send_launch(*order, link).await,
            Request::Command { call, vm, command, answer } => {
                if answer.is_closed() || !self.machines.is_running(&vm) {
                    return;
                }
                match (ToHost::Call { call, vm, command }).pack() {
                    Ok(packed) => {
                        self.calls.0.insert(call, Waiting::Command(answer));
                        self.send_packed(&packed, link).await;
                    }
                    Err(error) => {
                        let _ = answer.send(Reply::Failed { reason: error_chain(&error) });
                    }
                }
            }
            Request::Counters { call, vm, answer } => {
                if !answer.is_closed() && self.machines.is_known(&vm) {
                    self.calls.0.insert(call, Waiting::Counters(answer));
                    self.silence.asked(Instant::now());
                    self.send(ToHost::Counters { call, vm }, link).await;
                }
            }
        }
    }

    async fn send_launch(&mut self, order: LaunchOrder, link: &mut Link) {
        let LaunchOrder { launch, machine, place, answer } = order;
        if answer.is_closed() {
            return;
        }
        let (call, vm) = (launch.call, launch.vm.clone());
        match ToHost::Launch(Box::new(launch)).pack() {
            Ok(packed) => {
                self.machines.begin(machine, place, call);
                self.calls.0.insert(call, Waiting::Launch { vm, answer });
                self.send_packed(&packed, link).await;
            }
            Err(error) => {
                drop(place);
                let _ = answer.send(Err(LaunchError::Host { vm, problem: error_chain(&error) }));
            }
        }
    }
}
