//! Where desired states come from. Each place is one implementation of [`AssignmentSource`]: the assignments file, the link to
//! a master. A further one is a further implementation, and a kind beside theirs in `vm_model::SourceKind`, whose order says
//! who goes before whom.
//!
//! ```text
//!              next()                        NodeMessage
//!  source ──── Statement ────▶ listen_to ─────────────────▶ node (admits, holds, plans, keeps, applies)
//!         ◀─── acknowledge() ──           ◀── verdict ─────
//! ```
//!
//! A source decides nothing: it reads, says what it has read, and is told what became of that before it is asked again. What
//! was said last is in force for as long as it says nothing else, also while it says that it has nothing that can be used.

use std::future::Future;

use tokio::sync::{mpsc, oneshot};
use vm_model::{AssignmentSet, Source, SourceKind};

use super::{NodeMessage, Refusal, Verdict};

/// A place that says what should run on this host.
pub trait AssignmentSource: Send {
    /// Its kind: the name under which its statements are kept and shown, and its rank.
    fn kind(&self) -> SourceKind;

    /// Waits for the next statement. `None` means that there will be no more; what was said stays in force.
    fn next(&mut self) -> impl Future<Output = Option<Statement>> + Send;

    /// What became of the desired state that [`Self::next`] returned last. Called once for each, before `next` is called
    /// again; not called if the node ends first.
    fn acknowledge(&mut self, verdict: Result<Verdict, Refusal>);
}

/// What a source has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// This should run from now on.
    Desired {
        /// Who says so, and in which lineage of generations.
        source: Source,
        /// Everything that it wants to run, the generation, and the entries that it says cannot be used, with why.
        desired: AssignmentSet,
    },
    /// What the source says at present cannot be used; it has told the log and its status why. What is in force stays so,
    /// and what is held is forgotten.
    Unusable,
    /// The source is configured no longer: others may take over its VMs.
    Gone,
}

/// Hands what `source` says to `node`, one statement after the other, until either has ended.
pub async fn listen_to(mut source: impl AssignmentSource, node: mpsc::Sender<NodeMessage>) {
    while let Some(statement) = source.next().await {
        let kind = source.kind();
        let sent = match statement {
            Statement::Desired { source: speaker, desired } => {
                let (answer, verdict) = oneshot::channel();
                let message = NodeMessage::Assignment { source: speaker, desired, answer: Some(answer) };
                if node.send(message).await.is_err() {
                    return;
                }
                let Ok(verdict) = verdict.await else { return };
                source.acknowledge(verdict);
                Ok(())
            }
            Statement::Unusable => node.send(NodeMessage::SourceLost(kind)).await,
            Statement::Gone => node.send(NodeMessage::SourceGone(kind)).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_model::Generation;

    use super::*;

    /// Says what it was given, and sends on what it is told.
    struct Script {
        statements: Vec<Statement>,
        told: mpsc::Sender<Result<Verdict, Refusal>>,
    }

    impl AssignmentSource for Script {
        fn kind(&self) -> SourceKind {
            SourceKind::File
        }

        async fn next(&mut self) -> Option<Statement> {
            self.statements.pop()
        }

        fn acknowledge(&mut self, verdict: Result<Verdict, Refusal>) {
            self.told.try_send(verdict).expect("the test listens");
        }
    }

    #[tokio::test]
    async fn a_source_is_told_of_each_state_before_it_is_asked_again() {
        let desired = |number| Statement::Desired {
            source: Source::File,
            desired: AssignmentSet { generation: Some(Generation::new(number)), ..AssignmentSet::default() },
        };
        let (told, mut heard) = mpsc::channel(1);
        let statements = vec![Statement::Gone, desired(1), Statement::Unusable, desired(2)];
        let (node, mut messages) = mpsc::channel(1);
        let listening = tokio::spawn(listen_to(Script { statements, told }, node));
        let refusal =
            |current| Refusal::Older { offered: Generation::new(1), current: Generation::new(current) };

        let mut order = Vec::new();
        while let Some(message) = messages.recv().await {
            match message {
                NodeMessage::Assignment { desired, answer, .. } => {
                    let number = desired.generation.expect("numbered").get();
                    order.push(format!("state {number}"));
                    answer.expect("awaited").send(Err(refusal(number))).expect("awaited");
                    assert_eq!(heard.recv().await, Some(Err(refusal(number))));
                }
                NodeMessage::SourceLost(SourceKind::File) => order.push("lost".to_owned()),
                NodeMessage::SourceGone(SourceKind::File) => order.push("gone".to_owned()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(order, ["state 2", "lost", "state 1", "gone"]);
        listening.await.expect("ends in order");
    }

    #[tokio::test]
    async fn a_node_that_has_ended_ends_listening() {
        let (told, mut heard) = mpsc::channel(1);
        let (node, messages) = mpsc::channel(1);
        drop(messages);
        listen_to(Script { statements: vec![Statement::Unusable, Statement::Gone], told }, node).await;
        assert_eq!(heard.recv().await, None, "nothing was acknowledged");
    }
}
