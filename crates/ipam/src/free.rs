//! The free addresses of a pool and the order in which they are given out.
//!
//! Addresses that were never leased come first, lowest first; after them the one that has been free longest. So
//! neighbours that still remember a removed VM's address do not meet it at a new one for as long as can be. Reserved
//! addresses are in neither order: they are taken only by whoever asks for them.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use crate::range::ReservedRanges;

/// Free addresses as numbers. Every operation takes logarithmic time; the size follows what was ever leased,
/// not the subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FreeAddresses {
    /// Never leased: the first address of each range and its last.
    fresh: BTreeMap<u32, u32>,
    /// Given back: by the moment, oldest first.
    returned: BTreeMap<u64, u32>,
    /// The moment at which each address in `returned` came back.
    moments: HashMap<u32, u64>,
    next_moment: u64,
    reserved: ReservedRanges,
}

/// The place that an address had among the free ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It was never leased.
    Fresh,
    /// It came back at this moment.
    Returned(u64),
    /// It is given to those that ask for it, and has no turn.
    Reserved,
}

impl FreeAddresses {
    /// All of `range`, of which `reserved` have no turn.
    pub(crate) fn new(range: RangeInclusive<u32>, reserved: ReservedRanges) -> Self {
        Self {
            fresh: reserved.gaps(range).into_iter().collect(),
            returned: BTreeMap::new(),
            moments: HashMap::new(),
            next_moment: 0,
            reserved,
        }
    }

    /// The address that should be given out next.
    pub(crate) fn next(&self) -> Option<u32> {
        let fresh = self.fresh.first_key_value().map(|(first, _)| *first);
        fresh.or_else(|| self.returned.first_key_value().map(|(_, address)| *address))
    }

    /// How many addresses are reserved, taken or not.
    pub(crate) fn reserved(&self) -> u32 {
        self.reserved.count()
    }

    /// Makes `address` no longer free; the place that it had, or `None` when it was not free. Whether a reserved address is
    /// free is known to the pool alone.
    pub(crate) fn take(&mut self, address: u32) -> Option<Place> {
        if self.reserved.contain(address) {
            return Some(Place::Reserved);
        }
        if let Some(moment) = self.moments.remove(&address) {
            self.returned.remove(&moment);
            return Some(Place::Returned(moment));
        }
        let (&first, &last) = self.fresh.range(..=address).next_back()?;
        if last < address {
            return None;
        }
        self.fresh.remove(&first);
        if first < address {
            self.fresh.insert(first, address - 1);
        }
        if address < last {
            self.fresh.insert(address + 1, last);
        }
        Some(Place::Fresh)
    }

    /// Makes `address`, which [`FreeAddresses::take`] took, free again and last in turn.
    pub(crate) fn give_back(&mut self, address: u32) {
        if self.reserved.contain(address) {
            return;
        }
        self.returned.insert(self.next_moment, address);
        self.moments.insert(address, self.next_moment);
        self.next_moment += 1;
    }

    /// Undoes [`FreeAddresses::take`]: puts `address` at the place that it had.
    pub(crate) fn undo_take(&mut self, address: u32, place: Place) {
        match place {
            Place::Fresh => self.restore_fresh(address),
            Place::Returned(moment) => {
                self.returned.insert(moment, address);
                self.moments.insert(address, moment);
            }
            Place::Reserved => {}
        }
    }

    /// Undoes [`FreeAddresses::give_back`], the last one that was not undone.
    pub(crate) fn undo_give_back(&mut self, address: u32) {
        if let Some(moment) = self.moments.remove(&address) {
            self.returned.remove(&moment);
            self.next_moment = moment;
        }
    }

    /// Makes `address` one that was never leased, and joins the ranges that it fits between.
    fn restore_fresh(&mut self, address: u32) {
        let last = address.checked_add(1).and_then(|next| self.fresh.remove(&next)).unwrap_or(address);
        let before = self.fresh.range(..address).next_back().filter(|(_, last)| *last + 1 == address);
        let first = before.map_or(address, |(first, _)| *first);
        self.fresh.insert(first, last);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A plain queue is the model: fresh addresses in order, then the returned ones as they came.
        #[test]
        fn behaves_as_a_queue(steps in prop::collection::vec((0_u32..4, 0_u32..16), 0..200)) {
            let mut free = FreeAddresses::new(100..=115, ReservedRanges::default());
            let mut model: VecDeque<u32> = (100..=115).collect();
            for (kind, offset) in steps {
                let address = 100 + offset;
                match kind {
                    0 => {
                        prop_assert_eq!(free.next(), model.front().copied());
                        if let Some(address) = model.pop_front() {
                            prop_assert!(free.take(address).is_some());
                        }
                    }
                    1 => {
                        let before = model.len();
                        model.retain(|other| *other != address);
                        prop_assert_eq!(free.take(address).is_some(), model.len() < before);
                    }
                    2 => if !model.contains(&address) {
                        free.give_back(address);
                        model.push_back(address);
                    }
                    _ => {
                        let before = free.clone();
                        match free.take(address) {
                            Some(place) => free.undo_take(address, place),
                            None => {
                                free.give_back(address);
                                free.undo_give_back(address);
                            }
                        }
                        prop_assert_eq!(&free, &before, "what was undone has left something");
                    }
                }
            }
        }
    }
}
