//! Assignments on their way from the link to the node, and its verdicts on their way back.

use master_protocol::drivers::OfferedAssignment;
use master_protocol::session::{AssignmentAnswer, AssignmentOffer};
use master_protocol::wire::v1::{Accepted, Epoch, Outcome, RefusalCode, Refused};
use master_protocol::wire::{List, Text};
use tokio::sync::{mpsc, oneshot};
use vm_model::{Source, SourceKind};

use crate::node::{AssignmentSource, Refusal, Statement, Verdict};

/// What a master assigns, as a source of desired states.
pub(super) struct Offers {
    offered: mpsc::Receiver<OfferedAssignment>,
    /// The one that was said last, until it is acknowledged.
    unanswered: Option<Unanswered>,
}

/// Whose answer is awaited on the link.
struct Unanswered {
    epoch: Epoch,
    generation: u64,
    answer: oneshot::Sender<AssignmentAnswer>,
}

impl Offers {
    /// Those that come in `offered`.
    pub(super) fn new(offered: mpsc::Receiver<OfferedAssignment>) -> Self {
        Self { offered, unanswered: None }
    }
}

impl AssignmentSource for Offers {
    fn kind(&self) -> SourceKind {
        SourceKind::Master
    }

    async fn next(&mut self) -> Option<Statement> {
        let (AssignmentOffer { lineage, set: desired }, answer) = self.offered.recv().await?;
        let generation = desired.generation.unwrap_or_default().get();
        self.unanswered = Some(Unanswered { epoch: Epoch::cut(lineage.epoch()), generation, answer });
        Some(Statement::Desired { source: Source::Master(lineage), desired })
    }

    fn acknowledge(&mut self, verdict: Result<Verdict, Refusal>) {
        let Some(Unanswered { epoch, generation, answer }) = self.unanswered.take() else { return };
        let words = match verdict {
            Ok(verdict) => AssignmentAnswer::Accepted(accepted(verdict, epoch, generation)),
            Err(refusal) => {
                let (code, text) = (code(&refusal), Text::cut(refusal.to_string()));
                AssignmentAnswer::Refused(Refused { epoch, generation, code, text })
            }
        };
        // The connection may be lost meanwhile; the master says it again on the next one.
        let _ = answer.send(words);
    }
}

fn accepted(verdict: Verdict, epoch: Epoch, generation: u64) -> Accepted {
    let Verdict { held, outcomes, generation: _, notes: _ } = verdict;
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
        Refusal::ListedTwice { .. } | Refusal::Unusable { .. } | Refusal::TooMany { .. } => {
            RefusalCode::Malformed
        }
        // Of these only commands on the host are told.
        Refusal::NotLocal { .. } | Refusal::NotAssigned { .. } => RefusalCode::WrongSource,
    }
}
