//! What happened on this host lately, for whoever follows it.
//!
//! A ring of bounded length: recording never waits, and a reader that is slower than what happens is told how much it has
//! missed. Where nobody follows, recording wakes nobody. A VM to which much happens, as to one whose process says so, costs others
//! none of their events: beyond its share it makes room by its own.
//!
//! ```
//! use vm_model::{EventKind, VmId};
//! use worker::events::EventLog;
//!
//! let events = EventLog::new(1, 16);
//! events.record(Some(&VmId::new("web-1")), EventKind::Undisturbed);
//! let batch = events.after(0, 10);
//! assert_eq!(batch.events[0].id, 1);
//! assert!(batch.missed.is_none());
//! assert!(events.after(1, 10).events.is_empty());
//! ```

mod node_changes;
mod vm_changes;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use vm_model::{Event, EventKind, Timestamp, VmId};

pub(crate) use self::node_changes::node_changes;
pub(crate) use self::vm_changes::Outline;

/// How many events are kept.
const KEPT: usize = 4096;
/// The part of them that one VM may have once there is no more room.
const SHARE: usize = 8;

/// The newest events of a host.
#[derive(Debug)]
pub struct EventLog {
    /// Protects the ring. Held for moments.
    ring: Mutex<Ring>,
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    /// The number of the next one.
    next: u64,
    kept: usize,
}

/// Events in order, and whether some are missing before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What the reader has not seen and can see no more.
    pub missed: Option<Missed>,
    /// The events after that, oldest first.
    pub events: Vec<Arc<Event>>,
}

/// A stretch of events that are kept no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The last one that the reader has seen.
    pub after: u64,
    /// The oldest one that is still there, or the next to come.
    pub before: u64,
}

impl EventLog {
    /// A log whose first event gets the number `first` and that keeps the newest `kept`.
    pub fn new(first: u64, kept: usize) -> Self {
        let ring = Ring { events: VecDeque::new(), next: first, kept: kept.max(1) };
        Self { ring: Mutex::new(ring), newest: watch::Sender::new(first.saturating_sub(1)) }
    }

    /// The log of a worker that starts now. Its numbers begin at the clock's microseconds, so that they are higher than
    /// those of the worker before it: who asks for what followed an event of that one is told that some are missing.
    pub(crate) fn of_this_start() -> Self {
        Self::new(Timestamp::now().as_millis().saturating_mul(1000), KEPT)
    }

    /// Something happened, to `vm` where it concerns one.
    pub fn record(&self, vm: Option<&VmId>, kind: EventKind) {
        let mut ring = self.lock();
        let id = ring.next;
        ring.next = id.saturating_add(1);
        ring.make_room(vm);
        ring.events.push_back(Arc::new(Event { id, at: Timestamp::now(), vm: vm.cloned(), kind }));
        // While the ring is held: the number never goes back.
        self.newest.send_replace(id);
    }

    /// The number of the newest event; one less than the first one's where none happened yet.
    pub fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// The number of the newest event, now and whenever one more happened.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// At most `most` events after number `seen`, up to the next one that is missing. One that is higher than the newest is of
    /// another log, so everything that is kept follows it.
    pub fn after(&self, seen: u64, most: usize) -> Batch {
        let ring = self.lock();
        let is_other = seen >= ring.next;
        let first = if is_other { 0 } else { ring.events.partition_point(|event| event.id <= seen) };
        let before = ring.events.get(first).map_or(ring.next, |event| event.id);
        let is_gap = is_other || seen.saturating_add(1) < before;
        let missed = is_gap.then_some(Missed { after: seen, before });
        let in_a_row =
            (before..).zip(ring.events.iter().skip(first)).take_while(|(id, event)| event.id == *id);
        let events = in_a_row.take(most).map(|(_, event)| event.clone()).collect();
        Batch { missed, events }
    }

    /// All events after number `seen`. Where several stretches are missing the first is told; of the others the numbers tell.
    pub fn all_after(&self, seen: u64) -> Batch {
        let Batch { missed, mut events } = self.after(seen, usize::MAX);
        if let Some(last) = events.last().map(|event| event.id) {
            events.extend(self.lock().events.iter().filter(|event| event.id > last).cloned());
        }
        Batch { missed, events }
    }

