//! The loop itself: takes desired states in, keeps them, and tells supervisors what follows from them.

use std::sync::Arc;

use fail_points::{FailPoint, pass};
use tokio::sync::mpsc::Receiver;
use tracing::{error, info, warn};
use vm_model::{AssignmentSet, Generation, NodeStatus, Timestamp};

use super::desired::DesiredStateFile;
use super::guard::hold;
use super::{
    Action, Described, NodeMessage, Observed, Outcome, Preview, Refusal, Verdict, admit, plan, redefined,
};
use crate::failure::chain;
use crate::vms::VmManager;
use crate::volumes::Thoroughness;

/// Keeps a manager's VMs equal to the newest desired state.
#[derive(Debug)]
pub struct Reconciler {
    vm_manager: Arc<VmManager>,
    file: DesiredStateFile,
    in_force: Option<AssignmentSet>,
    /// A desired state that waits for somebody's word.
    held: Option<AssignmentSet>,
}

impl Reconciler {
    /// Takes up the desired state that was in force when this host's worker ended, if there was one.
    pub fn new(vm_manager: Arc<VmManager>) -> Self {
        let file = DesiredStateFile::in_directory(vm_manager.state_dir(), vm_manager.record_writer());
        let in_force = file.load().unwrap_or_else(|damage| {
            warn!(error = chain(&damage), "the desired state could not be read; waiting for a new one");
            None
        });
        Self { vm_manager, file, in_force, held: None }
    }

    /// Works until all senders of `channel` are gone.
    pub async fn run(mut self, mut channel: Receiver<NodeMessage>) {
        if let Some(desired) = self.in_force.clone() {
            self.apply(&desired).await;
            self.tell(|_| {});
        }
        // Receiving is cancel-safe and the only thing awaited for long.
        while let Some(message) = channel.recv().await {
            match message {
                NodeMessage::Assignment { desired, answer } => {
                    let verdict = self.take(&desired).await;
                    match (answer, verdict) {
                        // Whoever asked may have stopped waiting.
                        (Some(answer), verdict) => drop(answer.send(verdict)),
                        (None, Err(refusal)) => warn!(%refusal, "desired state refused"),
                        (None, Ok(_)) => {}
                    }
                }
                NodeMessage::Plan { desired, answer } => drop(answer.send(self.preview(&desired).await)),
                NodeMessage::AllowRemovals { answer } => {
                    let verdict = match self.held.take() {
                        Some(held) => Some(self.take(&AssignmentSet { allow_removals: true, ..held }).await),
                        None => None,
                    };
                    drop(answer.send(verdict));
                }
                NodeMessage::SourceLost => {
                    if self.held.take().is_some() {
                        info!("what was held is forgotten: its source says it no longer");
                    }
                    self.tell(|status| status.held = None);
                }
            }
        }
    }

    /// Admits a desired state, and applies it if it need not wait.
    async fn take(&mut self, offered: &AssignmentSet) -> Result<Verdict, Refusal> {
        self.held = None;
        let taken = self.take_or_hold(offered).await;
        let refusal = taken.as_ref().err().map(ToString::to_string);
        let held = taken.as_ref().ok().and_then(|verdict| verdict.held.clone());
        let refused_entries = offered.refused.clone();
        self.tell(|status| {
            status.refusal = refusal;
            status.held = held;
            status.refused_entries = refused_entries;
        });
        taken
    }

    async fn take_or_hold(&mut self, offered: &AssignmentSet) -> Result<Verdict, Refusal> {
        let admitted = admit(self.in_force.as_ref(), offered)?;
        let generation = admitted.generation.unwrap_or_default();
        for entry in &offered.refused {
            warn!(vm_id = %entry.id, problem = entry.problem, "the entry cannot be used; its VM stays as it is");
        }
        if let Some(held) = hold(&admitted, self.vm_manager.observe().len(), Timestamp::now()) {
            warn!(%generation, "held: {}", held.reason);
            self.held = Some(offered.clone());
            let in_force = self.in_force.as_ref().and_then(|set| set.generation).unwrap_or_default();
            return Ok(Verdict { generation: in_force, held: Some(held), outcomes: Vec::new() });
        }
        if self.in_force.as_ref() != Some(&admitted) {
            self.keep(&admitted).await?;
            pass(FailPoint::DesiredKept);
        }
        let outcomes = self.apply(&admitted).await;
        self.in_force = Some(AssignmentSet { refused: Vec::new(), ..admitted });
        Ok(Verdict { generation, held: None, outcomes })
    }

