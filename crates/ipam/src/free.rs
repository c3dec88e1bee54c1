//! The free addresses of a pool and the order in which they are given out.
//!
//! Addresses that were never leased come first, lowest first; after them the one that has been free longest. So
//! neighbours that still remember a removed VM's address do not meet it at a new one for as long as can be.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

/// Free addresses as numbers. Every operation takes logarithmic time; the size follows what was ever leased,
/// not the subnet.
#[derive(Clone, Debug)]
pub(crate) struct FreeAddresses {
    /// Never leased: the first address of each range and its last.
    fresh: BTreeMap<u32, u32>,
    /// Given back: by the moment, oldest first.
    returned: BTreeMap<u64, u32>,
    /// The moment at which each address in `returned` came back.
    moments: HashMap<u32, u64>,
    next_moment: u64,
}

impl FreeAddresses {
    pub(crate) fn new(range: RangeInclusive<u32>) -> Self {
        Self {
            fresh: BTreeMap::from([range.into_inner()]),
            returned: BTreeMap::new(),
            moments: HashMap::new(),
            next_moment: 0,
        }
    }

    /// The address that should be given out next.
    pub(crate) fn next(&self) -> Option<u32> {
        let fresh = self.fresh.first_key_value().map(|(first, _)| *first);
        fresh.or_else(|| self.returned.first_key_value().map(|(_, address)| *address))
    }

    /// Makes `address` no longer free; false when it was not.
    pub(crate) fn take(&mut self, address: u32) -> bool {
        if let Some(moment) = self.moments.remove(&address) {
            self.returned.remove(&moment);
            return true;
        }
        let Some((&first, &last)) = self.fresh.range(..=address).next_back() else {
            return false;
        };
        if last < address {
            return false;
        }
        self.fresh.remove(&first);
        if first < address {
            self.fresh.insert(first, address - 1);
        }
        if address < last {
            self.fresh.insert(address + 1, last);
        }
        true
    }

    /// Makes `address`, which [`FreeAddresses::take`] took, free again and last in turn.
    pub(crate) fn give_back(&mut self, address: u32) {
        self.returned.insert(self.next_moment, address);
        self.moments.insert(address, self.next_moment);
        self.next_moment += 1;
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
        fn behaves_as_a_queue(steps in prop::collection::vec((0_u32..3, 0_u32..16), 0..200)) {
            let mut free = FreeAddresses::new(100..=115);
            let mut model: VecDeque<u32> = (100..=115).collect();
            for (kind, offset) in steps {
                let address = 100 + offset;
                match kind {
                    0 => {
                        prop_assert_eq!(free.next(), model.front().copied());
                        if let Some(address) = model.pop_front() {
                            prop_assert!(free.take(address));
                        }
                    }
                    1 => {
                        let before = model.len();
                        model.retain(|other| *other != address);
                        prop_assert_eq!(free.take(address), model.len() < before);
                    }
                    _ => if !model.contains(&address) {
                        free.give_back(address);
                        model.push_back(address);
                    }
                }
            }
        }
    }
}
