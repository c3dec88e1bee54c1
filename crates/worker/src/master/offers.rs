//! Assignments on their way to the node, and its verdicts on their way back.

use master_protocol::drivers::OfferedAssignment;
use master_protocol::session::{AssignmentAnswer, AssignmentOffer};
use master_protocol::wire::v1::{Accepted, Epoch, Outcome, RefusalCode, Refused};
use master_protocol::wire::{List, Text};
use tokio::sync::{mpsc, oneshot};
use vm_model::Source;

use crate::node::{NodeMessage, Refusal, Verdict};

/// Hands assignments to the node, one after the other, until either end is gone.
pub(super) async fn forward(mut offered: mpsc::Receiver<OfferedAssignment>, node: mpsc::Sender<NodeMessage>) {
    while let Some((offer, answer)) = offered.recv().await {
        let Some(verdict) = decide(offer, &node).await else { return };
        // The connection may be lost meanwhile; the master says it again on the next one.
        let _ = answer.send(verdict);
    }
}

/// What the node says to `offer`; nothing where it has ended.
async fn decide(offer: AssignmentOffer, node: &mpsc::Sender<NodeMessage>) -> Option<AssignmentAnswer> {
    let AssignmentOffer { lineage, set: desired } = offer;
    let generation = desired.generation.unwrap_or_default().get();
    let epoch = Epoch::cut(lineage.epoch());
    let (answer, verdict) = oneshot::channel();
    let message = NodeMessage::Assignment { source: Source::Master(lineage), desired, answer: Some(answer) };
    node.send(message).await.ok()?;
    Some(match verdict.await.ok()? {
        Ok(verdict) => AssignmentAnswer::Accepted(accepted(verdict, epoch, generation)),
        Err(refusal) => {
            let (code, text) = (code(&refusal), Text::cut(refusal.to_string()));
            AssignmentAnswer::Refused(Refused { epoch, generation, code, text })
        }
    })
}

fn accepted(verdict: Verdict, epoch: Epoch, generation: u64) -> Accepted {
    let Verdict { held, outcomes, generation: _ } = verdict;
    let outcomes = outcomes.into_iter().map(|outcome| Outcome {
        vm: outcome.vm,
        action: Text::cut(outcome.action),
        problem: outcome.problem.map(Text::cut),
    });
    Accepted { epoch, generation, held: held.as_ref().map(Into::into), outcomes: List::cut(outcomes) }
}

fn code(refusal: &Refusal) -> RefusalCode {
    match refusal {
        Refusal::Older { .. } => RefusalCode::Older,
        Refusal::Contradiction { .. } => RefusalCode::Contradiction,
        Refusal::NotKept { .. } => RefusalCode::NotKept,
        Refusal::ListedTwice { .. } | Refusal::Unusable { .. } => RefusalCode::Malformed,
        // Of these only commands on the host are told.
        Refusal::NotLocal { .. } | Refusal::NotAssigned { .. } => RefusalCode::WrongSource,
    }
}
