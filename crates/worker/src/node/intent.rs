//! What every source has said last, and what that comes to together. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use vm_model::{
    Assignment, AssignmentSet, DesiredState, Generation, Lineage, OperatorOrder, RefusedEntry, SourceKind,
    Timestamp, VmId,
};

use super::orders::{Given, Orders};

/// What every source has said last, as far as it was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    sources: BTreeMap<SourceKind, Said>,
    /// VMs of this host of which nobody is known to have spoken, because what was said was lost. They stay as they are until
    /// somebody does.
    #[serde(default)]
    unclaimed: BTreeSet<VmId>,
    /// What operators of this host ordered over what the sources say.
    #[serde(default, skip_serializing_if = "Orders::is_empty")]
    orders: Orders,
}

/// What one source has said last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Which master said it, and in which counting.
    #[serde(default)]
    pub lineage: Option<Lineage>,
    /// What it said. The generation is always there.
    pub desired: AssignmentSet,
    /// When it had VMs removed or replaced lately, a moment each.
    #[serde(default)]
    pub disruptions: Vec<Timestamp>,
}

/// A VM that should be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What it should be. The state is the one that an operator ordered, where one did.
    pub assignment: Assignment,
    /// The order that goes before the state in its source's assignment.
    pub order: Option<OperatorOrder>,
    /// Who said so.
    pub source: SourceKind,
    /// In which of its states.
    pub generation: Generation,
    /// Whether that source drains this host.
    pub drain: DrainState,
}

/// Whether a source drains this host: wants its VMs off for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainState {
    /// It does not.
    #[default]
    Usual,
    /// It does.
    Drained,
}

/// What all sources come to together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Every VM that should be there.
    pub vms: BTreeMap<VmId, Wanted>,
    /// What is not followed, because another source that goes first speaks of the same VM; by who is not followed.
    pub outranked: BTreeMap<SourceKind, Vec<RefusedEntry>>,
    /// Entries that cannot be used, of VMs that nobody else speaks of. They stay as they are.
    pub untouched: Vec<RefusedEntry>,
}

impl Said {
    /// The number of what was said.
    pub fn generation(&self) -> Generation {
        self.desired.generation.unwrap_or_default()
    }
}

impl Intent {
    /// What `source` has said last.
    pub fn of(&self, source: SourceKind) -> Option<&Said> {
        self.sources.get(&source)
    }

    /// Every source that has spoken, in order.
    pub fn sources(&self) -> impl Iterator<Item = (SourceKind, &Said)> {
        self.sources.iter().map(|(kind, said)| (*kind, said))
    }

    /// What `sources` have said, beside VMs that are `unclaimed`, and the `orders` given over that.
    pub(super) fn of_sources(
        sources: BTreeMap<SourceKind, Said>,
        unclaimed: BTreeSet<VmId>,
        orders: Orders,
    ) -> Self {
        Self { sources, unclaimed, orders }
    }

    /// Nothing is known, and these VMs are there.
    pub(super) fn lost(present: impl IntoIterator<Item = VmId>) -> Self {
        Self { unclaimed: present.into_iter().collect(), ..Self::default() }
    }

    /// VMs of which nobody is known to have spoken.
    pub(super) fn unclaimed(&self) -> &BTreeSet<VmId> {
        &self.unclaimed
    }

    /// The same, with nobody having anything to say of `id` any more.
    #[must_use]
    pub(super) fn without_unclaimed(mut self, id: &VmId) -> Self {
        self.unclaimed.remove(id);
        self
    }

    /// The same, with `said` as the newest word of `source`.
    #[must_use]
    pub fn with(mut self, source: SourceKind, said: Said) -> Self {
        for vm in &said.desired.vms {
            self.unclaimed.remove(&vm.id);
        }
        self.sources.insert(source, said);
        self
    }

    /// The same, with a VM ordered to be in the state `desired`, where its source says `over` of it, and may `drain` this
    /// host.
    #[must_use]
    pub(super) fn with_order(
        mut self,
        over: &Assignment,
        drain: DrainState,
        desired: DesiredState,
        given: Given,
    ) -> Self {
        match (drain, desired) {
            (DrainState::Drained, DesiredState::Stopped) => self.orders.stop_drained(over, given),
            (DrainState::Drained | DrainState::Usual, _) => self.orders.give(over, desired, given),
        }
        self
    }

    /// The same, with an order that holds for the VM of `assignment` going on, now that its source says that of it.
    #[must_use]
    pub(super) fn with_order_carried(mut self, assignment: &Assignment) -> Self {
        self.orders.carry_over(assignment);
        self
    }

    /// The same, without an order for `id`.
    #[must_use]
    pub(super) fn without_order(mut self, id: &VmId) -> Self {
        self.orders.withdraw(id);
        self
    }

    /// The same, without orders that are over because their VMs' sources say something else, or nothing, by now. To be
    /// called whenever what is said or who is listened to has changed: an order does not come back with the words over
    /// which it was given.
    #[must_use]
    pub(super) fn settled(mut self, listened_to: &BTreeSet<SourceKind>) -> Self {
        if !self.orders.is_empty() {
            let said = self.said_together(listened_to);
            self.orders.settle(&said.vms);
        }
        self
    }

    /// What the sources come to together, with the orders in force going before it.
    pub fn merged(&self, listened_to: &BTreeSet<SourceKind>) -> Merged {
        let mut merged = self.said_together(listened_to);
        self.orders.override_states(&mut merged.vms);
        merged
    }

