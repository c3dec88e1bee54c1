//! How much of a bounded whole each guest holds: no guest takes the places of all others.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

/// Places, some of which each guest may hold.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    most: usize,
    most_each: usize,
    /// How many each guest holds; nobody who holds none. The lock is held for one change.
    held: Arc<Mutex<HashMap<Ipv4Addr, usize>>>,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    budget: Budget,
    holder: Ipv4Addr,
}

impl Budget {
    /// `most` places, of which one guest holds at most `most_each`.
    pub(super) fn new(most: usize, most_each: usize) -> Self {
        Self { most, most_each, held: Arc::default() }
    }

    /// A place for `holder`; `None` where it has its share, or all are taken.
    pub(super) fn take(&self, holder: Ipv4Addr) -> Option<Place> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.get(&holder).copied().unwrap_or_default();
        if own >= self.most_each || held.values().sum::<usize>() >= self.most {
            return None;
        }
        held.insert(holder, own + 1);
        Some(Place { budget: self.clone(), holder })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.budget.held.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get_mut(&self.holder) {
            Some(own) if *own > 1 => *own -= 1,
            Some(_) | None => drop(held.remove(&self.holder)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_places_of_all() {
        let budget = Budget::new(5, 3);
        let guest = |last: u8| Ipv4Addr::new(10, 0, 0, last);
        let mut first: Vec<Place> = (0..3).map(|_| budget.take(guest(1)).unwrap()).collect();
        assert!(budget.take(guest(1)).is_none(), "it has its share");
        let _second: Vec<Place> = (0..2).map(|_| budget.take(guest(2)).unwrap()).collect();
        assert!(budget.take(guest(3)).is_none(), "all are taken");
        drop(first.pop());
        let third = budget.take(guest(3)).unwrap();
        assert_eq!(budget.held.lock().unwrap().len(), 3);
        drop((first, third));
        assert_eq!(budget.held.lock().unwrap().len(), 1, "nothing is kept of who holds none");
    }
}
