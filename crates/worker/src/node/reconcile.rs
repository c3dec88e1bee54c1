//! The loop itself: takes desired states in, keeps them, and has them applied. What is held, and what lets it go, is in
//! `held`.

mod held;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use fail_points::{FailPoint, pass};
use tokio::sync::mpsc::Receiver;
use tracing::{error, info, warn};
use vm_model::{
    Assignment, AssignmentSet, HoldReason, NodeStatus, Source, SourceKind, SourceStatus, Timestamp, VmId,
};

use super::admit::admit_count;
use super::apply::{Planned, apply, plan_towards, without_retries_of_others};
use super::desired::IntentFile;
use super::guard::{hold_removals, is_disruption, note_disruptions, recent};
use super::intent::{Intent, Merged, Said};
use super::{Action, CommandMode, LocalCommand, NodeMessage, Outcome, Redefinition, Refusal, Verdict, admit};
use crate::definition::is_same_definition;
use crate::failure::chain;
use crate::records::ReadError;
use crate::vms::VmManager;
use crate::volumes::Thoroughness;

/// Keeps a manager's VMs equal to what all sources have said last.
#[derive(Debug)]
pub struct Reconciler {
    vm_manager: Arc<VmManager>,
    file: IntentFile,
    intent: Intent,
    /// Why what was in force could not be read. Nothing is put in its place then.
    unreadable: Option<String>,
    listened_to: BTreeSet<SourceKind>,
    /// What waits for somebody's word.
    held: BTreeMap<SourceKind, HeldOffer>,
}

/// A desired state that waits for somebody's word.
#[derive(Clone, Debug)]
struct HeldOffer {
    source: Source,
    desired: AssignmentSet,
    waits_for: HoldReason,
}

/// Whether a master is taken at its word although another counting is in force.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OtherLineage {
    Waits,
    Accepted,
}

impl Reconciler {
    /// Takes up what was in force when this host's worker ended. Something may come from the sources that are
    /// `listened_to`; one that speaks is listened to from then on.
    pub fn new(vm_manager: Arc<VmManager>, listened_to: BTreeSet<SourceKind>) -> Self {
        let file = IntentFile::in_directory(vm_manager.state_dir(), vm_manager.record_writer());
        let lost = || Intent::lost(vm_manager.observe().into_keys());
        let (intent, unreadable) = match file.load() {
            Ok(Some(intent)) => (intent, None),
            Ok(None) => (lost(), None),
            Err(problem) => {
                let text = chain(&problem);
                error!(error = text, "what was assigned is lost; the VMs that are there stay as they are");
                // What cannot be read is not replaced, unless it was kept aside.
                (lost(), matches!(problem, ReadError::Io { .. }).then_some(text))
            }
        };
        let intent = intent.settled(&listened_to);
        Self { vm_manager, file, intent, unreadable, listened_to, held: BTreeMap::new() }
    }

    /// Works until all senders of `channel` are gone.
    pub async fn run(mut self, mut channel: Receiver<NodeMessage>) {
        self.vm_manager.bring_back(self.intent.unclaimed().iter());
        if self.intent.sources().next().is_some() {
            self.go_on().await;
        } else {
            self.tell_all();
        }
        // Receiving is cancel-safe and the only thing awaited for long.
        while let Some(message) = channel.recv().await {
            let begun = Instant::now();
            self.handle(message).await;
            self.vm_manager.meters().reconcile.record(begun.elapsed());
        }
    }

    async fn handle(&mut self, message: NodeMessage) {
        match message {
            NodeMessage::Assignment { source, desired, answer } => {
                let verdict = self.take(&source, &desired, OtherLineage::Waits).await;
                match (answer, verdict) {
                    // Whoever asked may have stopped waiting.
                    (Some(answer), verdict) => drop(answer.send(verdict)),
                    (None, Err(refusal)) => warn!(%refusal, "desired state refused"),
                    (None, Ok(_)) => {}
                }
            }
            NodeMessage::Plan { source, desired, answer } => {
                drop(answer.send(self.preview(&source, &desired, OtherLineage::Waits).await));
            }
            NodeMessage::Command { command, mode: CommandMode::CarryOut, answer } => {
                drop(answer.send(self.obey(&command).await));
            }
            NodeMessage::Command { command, mode: CommandMode::Show, answer } => {
                drop(answer.send(self.show(&command).await));
            }
            NodeMessage::LetGo { choice, answer } => drop(answer.send(self.let_go(choice).await)),
            NodeMessage::ShowHeld { choice, answer } => drop(answer.send(self.show_held(choice).await)),
            NodeMessage::SourceLost(source) => {
                if self.held.remove(&source).is_some() {
                    info!(%source, "what was held is forgotten: its source says it no longer");
                }
                self.tell(source, |status| status.held = None);
            }
            NodeMessage::SourceGone(source) => {
                self.held.remove(&source);
                if self.listened_to.remove(&source) {
                    self.intent = std::mem::take(&mut self.intent).settled(&self.listened_to);
                    self.tell(source, |status| status.held = None);
                    self.go_on().await;
                }
            }
        }
    }

