//! Whether a machine's thread still turns: a generation that it moves on, and what is concluded from looking at it.
//!
//! ```text
//! machine's thread: ──begin──serve──end──(waits)──begin──serve──────────────── …
//! generation:        0  →  1   →   2              →  3
//! looks:                 ↑            ↑                   ↑        ↑      ↑
//!                                     idle                       same generation, with work: hung after a while
//! ```
//!
//! A thread that waits for something to serve is well. One that has something to serve, because it is in a turn or its
//! mailbox rang, and does not move on is not.
//!
//! Who looks sleeps while nothing is served anywhere: a turn that begins then wakes it (see `watch_alarm`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vm_model::ThreadHealth;

use crate::watch_alarm::WatchAlarm;

/// One machine's generation: odd within a turn.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    generation: AtomicU64,
    alarm: Arc<WatchAlarm>,
}

impl Heartbeat {
    /// The heartbeat of a machine without a turn yet; `alarm` wakes who looks at it.
    pub(crate) fn new(alarm: Arc<WatchAlarm>) -> Self {
        Self { generation: AtomicU64::new(0), alarm }
    }

    /// A turn begins.
    pub(crate) fn begin(&self) {
        // In one order with the alarm's own accesses: see there.
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.alarm.raise();
    }

    /// The turn is over.
    pub(crate) fn end(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// What is seen now of a machine whose mailbox rings, or does not.
    pub(crate) fn look(&self, mailbox_rings: bool) -> Look {
        let generation = self.generation.load(Ordering::SeqCst);
        Look { generation, has_work: mailbox_rings || generation % 2 == 1 }
    }
}

/// What is seen of a machine's thread at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// How far it is.
    pub(crate) generation: u64,
    /// Whether it should get further by itself.
    pub(crate) has_work: bool,
}

/// What is remembered of a thread that had work when it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standstill {
    generation: u64,
    since: Instant,
}

/// Decides from what was `remembered` and the `look` at `now`: how the thread is, given that it may stand still for
/// `patience`, and what to remember for the next look.
pub(crate) fn judge(
    remembered: Option<Standstill>,
    look: Look,
    now: Instant,
    patience: Duration,
) -> (ThreadHealth, Option<Standstill>) {
    if !look.has_work {
        return (ThreadHealth::Turning, None);
    }
    match remembered.filter(|standstill| standstill.generation == look.generation) {
        Some(standstill) if now.saturating_duration_since(standstill.since) >= patience => {
            (ThreadHealth::Hung, Some(standstill))
        }
        Some(standstill) => (ThreadHealth::Turning, Some(standstill)),
        None => (ThreadHealth::Turning, Some(Standstill { generation: look.generation, since: now })),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn a_thread_in_a_turn_has_work_and_one_that_waits_only_with_mail() {
        let heartbeat = Heartbeat::new(Arc::default());
        assert_eq!(heartbeat.look(false), Look { generation: 0, has_work: false });
        assert_eq!(heartbeat.look(true), Look { generation: 0, has_work: true });
        heartbeat.begin();
        assert_eq!(heartbeat.look(false), Look { generation: 1, has_work: true });
        heartbeat.end();
        assert_eq!(heartbeat.look(false), Look { generation: 2, has_work: false });
    }

    #[test]
    fn a_standstill_with_work_is_hung_until_the_thread_turns() {
        let begun = Instant::now();
        let (mut remembered, mut seen) = (None, Vec::new());
        for (second, generation, has_work) in [
            (0, 3, true),
            (4, 3, true),
            (5, 3, true),
            (9, 3, true),
            (10, 5, true),
            (14, 5, true),
            (16, 6, false),
        ] {
            let now = begun + Duration::from_secs(second);
            let (health, next) = judge(remembered, Look { generation, has_work }, now, PATIENCE);
            remembered = next;
            seen.push(health == ThreadHealth::Hung);
        }
        assert_eq!(seen, [false, false, true, true, false, false, false]);
        assert_eq!(remembered, None);
    }

    proptest! {
        /// Hung exactly if every look for as long as the patience lasts saw the same generation with work to do.
        #[test]
        fn hung_is_a_standstill_with_work_for_as_long_as_the_patience(
            looks in proptest::collection::vec((0_u64..4, 0_u64..3, any::<bool>()), 1..60),
        ) {
            let begun = Instant::now();
            let (mut remembered, mut seconds, mut generation) = (None, 0, 0);
            // Since when every look had work and this generation.
            let mut since: Option<(u64, u64)> = None;
            for (pause, progress, has_work) in looks {
                seconds += pause;
                // Mostly none, so that standing still is common.
                generation += progress / 2;
                let look = Look { generation, has_work };
                let now = begun + Duration::from_secs(seconds);
                let (health, next) = judge(remembered, look, now, PATIENCE);
                remembered = next;
                since = match since {
                    _ if !has_work => None,
                    Some((at, known)) if known == generation => Some((at, known)),
                    _ => Some((seconds, generation)),
                };
                let expected = since.is_some_and(|(at, _)| seconds - at >= PATIENCE.as_secs());
                prop_assert_eq!(health == ThreadHealth::Hung, expected);
            }
        }
    }
}