    /// What the sources come to together. One that is not listened to any more is followed only where no other speaks of a
    /// VM: it cannot take back what it said.
    pub(super) fn said_together(&self, listened_to: &BTreeSet<SourceKind>) -> Merged {
        let mut merged = Merged::default();
        let (present, past): (Vec<_>, Vec<_>) =
            self.sources().partition(|(kind, _)| listened_to.contains(kind));
        for (source, said) in present.into_iter().chain(past) {
            let generation = said.generation();
            let drain = if said.desired.drained { DrainState::Drained } else { DrainState::Usual };
            for assignment in &said.desired.vms {
                match merged.vms.get(&assignment.id) {
                    None => {
                        let assignment = assignment.clone();
                        let wanted = Wanted { assignment, order: None, source, generation, drain };
                        merged.vms.insert(wanted.assignment.id.clone(), wanted);
                    }
                    Some(first) => {
                        let problem = format!("{} speaks of this VM too, and goes first", first.source);
                        let entry = RefusedEntry { id: assignment.id.clone(), problem };
                        merged.outranked.entry(source).or_default().push(entry);
                    }
                }
            }
        }
        let refused = self.sources().flat_map(|(_, said)| &said.desired.refused);
        let unclaimed = self.unclaimed.iter().map(|id| RefusedEntry {
            id: id.clone(),
            problem: "nobody is known to have spoken of it".to_owned(),
        });
        let untouched = refused.cloned().chain(unclaimed);
        merged.untouched = untouched.filter(|entry| !merged.vms.contains_key(&entry.id)).collect();
        merged
    }
}

impl Merged {
    /// As one desired state.
    pub fn to_set(&self) -> AssignmentSet {
        let vms = self.vms.values().map(|wanted| wanted.assignment.clone()).collect();
        AssignmentSet { vms, refused: self.untouched.clone(), ..AssignmentSet::default() }
    }

    /// The orders in force.
    pub fn orders(&self) -> BTreeMap<VmId, OperatorOrder> {
        let ordered = self.vms.iter().filter_map(|(id, wanted)| Some((id.clone(), wanted.order.clone()?)));
        ordered.collect()
    }

    /// Whose word each VM follows.
    pub fn owners(&self) -> BTreeMap<VmId, SourceKind> {
        self.vms.iter().map(|(id, wanted)| (id.clone(), wanted.source)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(generation: u64, names: &[&str]) -> Said {
        let vm = |name: &&str| Assignment::new(VmId::new(name), "sha256-x=", "/nix/store/x");
        let vms = names.iter().map(vm).collect();
        let generation = Some(Generation::new(generation));
        Said { desired: AssignmentSet { generation, vms, ..AssignmentSet::default() }, ..Said::default() }
    }

    fn owners(intent: &Intent, listened_to: &[SourceKind]) -> Vec<(String, SourceKind, u64)> {
        let merged = intent.merged(&listened_to.iter().copied().collect());
        let vms = merged.vms.iter();
        vms.map(|(id, wanted)| (id.to_string(), wanted.source, wanted.generation.get())).collect()
    }

    #[test]
    fn a_master_goes_before_the_file_and_both_before_commands() {
        use SourceKind::{File, Local, Master};
        let intent = Intent::default()
            .with(Local, said(1, &["a", "b", "c"]))
            .with(File, said(2, &["a", "b"]))
            .with(Master, said(3, &["a"]));
        let expected =
            [("a", Master, 3), ("b", File, 2), ("c", Local, 1)].map(|(id, who, n)| (id.to_owned(), who, n));
        assert_eq!(owners(&intent, &[File, Local, Master]), expected);
        let outranked = intent.merged(&[File, Local, Master].into()).outranked;
        assert_eq!(outranked[&Local].len(), 2);
        assert_eq!(outranked[&File][0].problem, "the master speaks of this VM too, and goes first");

        let without_master = intent.with(Master, said(4, &[]));
        assert_eq!(owners(&without_master, &[File, Local, Master])[0], ("a".to_owned(), File, 2));
    }

    #[test]
    fn what_nobody_is_known_to_have_spoken_of_stays_until_somebody_does() {
        let both = [VmId::new("a"), VmId::new("b")];
        let intent = Intent::lost(both.clone()).with(SourceKind::File, said(1, &["a"]));
        let untouched = |intent: &Intent| {
            let merged = intent.merged(&[SourceKind::File].into());
            merged.untouched.into_iter().map(|entry| entry.id).collect::<Vec<_>>()
        };
        assert_eq!(untouched(&intent), both[1..]);
        // Who was spoken of once is not unclaimed when that is taken back.
        let intent = intent.with(SourceKind::File, said(2, &[]));
        assert_eq!(untouched(&intent), both[1..]);
        assert_eq!(untouched(&intent.without_unclaimed(&both[1])), []);
    }

    #[test]
    fn who_is_not_listened_to_any_more_keeps_only_what_nobody_else_speaks_of() {
        use SourceKind::{File, Master};
        let intent = Intent::default().with(Master, said(3, &["a", "b"])).with(File, said(2, &["a"]));
        let expected = [("a", File, 2), ("b", Master, 3)].map(|(id, who, n)| (id.to_owned(), who, n));
        assert_eq!(owners(&intent, &[File]), expected);
    }
}