    /// Applies what was said so far.
    async fn go_on(&mut self) {
        let merged = self.intent.merged(&self.listened_to);
        let planned = plan_towards(&self.vm_manager, &merged, Thoroughness::Quick).await;
        apply(&self.vm_manager, &merged, planned, None);
        self.tell_all();
    }

    /// Admits a desired state, and applies it if it need not wait.
    async fn take(
        &mut self,
        source: &Source,
        offered: &AssignmentSet,
        other: OtherLineage,
    ) -> Result<Verdict, Refusal> {
        let kind = source.kind();
        self.held.remove(&kind);
        let taken = self.take_or_hold(source, offered, other).await;
        self.tell_all();
        let refusal = taken.as_ref().err().map(ToString::to_string);
        let held = taken.as_ref().ok().and_then(|verdict| verdict.held.clone());
        let in_force = self.intent.of(kind).map(Said::generation);
        self.tell(kind, |status| {
            // A source that does not count says what is in force, or what waits.
            let counted = offered.generation.or_else(|| held.as_ref().map(|held| held.generation));
            status.observed = counted.or(in_force);
            if held.is_some() || refusal.is_some() {
                status.refused_entries.clone_from(&offered.refused);
            }
            (status.held, status.refusal) = (held, refusal);
        });
        taken
    }

    async fn take_or_hold(
        &mut self,
        source: &Source,
        offered: &AssignmentSet,
        other: OtherLineage,
    ) -> Result<Verdict, Refusal> {
        let now = Timestamp::now();
        if let Some(held) = self.hold_lineage(source, offered, other, now) {
            return Ok(self.hold(source, offered, held));
        }
        self.listened_to.insert(source.kind());
        for entry in &offered.refused {
            warn!(vm_id = %entry.id, problem = entry.problem, "the entry cannot be used; its VM stays as it is");
        }
        let said = self.admit(source, offered, now)?;
        let (intent, planned) = self.plan(source, said, Thoroughness::Quick).await;
        let kind = source.kind();
        let limit = self.vm_manager.config().removal_limit;
        let (before, said) = (self.intent.of(kind), intent.of(kind));
        let actions = &planned.actions;
        if let Some(held) = said.and_then(|said| hold_removals(kind, before, said, actions, limit, now)) {
            return Ok(self.hold(source, offered, held));
        }
        self.commit(kind, intent, planned).await
    }

    /// Carries out a command by hand.
    async fn obey(&mut self, command: &LocalCommand) -> Result<Verdict, Refusal> {
        let in_force = self.in_force_of_refused(command);
        let (kind, intent) =
            command.change(&self.intent, &self.listened_to, in_force.as_ref(), Timestamp::now())?;
        self.admit_count(&intent)?;
        let intent = intent.settled(&self.listened_to);
        let merged = intent.merged(&self.listened_to);
        let mut planned = plan_towards(&self.vm_manager, &merged, Thoroughness::Quick).await;
        let actions = &mut planned.actions;
        if let LocalCommand::Amend { vm, .. } = command {
            refuse_unusable(vm, actions)?;
        }
        // Others that failed are not this command's to try again.
        actions.retain(|action| !matches!(action, Action::Retry(_)) || action.vm() == command.vm());
        if let LocalCommand::Order { vm, desired, .. } = command
            && !actions.iter().any(|action| action.vm() == vm)
        {
            actions.extend(self.vm_manager.order_action(vm, *desired));
        }
        let verdict = self.commit(kind, intent, planned).await;
        self.tell_all();
        let is_new = self.refused_already(command, &merged).is_none();
        let in_force = in_force.filter(|_| is_new);
        verdict.map(|verdict| Verdict { notes: dropped(in_force.as_ref()), ..verdict })
    }