    /// What a desired state would change.
    async fn preview(&self, offered: &AssignmentSet) -> Result<Preview, Refusal> {
        let admitted = admit(self.in_force.as_ref(), offered)?;
        let (observed, described) = self.look(&admitted, Thoroughness::CompareImages).await;
        let held = hold(&admitted, observed.len(), Timestamp::now());
        let actions = self.plan(&admitted, &observed, &described);
        let notes = self.notes(&actions).await;
        Ok(Preview { held, actions, notes })
    }

    /// What is known already of VMs that `actions` create.
    async fn notes(&self, actions: &[Action]) -> Vec<String> {
        let created = actions.iter().filter_map(|action| match action {
            Action::Create(assignment) => Some(assignment.clone()),
            Action::Redefine(..) | Action::Move(..) | Action::Retry(_) | Action::Remove(..) => None,
        });
        let created: Vec<_> = created.collect();
        let removed = self.vm_manager.list_removed_vms();
        let back =
            removed.iter().map(|vm| &vm.assignment.id).filter(|id| created.iter().any(|vm| vm.id == **id));
        let back = back.map(|id| format!("{id} was removed and comes back with its volumes"));
        let described = self.vm_manager.describe(created.clone(), Thoroughness::Quick).await;
        let failing = described.into_iter().filter_map(|(id, described)| {
            described.err().map(|problem| format!("{id} would not start: {problem}"))
        });
        back.chain(failing).collect()
    }

    /// What there is, and what changed definitions would make of it.
    async fn look(&self, desired: &AssignmentSet, thoroughness: Thoroughness) -> (Observed, Described) {
        let observed = self.vm_manager.observe();
        let changed = redefined(desired, &observed).into_iter().cloned().collect();
        let described = self.vm_manager.describe(changed, thoroughness).await;
        (observed, described)
    }

    fn plan(&self, desired: &AssignmentSet, observed: &Observed, described: &Described) -> Vec<Action> {
        plan(desired, observed, described, self.vm_manager.config().removal_grace)
    }

    /// Puts the state on stable storage: what is not there is not acknowledged, and not applied.
    async fn keep(&self, admitted: &AssignmentSet) -> Result<(), Refusal> {
        let (file, desired) = (self.file.clone(), admitted.clone());
        // Syncing takes as long as the disk lets it: not on a runtime's thread.
        let problem = match tokio::task::spawn_blocking(move || file.save(&desired)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(problem)) => chain(&problem),
            Err(lost) => chain(&lost),
        };
        error!(error = problem, "the desired state could not be kept and is not applied");
        Err(Refusal::NotKept { problem })
    }

    async fn apply(&self, desired: &AssignmentSet) -> Vec<Outcome> {
        let generation = desired.generation.unwrap_or_default();
        let (observed, described) = self.look(desired, Thoroughness::Quick).await;
        let actions = self.plan(desired, &observed, &described);
        if actions.is_empty() {
            info!(%generation, vms = desired.vms.len(), "nothing to change");
        }
        let outcomes = actions.into_iter().map(|action| self.order(action, generation)).collect();
        self.vm_manager.number(desired.vms.iter().map(|vm| &vm.id), generation);
        outcomes
    }

    /// Tells a supervisor what follows for its VM.
    fn order(&self, action: Action, generation: Generation) -> Outcome {
        let (vm, words) = (action.vm().clone(), action.to_string());
        info!(%generation, vm_id = %vm, "{words}");
        let ordered = match action {
            Action::Create(assignment) | Action::Redefine(assignment, _) => {
                self.vm_manager.define(assignment, generation)
            }
            Action::Move(id, desired) => self.vm_manager.desire(&id, desired),
            Action::Retry(id) => self.vm_manager.start_afresh(&id),
            Action::Remove(id, _) => self.vm_manager.order_removal(&id),
        };
        pass(FailPoint::DesiredOrdered);
        let problem = ordered.err().map(|problem| chain(&problem));
        if let Some(problem) = &problem {
            error!(%generation, vm_id = %vm, error = problem, "not applied");
        }
        Outcome { vm, action: words, problem }
    }

    fn tell(&self, change: impl FnOnce(&mut NodeStatus)) {
        let generation = self.in_force.as_ref().and_then(|set| set.generation);
        self.vm_manager.tell_node_status(|status| {
            if status.generation != generation {
                status.generation = generation;
                status.since = Some(Timestamp::now());
            }
            change(status);
        });
    }
}
