//! The queues that a driver enabled, in the order in which they take turns.

use crate::virtio::queue::{Queue, QueueFault};

/// One queue being served.
pub(super) struct Lane {
    pub(super) queue: Queue,
    /// There may be chains for which no doorbell will ring.
    pub(super) pending: bool,
}

/// A device's queues; `None` where the driver enabled none.
pub(super) struct Lanes {
    lanes: Vec<Option<Lane>>,
    /// Whose turn is first.
    first: usize,
}

impl Lanes {
    pub(super) fn new(queues: Vec<Option<Queue>>) -> Self {
        let lane = |queue| Lane { queue, pending: true };
        Self { lanes: queues.into_iter().map(|queue| queue.map(lane)).collect(), first: 0 }
    }

    /// Notes that the bell of queue `index` rang.
    pub(super) fn ring(&mut self, index: u16) {
        if let Some(Some(lane)) = self.lanes.get_mut(usize::from(index)) {
            lane.pending = true;
        }
    }

    /// The lane of queue `index`.
    pub(super) fn get_mut(&mut self, index: u16) -> Option<&mut Lane> {
        self.lanes.get_mut(usize::from(index))?.as_mut()
    }

    /// The indices of all queues in the order of this turn.
    pub(super) fn order(&self) -> impl Iterator<Item = u16> + use<> {
        let (first, count) = (self.first, self.lanes.len());
        // At most 2^16 queues have an index.
        (0..count).map(move |place| u16::try_from((first + place) % count).unwrap_or(0))
    }

    /// Lets queue `index` be first in the next turn.
    pub(super) fn start_with(&mut self, index: u16) {
        self.first = usize::from(index);
    }

    /// Lets the queue after the first one be first in the next turn.
    pub(super) fn rotate(&mut self) {
        self.first = (self.first + 1) % self.lanes.len().max(1);
    }

    /// Whether any queue may have chains for which no doorbell will ring.
    pub(super) fn any_pending(&self) -> bool {
        self.lanes.iter().flatten().any(|lane| lane.pending)
    }

    /// Interrupts the driver for what was completed, once a queue.
    pub(super) fn notify(&mut self) -> Result<(), QueueFault> {
        self.lanes.iter_mut().flatten().try_for_each(|lane| lane.queue.notify())
    }
}
