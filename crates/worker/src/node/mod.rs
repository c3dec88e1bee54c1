//! The loop that keeps this host's VMs equal to what was assigned: observe, plan, apply.
//!
//! ```text
//!  NodeMessage ──→ admit (pure) ──→ merge (pure) ──→ plan (pure) ──→ guard (pure) ──→ keep on disk ──→ apply:
//!                    │ refused      all sources        ↑               │ held           │ not kept     one order a VM
//!                    └─→ answer                 observe the VMs,       └─→ answer       └─→ answer
//!                                               describe changed definitions
//! ```
//!
//! What operators of this host order of a VM goes before its source's word, until that source says something new of it
//! (`orders`).
//!
//! Applying only tells each VM's supervisor where its VM should be; nothing here waits for a VM, so a stuck one
//! cannot hold up another.

mod admit;
mod amend;
mod apply;
mod capacity;
mod commands;
mod describe;
mod desired;
mod guard;
mod intent;
mod notes;
mod orders;
mod plan;
mod ports;
mod reconcile;
mod source;
mod words;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc::{self, Receiver};
use tokio::sync::oneshot;
use vm_model::{AssignmentSet, Generation, HeldSet, Source, SourceKind, VmId};

pub use admit::{Refusal, admit};
pub use commands::LocalCommand;
pub(crate) use describe::describe;
pub use guard::RemovalLimit;
pub use intent::{DrainState, Intent, Merged, Said, Wanted};
pub(crate) use orders::order_action;
pub use orders::{Given, Orders};
pub use plan::{
    Action, Described, Disks, NewDescription, Observed, ObservedVm, Redefinition, plan, redefined,
};
pub use reconcile::Reconciler;
pub use source::{AssignmentSource, Statement, listen_to};
pub use words::{HeldChoice, WordRefusal};

pub use crate::definition::{Change, Description};
use crate::master::{MasterLink, MasterSettings, sources};
use crate::vms::VmManager;

/// What a node is told.
#[derive(Debug)]
pub enum NodeMessage {
    /// This should run from now on, as far as its source is concerned.
    Assignment {
        /// Who says so.
        source: Source,
        /// Everything that it wants to run.
        desired: AssignmentSet,
        /// Where the verdict goes, if somebody waits for it.
        answer: Option<oneshot::Sender<Result<Verdict, Refusal>>>,
    },
    /// What would change if this should run? Nothing is done.
    Plan {
        /// Who would say so.
        source: Source,
        /// Everything that it would want to run.
        desired: AssignmentSet,
        /// Where the plan goes.
        answer: oneshot::Sender<Result<Preview, Refusal>>,
    },
    /// An administrator of this host changes one VM.
    Command {
        /// In what.
        command: LocalCommand,
        /// Whether it is done.
        mode: CommandMode,
        /// Where the verdict goes.
        answer: oneshot::Sender<Result<Verdict, Refusal>>,
    },
    /// A desired state that is held may be applied.
    LetGo {
        /// Which.
        choice: HeldChoice,
        /// Where the verdict goes, with whose state was let go.
        answer: oneshot::Sender<Result<(SourceKind, Verdict), WordRefusal>>,
    },
    /// What would change if a desired state that is held were applied? Nothing is done.
    ShowHeld {
        /// Which.
        choice: HeldChoice,
        /// Where the plan goes, with whose state it is.
        answer: oneshot::Sender<Result<(SourceKind, Preview), WordRefusal>>,
    },
    /// A source says nothing that can be used any more: what is held of it is forgotten, so that nobody allows what it no
    /// longer says. What is in force stays so.
    SourceLost(SourceKind),
    /// A source is configured no longer: it cannot take back what it said.
    SourceGone(SourceKind),
}

/// Whether a command is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandMode {
    /// It is.
    CarryOut,
    /// What it would do is shown, and nothing is done.
    Show,
}

/// What became of a desired state that was admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The number of its source's state in force.
    pub generation: Generation,
    /// There where the state is not in force, because it waits for somebody's word.
    pub held: Option<HeldSet>,
    /// What was ordered for each VM.
    pub outcomes: Vec<Outcome>,
    /// What that does not tell: that a change is dropped which was refused before.
    pub notes: Vec<String>,
}

/// What became of one action of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The VM it concerns.
    pub vm: VmId,
    /// The action, in words.
    pub action: String,
    /// Why it was not ordered; absent where it was.
    pub problem: Option<String>,
    /// Whether the machine is replaced by another one; not known where its artifact has to be read first, and absent where the
    /// action is not about a changed definition.
    pub restarts: Option<bool>,
}

/// What a desired state would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// There where it would be held.
    pub held: Option<HeldSet>,
    /// All actions, in order.
    pub actions: Vec<Action>,
    /// What actions do not tell: orders of operators that end, what keeps VMs from being as assigned already, what is known of
    /// VMs that would be created.
    pub notes: Vec<String>,
}

/// This host as a member of a fleet.
#[derive(Debug)]
pub struct Node {
    /// Where desired states come in. The node ends when all senders are gone.
    pub node_channel: Receiver<NodeMessage>,
    /// The master this node belongs to.
    pub master_addr: SocketAddr,
    /// The VMs.
    pub vm_manager: Arc<VmManager>,
}

impl Node {
    /// Keeps the VMs as assigned, by the master and by what comes in [`Node::node_channel`], until all senders of that are
    /// gone. The VMs then go on.
    ///
    /// Belongs on a runtime with I/O and time. The master is spoken with in plain TCP, which goes to this host only; [`crate::master::MasterLink`] beside a
    /// [`Reconciler`] speaks with others.
    pub async fn run(self) {
        let Self { mut node_channel, master_addr, vm_manager } = self;
        tracing::info!(master = %master_addr, "node started");
        let (messages, channel) = mpsc::channel(1);
        let (ending, ended) = oneshot::channel::<()>();
        let link = match MasterSettings::on_loopback(master_addr) {
            Ok(settings) => Some(MasterLink::new(Arc::clone(&vm_manager), messages.clone(), settings)),
            Err(problem) => {
                tracing::error!(error = crate::failure::chain(&problem), "no master is spoken with");
                None
            }
        };
        let speaking = async {
            match link {
                Some(link) => link.run(async { drop(ended.await) }).await,
                None => drop(ended.await),
            }
        };
        let passing_on = async move {
            while let Some(message) = node_channel.recv().await {
                if messages.send(message).await.is_err() {
                    break;
                }
            }
            // The link ends, and with its sender the node.
            drop(ending);
        };
        let reconciling = Reconciler::new(Arc::clone(&vm_manager), sources()).run(channel);
        tokio::join!(speaking, passing_on, reconciling);
        tracing::info!(master = %master_addr, "node ended");
    }
}
