//! The loop itself: takes desired states in, keeps them, and tells supervisors what follows from them.

use std::sync::Arc;

use tokio::sync::mpsc::Receiver;
use tracing::{error, info, warn};
use vm_model::{AssignmentSet, Generation};

use super::desired::DesiredStateFile;
use super::{Action, NodeMessage, Refusal, admit, plan};
use crate::failure::chain;
use crate::vms::VmManager;

/// Keeps a manager's VMs equal to the newest desired state.
#[derive(Debug)]
pub struct Reconciler {
    vm_manager: Arc<VmManager>,
    file: DesiredStateFile,
    in_force: Option<AssignmentSet>,
}

impl Reconciler {
    /// Takes up the desired state that was in force when this host's worker ended, if there was one.
    pub fn new(vm_manager: Arc<VmManager>) -> Self {
        let file = DesiredStateFile::in_directory(vm_manager.state_dir());
        let in_force = file.load().unwrap_or_else(|damage| {
            warn!(error = chain(&damage), "the desired state could not be read; waiting for a new one");
            None
        });
        Self { vm_manager, file, in_force }
    }

    /// Works until all senders of `channel` are gone.
    pub async fn run(mut self, mut channel: Receiver<NodeMessage>) {
        if let Some(desired) = self.in_force.clone() {
            self.apply(&desired);
        }
        // Receiving is cancel-safe and the only thing awaited for long.
        while let Some(NodeMessage::Assignment { desired, answer }) = channel.recv().await {
            let verdict = self.take(&desired).await;
            match (answer, verdict) {
                // Whoever asked may have stopped waiting.
                (Some(answer), verdict) => drop(answer.send(verdict)),
                (None, Err(refusal)) => warn!(%refusal, "desired state refused"),
                (None, Ok(_)) => {}
            }
        }
    }

    async fn take(&mut self, offered: &AssignmentSet) -> Result<Generation, Refusal> {
        let admitted = admit(self.in_force.as_ref(), offered)?;
        let generation = admitted.generation.unwrap_or_default();
        if self.in_force.as_ref() != Some(&admitted) {
            self.keep(&admitted, generation).await;
        }
        self.apply(&admitted);
        self.in_force = Some(admitted);
        Ok(generation)
    }

    /// Puts the state on disk. A failure is logged: the state holds for this process all the same, and after a restart
    /// its source tells it again.
    async fn keep(&self, admitted: &AssignmentSet, generation: Generation) {
        let (file, desired) = (self.file.clone(), admitted.clone());
        // Syncing takes as long as the disk lets it: not on a runtime's thread.
        let problem = match tokio::task::spawn_blocking(move || file.save(&desired)).await {
            Ok(Ok(())) => return,
            Ok(Err(problem)) => chain(&problem),
            Err(lost) => chain(&lost),
        };
        error!(%generation, error = problem, "the desired state could not be kept");
    }

    fn apply(&self, desired: &AssignmentSet) {
        let generation = desired.generation.unwrap_or_default();
        let actions = plan(desired, &self.vm_manager.observe());
        if actions.is_empty() {
            info!(%generation, vms = desired.vms.len(), "nothing to change");
        }
        for action in actions {
            info!(%generation, vm_id = %action.vm(), %action, "applying");
            let vm = action.vm().clone();
            let applied = match action {
                Action::Create(assignment) | Action::Replace(assignment) => {
                    self.vm_manager.define(assignment, generation)
                }
                Action::Move(id, desired) => self.vm_manager.desire(&id, desired),
                Action::Remove(id) => self.vm_manager.order_removal(&id),
            };
            if let Err(problem) = applied {
                error!(%generation, vm_id = %vm, error = chain(&problem), "not applied");
            }
        }
        self.vm_manager.number(desired.vms.iter().map(|vm| &vm.id), generation);
    }
}
