//! A node at work, and how to tell it something.

use std::sync::Arc;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use vm_model::{Assignment, AssignmentSet, DesiredState, Generation, HoldReason, Source, SourceKind};
use worker::node::{
    CommandMode, HeldChoice, LocalCommand, Node, NodeMessage, Preview, Refusal, Verdict, WordRefusal,
};
use worker::vms::{VmId, VmManager};

use crate::workbench::{Artifact, await_vm};

/// VM `id` from `artifact`.
pub(crate) fn assigned(id: &str, artifact: &Artifact, desired: DesiredState) -> Assignment {
    Assignment { desired, ..Assignment::new(VmId::new(id), artifact.hash.clone(), artifact.path.clone()) }
}

/// A node at work.
pub(crate) struct Told {
    pub(crate) manager: Arc<VmManager>,
    messages: mpsc::Sender<NodeMessage>,
    thread: std::thread::JoinHandle<()>,
}

impl Told {
    pub(crate) fn start(manager: VmManager) -> Self {
        let manager = Arc::new(manager);
        let (messages, node_channel) = mpsc::channel(4);
        let node = Node {
            node_channel,
            master_addr: "127.0.0.1:1".parse().expect("an address"),
            vm_manager: Arc::clone(&manager),
        };
        let runtime = Builder::new_current_thread().enable_all().build().expect("built");
        let thread = std::thread::spawn(move || runtime.block_on(node.run()));
        Self { manager, messages, thread }
    }

    /// Says what should run; the number of the state in force then.
    pub(crate) fn tell(&self, generation: Option<u64>, vms: Vec<Assignment>) -> Result<Generation, Refusal> {
        let generation = generation.map(Generation::new);
        let set = AssignmentSet { generation, vms, ..AssignmentSet::default() };
        self.assign(set).map(|verdict| verdict.generation)
    }

    /// Says what should run, and what became of that.
    pub(crate) fn assign(&self, desired: AssignmentSet) -> Result<Verdict, Refusal> {
        self.assign_from(Source::File, desired)
    }

    /// The same, from another source.
    pub(crate) fn assign_from(&self, source: Source, desired: AssignmentSet) -> Result<Verdict, Refusal> {
        let (answer, verdict) = oneshot::channel();
        self.send(NodeMessage::Assignment { source, desired, answer: Some(answer) });
        verdict.blocking_recv().expect("answers")
    }

    /// What would change if these should run.
    pub(crate) fn preview(&self, vms: Vec<Assignment>) -> Preview {
        self.preview_from(Source::File, AssignmentSet { vms, ..AssignmentSet::default() })
    }

    /// The same, if another source said it.
    pub(crate) fn preview_from(&self, source: Source, desired: AssignmentSet) -> Preview {
        let (answer, plan) = oneshot::channel();
        self.send(NodeMessage::Plan { source, desired, answer });
        plan.blocking_recv().expect("answers").expect("admitted")
    }

    /// The same in words.
    pub(crate) fn plan(&self, vms: Vec<Assignment>) -> Vec<String> {
        self.preview(vms).actions.iter().map(ToString::to_string).collect()
    }

    /// Lets a held state go; of whom, where that is said.
    pub(crate) fn allow_removals(&self, source: Option<SourceKind>) -> Result<Verdict, WordRefusal> {
        self.let_go(HeldChoice { word: HoldReason::Removals, source })
    }

    /// The master that waits is accepted.
    pub(crate) fn accept_master(&self) -> Result<Verdict, WordRefusal> {
        self.let_go(HeldChoice { word: HoldReason::Lineage, source: None })
    }

    fn let_go(&self, choice: HeldChoice) -> Result<Verdict, WordRefusal> {
        let (answer, verdict) = oneshot::channel();
        self.send(NodeMessage::LetGo { choice, answer });
        verdict.blocking_recv().expect("answers").map(|(_, verdict)| verdict)
    }

    /// What a word would let go.
    pub(crate) fn show_held(&self, word: HoldReason) -> Result<Preview, WordRefusal> {
        let (answer, preview) = oneshot::channel();
        self.send(NodeMessage::ShowHeld { choice: HeldChoice { word, source: None }, answer });
        preview.blocking_recv().expect("answers").map(|(_, preview)| preview)
    }

    /// An administrator changes one VM.
    pub(crate) fn command(&self, command: LocalCommand) -> Result<Verdict, Refusal> {
        let (answer, verdict) = oneshot::channel();
        self.send(NodeMessage::Command { command, mode: CommandMode::CarryOut, answer });
        verdict.blocking_recv().expect("answers")
    }

    /// What would become of that.
    pub(crate) fn show(&self, command: LocalCommand) -> Result<Verdict, Refusal> {
        let (answer, verdict) = oneshot::channel();
        self.send(NodeMessage::Command { command, mode: CommandMode::Show, answer });
        verdict.blocking_recv().expect("answers")
    }

    /// The source of desired states has become unusable.
    pub(crate) fn lose_source(&self) {
        self.send(NodeMessage::SourceLost(SourceKind::File));
    }

    fn send(&self, message: NodeMessage) {
        self.messages.blocking_send(message).expect("works");
    }

    pub(crate) fn await_phase(&self, id: &str, phase: &str) {
        await_vm(&self.manager, &VmId::new(id), phase, |info| info.status.phase_name() == phase);
    }

    pub(crate) fn end(self) -> Arc<VmManager> {
        drop(self.messages);
        self.thread.join().expect("ends in order");
        self.manager
    }
}