    /// What a command by hand would do.
    async fn show(&self, command: &LocalCommand) -> Result<Verdict, Refusal> {
        let in_force = self.in_force_of_refused(command);
        let (kind, intent) =
            command.change(&self.intent, &self.listened_to, in_force.as_ref(), Timestamp::now())?;
        self.admit_count(&intent)?;
        let generation = intent.of(kind).map(Said::generation).unwrap_or_default();
        let merged = intent.settled(&self.listened_to).merged(&self.listened_to);
        let planned = plan_towards(&self.vm_manager, &merged, Thoroughness::CompareImages).await;
        let mut actions = planned.actions;
        actions.retain(|action| action.vm() == command.vm());
        if let Some(refused) = self.refused_already(command, &merged) {
            return Ok(Verdict { generation, held: None, outcomes: vec![refused], notes: Vec::new() });
        }
        let outcomes = actions.iter().map(shown).collect();
        Ok(Verdict { generation, held: None, outcomes, notes: dropped(in_force.as_ref()) })
    }

    /// What is told of a change that was asked for before and cannot be used: it comes to no action a second time.
    fn refused_already(&self, command: &LocalCommand, merged: &Merged) -> Option<Outcome> {
        let LocalCommand::Amend { vm, .. } = command else { return None };
        let known = self.vm_manager.get_vm(vm).ok()?.wanted?;
        let (refusal, wanted) = (known.refusal?, &merged.vms.get(vm)?.assignment);
        is_same_definition(&known.assignment, wanted)
            .then(|| unusable(vm.clone(), &refusal.to_string(), None))
    }

    /// What a VM goes by that `command` changes, where its newest definition is refused.
    fn in_force_of_refused(&self, command: &LocalCommand) -> Option<Assignment> {
        let LocalCommand::Amend { vm, .. } = command else { return None };
        let info = self.vm_manager.get_vm(vm).ok()?;
        info.wanted?.refusal?;
        Some(info.assignment)
    }

    /// What `source` will have said, if that is applied.
    fn admit(&self, source: &Source, offered: &AssignmentSet, now: Timestamp) -> Result<Said, Refusal> {
        let before = self.intent.of(source.kind());
        let same_counting = before.filter(|said| said.lineage.as_ref() == source.lineage());
        let said = Said {
            lineage: source.lineage().cloned(),
            desired: admit(same_counting.map(|said| &said.desired), offered)?,
            disruptions: before.map(|said| recent(&said.disruptions, now)).unwrap_or_default(),
        };
        self.admit_count(&self.intent.clone().with(source.kind(), said.clone()))?;
        Ok(said)
    }

    /// Whether the host takes as many VMs as `intent` comes to.
    fn admit_count(&self, intent: &Intent) -> Result<(), Refusal> {
        let [before, after] =
            [&self.intent, intent].map(|intent| intent.said_together(&self.listened_to).vms);
        admit_count(&before, &after)
    }

    /// Who is listened to once `kind` has spoken.
    pub(super) fn listening_to(&self, kind: SourceKind) -> BTreeSet<SourceKind> {
        self.listened_to.iter().copied().chain([kind]).collect()
    }

    /// What all sources will have said, and what leads there.
    async fn plan(&self, source: &Source, said: Said, thoroughness: Thoroughness) -> (Intent, Planned) {
        let kind = source.kind();
        let is_repeated = self.intent.of(kind).is_some_and(|before| {
            (&before.lineage, before.generation()) == (&said.lineage, said.generation())
        });
        let listened_to = self.listening_to(kind);
        let intent = self.intent.clone().with(kind, said).settled(&listened_to);
        let merged = intent.merged(&listened_to);
        let mut planned = plan_towards(&self.vm_manager, &merged, thoroughness).await;
        let actions = &mut planned.actions;
        without_retries_of_others(actions, &merged, kind);
        if kind.is_remote() && is_repeated {
            // It says so again because the connection was lost, not because somebody wishes another try.
            actions.retain(|action| !matches!(action, Action::Retry(_)));
        }
        (intent, planned)
    }

    /// Keeps what all sources have said, and has `actions` carried out.
    async fn commit(
        &mut self,
        kind: SourceKind,
        intent: Intent,
        planned: Planned,
    ) -> Result<Verdict, Refusal> {
        let mut said = intent.of(kind).cloned().unwrap_or_default();
        if kind.is_remote() {
            let disruptions = planned.actions.iter().filter(|action| is_disruption(action)).count();
            let limit = self.vm_manager.config().removal_limit;
            note_disruptions(&mut said.disruptions, disruptions, limit, Timestamp::now());
        }
        let generation = said.generation();
        let intent = intent.with(kind, said);
        if self.intent != intent {
            self.keep(&intent).await?;
            pass(FailPoint::DesiredKept);
        }
        let outcomes = apply(&self.vm_manager, &intent.merged(&self.listened_to), planned, Some(generation));
        self.intent = intent;
        Ok(Verdict { generation, held: None, outcomes, notes: Vec::new() })
    }

