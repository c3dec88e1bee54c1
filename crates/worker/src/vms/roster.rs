//! What is known by VM, where each can end by itself. Looking one up asks only that one whether it has ended, so that the
//! cost of a lookup does not grow with the number of VMs; those that have ended are dropped when all are gone over.

use std::collections::BTreeMap;

use vm_model::VmId;

/// What can end by itself.
pub(super) trait Ending {
    /// Whether it has ended.
    fn has_ended(&self) -> bool;
}

/// By VM, what has not ended.
#[derive(Debug)]
pub(super) struct Roster<T> {
    entries: BTreeMap<VmId, T>,
    /// How many entries are put in before those that have ended are dropped.
    insertions_left: usize,
}

/// The least number of insertions between two rounds of dropping.
const INSERTIONS_LEAST: usize = 64;

impl<T> Default for Roster<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), insertions_left: INSERTIONS_LEAST }
    }
}

impl<T: Ending> Roster<T> {
    /// What is known of `id`.
    pub(super) fn get(&self, id: &VmId) -> Option<&T> {
        self.entries.get(id).filter(|entry| !entry.has_ended())
    }

    /// What is known of `id`, to be changed.
    pub(super) fn get_mut(&mut self, id: &VmId) -> Option<&mut T> {
        self.entries.get_mut(id).filter(|entry| !entry.has_ended())
    }

    /// Puts `entry` in the place of what was known of `id`.
    pub(super) fn insert(&mut self, id: VmId, entry: T) {
        // A caller that only ever inserts must not gather what has ended.
        match self.insertions_left.checked_sub(1) {
            Some(left) => self.insertions_left = left,
            None => drop(self.living()),
        }
        self.entries.insert(id, entry);
    }

    /// Takes out what is known of `id`.
    pub(super) fn take(&mut self, id: &VmId) -> Option<T> {
        self.entries.remove(id).filter(|entry| !entry.has_ended())
    }

    /// All that has not ended, after dropping the rest: costs time for each.
    pub(super) fn living(&mut self) -> &mut BTreeMap<VmId, T> {
        self.entries.retain(|_, entry| !entry.has_ended());
        self.insertions_left = self.entries.len().max(INSERTIONS_LEAST);
        &mut self.entries
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    struct Counted {
        asked: Rc<Cell<usize>>,
        has_ended: Rc<Cell<bool>>,
    }

    impl Ending for Counted {
        fn has_ended(&self) -> bool {
            self.asked.set(self.asked.get() + 1);
            self.has_ended.get()
        }
    }

    fn id(number: usize) -> VmId {
        VmId::new(&format!("vm-{number}"))
    }

    #[test]
    fn a_lookup_costs_the_same_however_many_there_are() {
        let (asked, mut roster) = (Rc::new(Cell::new(0)), Roster::default());
        const MANY: usize = 4096;
        for number in 0..MANY {
            roster.insert(id(number), Counted { asked: Rc::clone(&asked), has_ended: Rc::default() });
        }
        assert!(asked.get() <= 2 * MANY, "putting {MANY} in asked {} times", asked.get());
        asked.set(0);
        for number in 0..MANY {
            assert!(roster.get(&id(number)).is_some() && roster.get_mut(&id(number)).is_some());
        }
        assert_eq!(asked.get(), 2 * MANY);
    }

    #[test]
    fn what_has_ended_is_not_there_and_is_dropped_by_and_by() {
        let mut roster = Roster::default();
        let ends: Vec<Rc<Cell<bool>>> = (0..3).map(|_| Rc::default()).collect();
        for (number, has_ended) in ends.iter().enumerate() {
            roster.insert(id(number), Counted { asked: Rc::default(), has_ended: Rc::clone(has_ended) });
        }
        ends[0].set(true);
        ends[1].set(true);
        assert!(roster.get(&id(0)).is_none() && roster.get_mut(&id(0)).is_none());
        assert!(roster.take(&id(1)).is_none() && roster.get(&id(2)).is_some());
        assert_eq!(roster.living().keys().cloned().collect::<Vec<_>>(), [id(2)]);
        for number in 0..10_000 {
            let has_ended = Rc::new(Cell::new(true));
            roster.insert(id(number), Counted { asked: Rc::default(), has_ended });
        }
        assert!(roster.entries.len() <= 2 * INSERTIONS_LEAST, "{}", roster.entries.len());
    }
}