    /// Everything that is kept.
    pub fn kept(&self) -> Vec<Arc<Event>> {
        self.lock().events.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// Lets the oldest event go where there is no room for another: of all, or of `vm` where that has its share.
    fn make_room(&mut self, vm: Option<&VmId>) {
        if self.events.len() < self.kept {
            return;
        }
        let is_its = |event: &Arc<Event>| vm.is_some() && event.vm.as_ref() == vm;
        let share = (self.kept / SHARE).max(1);
        let has_its_share = self.events.iter().filter(|event| is_its(event)).count() >= share;
        let oldest = has_its_share.then(|| self.events.iter().position(is_its)).flatten();
        self.events.remove(oldest.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(batch: &Batch) -> Vec<u64> {
        batch.events.iter().map(|event| event.id).collect()
    }

    proptest! {
        /// A reader that asks now and then sees every number once, or is told which it does not see.
        #[test]
        fn nothing_is_lost_in_silence(
            first in 1_u64..1_000_000,
            kept in 1_usize..20,
            steps in proptest::collection::vec((0_usize..30, 1_usize..10, 0_u8..4), 1..20),
        ) {
            let log = EventLog::new(first, kept);
            let mut seen = first - 1;
            for (recorded, most, vm) in steps {
                let vm = (vm > 0).then(|| VmId::new(&format!("vm-{vm}")));
                for _ in 0..recorded {
                    log.record(vm.as_ref(), EventKind::Undisturbed);
                }
                let batch = log.after(seen, most);
                let mut expected = seen + 1;
                if let Some(missed) = batch.missed {
                    prop_assert_eq!(missed.after, seen);
                    prop_assert!(missed.before > expected);
                    expected = missed.before;
                }
                for number in numbers(&batch) {
                    prop_assert_eq!(number, expected);
                    expected += 1;
                }
                prop_assert!(batch.events.len() <= most);
                let is_gap_next = log.after(expected - 1, 1).missed.is_some();
                prop_assert!(batch.events.len() == most || expected == log.newest() + 1 || is_gap_next);
                seen = expected - 1;
            }
        }
    }

    #[test]
    fn one_vm_pushes_no_others_events_out() {
        let log = EventLog::new(1, 80);
        let (quiet, loud) = (VmId::new("quiet"), VmId::new("loud"));
        for _ in 0..40 {
            log.record(Some(&quiet), EventKind::Undisturbed);
            log.record(None, EventKind::Undisturbed);
        }
        for _ in 0..1000 {
            log.record(Some(&loud), EventKind::Undisturbed);
        }
        let kept = log.kept();
        let of = |vm: Option<&VmId>| kept.iter().filter(|event| event.vm.as_ref() == vm).count();
        assert_eq!((kept.len(), of(Some(&loud))), (80, 80 / SHARE));
        assert_eq!(of(Some(&quiet)) + of(None), 80 - 80 / SHARE);
        // Whoever reads on is told of the gap, and gets everything that is there.
        let (mut seen, mut read, mut gaps) = (0, 0, 0);
        while seen < log.newest() {
            let batch = log.after(seen, 7);
            gaps += usize::from(batch.missed.is_some());
            read += batch.events.len();
            seen = batch.events.last().expect("there is more").id;
        }
        assert_eq!((read, gaps), (80, 2));
        assert_eq!(log.all_after(0).events, kept);
    }

    #[test]
    fn a_number_of_another_log_is_a_gap_before_all_that_is_kept() {
        let log = EventLog::new(100, 4);
        for seen in [7, 500] {
            let batch = log.after(seen, 10);
            assert_eq!(batch.missed, Some(Missed { after: seen, before: 100 }), "{seen}");
        }
        log.record(None, EventKind::Undisturbed);
        assert_eq!(numbers(&log.after(500, 10)), [100]);
        assert_eq!(log.after(99, 10).missed, None);
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let log = Arc::new(EventLog::new(1, 4));
        let mut news = log.watch();
        assert!(!news.has_changed().expect("the log is there"));
        log.record(None, EventKind::Undisturbed);
        news.changed().await.expect("the log is there");
        assert_eq!(*news.borrow_and_update(), 1);
    }
}