    /// Puts it on stable storage: what is not there is not acknowledged, and not applied.
    async fn keep(&self, intent: &Intent) -> Result<(), Refusal> {
        if let Some(problem) = &self.unreadable {
            return Err(Refusal::NotKept { problem: problem.clone() });
        }
        let (file, intent) = (self.file.clone(), intent.clone());
        // Syncing takes as long as the disk lets it: not on a runtime's thread.
        let problem = match tokio::task::spawn_blocking(move || file.save(&intent)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(problem)) => chain(&problem),
            Err(lost) => chain(&lost),
        };
        error!(error = problem, "the desired state could not be kept and is not applied");
        Err(Refusal::NotKept { problem })
    }

    fn tell(&self, source: SourceKind, change: impl FnOnce(&mut SourceStatus)) {
        self.vm_manager.tell_node_status(|status| change(status.sources.entry(source).or_default()));
    }

    /// Tells of every source what is in force of it.
    fn tell_all(&self) {
        let merged = self.intent.merged(&self.listened_to);
        let now = Timestamp::now();
        self.vm_manager.tell_node_status(|status: &mut NodeStatus| {
            for kind in &self.listened_to {
                status.sources.entry(*kind).or_default();
            }
            for (kind, said) in self.intent.sources() {
                let source = status.sources.entry(kind).or_default();
                if source.generation != Some(said.generation()) {
                    (source.generation, source.since) = (Some(said.generation()), Some(now));
                }
                source.lineage.clone_from(&said.lineage);
                source.drained = said.desired.drained;
                source.disruptions = recent(&said.disruptions, now);
                let outranked = merged.outranked.get(&kind).cloned().unwrap_or_default();
                source.refused_entries = [said.desired.refused.clone(), outranked].concat();
            }
            for (kind, source) in &mut status.sources {
                source.listened_to = self.listened_to.contains(kind);
            }
            status.owners = merged.owners();
            status.orders = merged.orders();
            status.unclaimed.clone_from(self.intent.unclaimed());
        });
    }
}

/// Refuses to change `vm` where `actions` say that it would stay as it is, because what it would be cannot be used. Nothing is
/// kept of such a change: what is wanted stays as it was.
fn refuse_unusable(vm: &VmId, actions: &[Action]) -> Result<(), Refusal> {
    let refused = actions.iter().filter(|action| action.vm() == vm).find_map(|action| match action {
        Action::Redefine(_, Redefinition::Refused(problem)) => Some(problem.clone()),
        Action::Redefine(..)
        | Action::Create(_)
        | Action::Move(..)
        | Action::Retry(_)
        | Action::Remove(..) => None,
    });
    refused.map_or(Ok(()), |problem| Err(Refusal::Unusable { id: vm.clone(), problem }))
}

/// That a refused change is dropped, where one is: the VM goes by what is `in_force`.
fn dropped(in_force: Option<&Assignment>) -> Vec<String> {
    let note = |vm: &Assignment| {
        format!(
            "the change of {} that was refused before is dropped; this one is made to what is in force",
            vm.id
        )
    };
    in_force.map(note).into_iter().collect()
}

/// What an action would do, or that it cannot be done.
fn shown(action: &Action) -> Outcome {
    let (vm, restarts) = (action.vm().clone(), action.restarts());
    let refused = match action {
        Action::Redefine(_, Redefinition::Refused(problem)) => Some(problem),
        Action::Redefine(
            _,
            Redefinition::SameMachine
            | Redefinition::Live(_)
            | Redefinition::Restart { .. }
            | Redefinition::Unknown,
        )
        | Action::Create(_)
        | Action::Move(..)
        | Action::Retry(_)
        | Action::Remove(..) => None,
    };
    match refused {
        Some(problem) => unusable(vm, problem, restarts),
        None => Outcome { action: action.to_string(), vm, problem: None, restarts },
    }
}

/// A change of `vm` that is none, because what it would be cannot be used.
fn unusable(vm: VmId, problem: &str, restarts: Option<bool>) -> Outcome {
    let problem = Some(format!("what it would be cannot be used: {problem}"));
    Outcome { action: format!("change {vm}"), vm, problem, restarts }
}

#[cfg(test)]
mod tests {
    use vm_model::{Assignment, VmId};

    use super::*;

    #[test]
    fn a_change_that_cannot_be_is_no_change_in_a_preview() {
        let vm = || Assignment::new(VmId::new("a"), "", "/x");
        let refused = shown(&Action::Redefine(vm(), Redefinition::Refused("no kernel".to_owned())));
        assert_eq!(refused.action, "change a");
        assert_eq!(refused.problem.as_deref(), Some("what it would be cannot be used: no kernel"));
        assert_eq!(shown(&Action::Redefine(vm(), Redefinition::SameMachine)).problem, None);
    }
}
