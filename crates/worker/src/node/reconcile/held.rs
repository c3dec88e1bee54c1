//! Desired states that wait for somebody's word, and previews: of those, and of what a source would say.

use tracing::warn;
use vm_model::{AssignmentSet, HeldSet, HoldReason, Source, SourceKind, Timestamp};

use super::super::apply::Planned;
use super::super::guard::{hold_lineage, hold_removals};
use super::super::intent::Said;
use super::super::notes::{notes, overridden};
use super::super::words::chosen;
use super::super::{HeldChoice, Preview, Refusal, Verdict, WordRefusal};
use super::{HeldOffer, OtherLineage, Reconciler};
use crate::volumes::Thoroughness;

impl Reconciler {
    /// Applies the state that is held and meant by `choice`. Returns whose it was.
    pub(super) async fn let_go(&mut self, choice: HeldChoice) -> Result<(SourceKind, Verdict), WordRefusal> {
        let (offer, other) = self.released(choice)?;
        let verdict = self.take(&offer.source, &offer.desired, other).await?;
        Ok((offer.source.kind(), verdict))
    }

    /// What would follow from that.
    pub(super) async fn show_held(&self, choice: HeldChoice) -> Result<(SourceKind, Preview), WordRefusal> {
        let (offer, other) = self.released(choice)?;
        let preview = self.preview(&offer.source, &offer.desired, other).await?;
        Ok((offer.source.kind(), preview))
    }

    /// The state that is held and meant by `choice`, with the word that it waits for.
    fn released(&self, choice: HeldChoice) -> Result<(HeldOffer, OtherLineage), WordRefusal> {
        let held = self.held.iter().map(|(kind, offer)| (*kind, offer.waits_for));
        let kind = chosen(held, choice)?;
        let nothing = WordRefusal::NothingHeld { word: choice.word };
        let mut offer = self.held.get(&kind).cloned().ok_or(nothing)?;
        let other = match choice.word {
            HoldReason::Removals => {
                offer.desired.allow_removals = true;
                OtherLineage::Waits
            }
            HoldReason::Lineage => OtherLineage::Accepted,
        };
        Ok((offer, other))
    }

    /// What a desired state would change.
    pub(super) async fn preview(
        &self,
        source: &Source,
        offered: &AssignmentSet,
        other: OtherLineage,
    ) -> Result<Preview, Refusal> {
        let now = Timestamp::now();
        let said = self.admit(source, offered, now)?;
        let (intent, planned) = self.plan(source, said, Thoroughness::CompareImages).await;
        let Planned { actions, passing, promises, ports } = planned;
        let (kind, limit) = (source.kind(), self.vm_manager.config().removal_limit);
        let held = self.hold_lineage(source, offered, other, now);
        let had = self.intent.of(kind);
        let held = held.or_else(|| hold_removals(kind, had, intent.of(kind)?, &actions, limit, now));
        let (before, after) =
            (self.intent.merged(&self.listened_to), intent.merged(&self.listening_to(kind)));
        let mut notes = notes(&self.vm_manager, &before, &after, &actions, promises, ports).await;
        notes.extend(passing);
        notes.extend(overridden(&after, kind));
        notes.extend(self.held_of_others(kind));
        Ok(Preview { held, actions, notes })
    }

    /// What waits for somebody's word of other sources than `kind`: a plan for that one does not let it go.
    fn held_of_others(&self, kind: SourceKind) -> Vec<String> {
        let status = self.vm_manager.node_status().borrow().clone();
        let others = status.sources.into_iter().filter(|(source, _)| *source != kind);
        let held = others.filter_map(|(source, status)| Some((source, status.held?)));
        let note = |(source, held): (SourceKind, HeldSet)| {
            let HeldSet { generation, reason, .. } = held;
            format!(
                "what {source} says (generation {generation}) is held, too, and no part of this: {reason}"
            )
        };
        held.map(note).collect()
    }

    pub(super) fn hold_lineage(
        &self,
        source: &Source,
        offered: &AssignmentSet,
        other: OtherLineage,
        now: Timestamp,
    ) -> Option<HeldSet> {
        let speaks = (source.lineage(), offered.generation.unwrap_or_default());
        let held = hold_lineage(self.intent.of(source.kind()), speaks, now);
        held.filter(|_| other == OtherLineage::Waits)
    }

    /// Keeps `offered` until somebody allows it.
    pub(super) fn hold(&mut self, source: &Source, offered: &AssignmentSet, held: HeldSet) -> Verdict {
        warn!(generation = %held.generation, source = %source.kind(), "held: {}", held.reason);
        let (kind, waits_for) = (source.kind(), held.waits_for);
        self.held.insert(kind, HeldOffer { source: source.clone(), desired: offered.clone(), waits_for });
        let generation = self.intent.of(kind).map(Said::generation).unwrap_or_default();
        Verdict { generation, held: Some(held), outcomes: Vec::new(), notes: Vec::new() }
    }
}
