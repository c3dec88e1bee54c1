//! The loop that keeps this host's VMs equal to what was assigned: observe, plan, apply.
//!
//! ```text
//!  NodeMessage ──→ admit (pure) ──→ keep on disk ──→ plan (pure) ──→ apply: one order a VM
//!                    │ refused                          ↑
//!                    └─→ answer                   observe the VMs
//! ```
//!
//! Applying only tells each VM's supervisor where its VM should be; nothing here waits for a VM, so a stuck one
//! cannot hold up another.

mod admit;
mod desired;
mod plan;
mod reconcile;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;
use vm_model::{AssignmentSet, Generation};

pub use admit::{Refusal, admit};
pub use plan::{Action, Observed, plan};
pub use reconcile::Reconciler;

use crate::vms::VmManager;

/// What a node is told.
#[derive(Debug)]
pub enum NodeMessage {
    /// This should run from now on.
    Assignment {
        /// Everything that should run.
        desired: AssignmentSet,
        /// Where the verdict goes, if somebody waits for it: the generation in force, or why it was refused.
        answer: Option<oneshot::Sender<Result<Generation, Refusal>>>,
    },
}

/// This host as a member of a fleet.
#[derive(Debug)]
pub struct Node {
    /// Where desired states come in. The node ends when all senders are gone.
    pub node_channel: Receiver<NodeMessage>,
    /// The master this node belongs to; names it in the log.
    pub master_addr: SocketAddr,
    /// The VMs.
    pub vm_manager: Arc<VmManager>,
}

impl Node {
    /// Keeps the VMs as assigned until all senders of [`Node::node_channel`] are gone. The VMs then go on.
    pub async fn run(self) {
        tracing::info!(master = %self.master_addr, "node started");
        Reconciler::new(self.vm_manager).run(self.node_channel).await;
        tracing::info!(master = %self.master_addr, "node ended");
    }
}
