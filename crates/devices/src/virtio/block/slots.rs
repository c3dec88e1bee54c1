//! Which requests are in flight, by slot.

use std::ops::Range;
use std::time::Instant;

use crate::virtio::queue::Chain;
use crate::virtio::vectors::IoVectors;

use super::kept::Attempt;
use super::request::Request;

/// A request in flight.
pub(super) struct InFlight {
    /// The queue it came from.
    pub(super) lane: u16,
    pub(super) chain: Chain,
    pub(super) request: Request,
    /// From the first byte of the disk that it reaches to the last; empty where it reaches none.
    pub(super) span: Range<u64>,
    pub(super) attempt: Attempt,
    /// When the turn began in which it was taken from its queue.
    pub(super) taken_at: Instant,
}

/// A fixed number of slots, each with vectors of its own to reuse.
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u16>,
}

#[derive(Default)]
struct Slot {
    /// `None` while free, and while a transfer goes on whose request nobody waits for any more.
    occupant: Option<InFlight>,
    spare: IoVectors,
}

impl Slots {
    pub(super) fn new(count: u16) -> Self {
        let mut slots = Vec::new();
        slots.resize_with(usize::from(count), Slot::default);
        Self { slots, free: (0..count).rev().collect() }
    }

    pub(super) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Takes a free slot and the vectors that go with it.
    pub(super) fn take(&mut self) -> Option<(u16, IoVectors)> {
        let slot = self.free.pop()?;
        let place = self.slots.get_mut(usize::from(slot))?;
        Some((slot, std::mem::take(&mut place.spare)))
    }

    /// Notes whose transfer goes on in `slot`.
    pub(super) fn occupy(&mut self, slot: u16, in_flight: InFlight) {
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            place.occupant = Some(in_flight);
        }
    }

    /// Whose transfer goes on in `slot`, or waits there to be tried again.
    pub(super) fn occupant(&mut self, slot: u16) -> Option<&mut InFlight> {
        self.slots.get_mut(usize::from(slot))?.occupant.as_mut()
    }

    /// Frees `slot` and keeps `spare`, emptied, for its next use; who waited for it.
    pub(super) fn release(&mut self, slot: u16, mut spare: IoVectors) -> Option<InFlight> {
        spare.clear();
        let place = self.slots.get_mut(usize::from(slot))?;
        place.spare = spare;
        self.free.push(slot);
        place.occupant.take()
    }

    /// The lowest offset of what is in flight and changes the disk; the highest number where nothing does. Looks at
    /// every slot.
    pub(super) fn first_change(&self) -> u64 {
        let occupants = self.slots.iter().filter_map(|slot| slot.occupant.as_ref());
        let changes = occupants.filter(|in_flight| in_flight.request.changes_the_disk());
        changes.map(|in_flight| in_flight.span.start).min().unwrap_or(u64::MAX)
    }

    /// Forgets who waits. Their transfers keep their slots until they end.
    pub(super) fn abandon_all(&mut self) {
        for slot in &mut self.slots {
            slot.occupant = None;
        }
    }
}
