//! Which resets are carried out in place, that is by the machine's own host and on the machine's own thread, without
//! anybody above having to answer. Pure: time comes in as a parameter.
//!
//! The figures of the default live here alone; who makes a guest wait that resets itself more often takes them from
//! here, too.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What a guest's reset does to its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetPolicy {
    /// It ends it, and whoever launched it decides what follows.
    EndsMachine,
    /// The machine is rebuilt in place, as often as this; one more ends it.
    InPlace(ResetLimit),
}

impl Default for ResetPolicy {
    fn default() -> Self {
        Self::InPlace(ResetLimit::default())
    }
}

/// How many resets within which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetLimit {
    /// So many.
    pub count: u32,
    /// Within any span of this length.
    pub window: Duration,
}

impl Default for ResetLimit {
    /// Five in a minute: more than an installation or an update takes.
    fn default() -> Self {
        Self { count: 5, window: Duration::from_secs(60) }
    }
}

/// How often a machine was rebuilt in place since it was launched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResetCounts {
    /// Because its guest, or the guest's watchdog, asked for it.
    pub by_guest: u64,
    /// Because its reset button was pressed.
    pub by_button: u64,
}

impl ResetCounts {
    /// All of them.
    pub fn total(self) -> u64 {
        self.by_guest.saturating_add(self.by_button)
    }
}

/// When resets were, as far back as a window reaches.
#[derive(Clone, Debug, Default)]
pub struct RecentResets(VecDeque<Instant>);

impl RecentResets {
    /// There was one at `now`, no earlier than those before it.
    pub fn note(&mut self, now: Instant) {
        self.0.push_back(now);
    }

    /// How many there were within `window` until `now`. Forgets older ones.
    pub fn within(&mut self, window: Duration, now: Instant) -> usize {
        while self.0.front().is_some_and(|&then| now.saturating_duration_since(then) >= window) {
            self.0.pop_front();
        }
        self.0.len()
    }
}

/// What one machine has left of its limit.
#[derive(Clone, Debug)]
pub struct ResetBudget {
    limit: ResetLimit,
    recent: RecentResets,
}

impl ResetBudget {
    /// All of `limit`.
    pub fn new(limit: ResetLimit) -> Self {
        Self { limit, recent: RecentResets::default() }
    }

    /// Takes one reset at `now`; whether there was one left.
    pub fn take(&mut self, now: Instant) -> bool {
        let used = self.recent.within(self.limit.window, now);
        let is_left = u32::try_from(used).is_ok_and(|used| used < self.limit.count);
        if is_left {
            self.recent.note(now);
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_budget_is_used_up_and_comes_back() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut budget = ResetBudget::new(ResetLimit { count: 2, window: Duration::from_secs(10) });
        assert_eq!([0, 4, 9].map(|second| budget.take(at(second))), [true, true, false]);
        // The one that was refused does not count.
        assert_eq!([10, 13, 14].map(|second| budget.take(at(second))), [true, false, true]);
        let mut none = ResetBudget::new(ResetLimit { count: 0, ..ResetLimit::default() });
        assert!(!none.take(begun));
    }

    #[test]
    fn a_policy_reads_back_from_json() {
        let json = serde_json::to_string(&ResetPolicy::default()).expect("policies serialise");
        assert_eq!(json, r#"{"in_place":{"count":5,"window":{"secs":60,"nanos":0}}}"#);
        assert_eq!(serde_json::from_str::<ResetPolicy>(&json).expect("and parse"), ResetPolicy::default());
        let ends = serde_json::to_string(&ResetPolicy::EndsMachine).expect("policies serialise");
        assert_eq!(ends, r#""ends_machine""#);
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit_in_any_window_and_no_fewer_than_it_allows(
            count in 0_u32..6,
            window in 1_u64..50,
            pauses in proptest::collection::vec(0_u64..30, 0..80),
        ) {
            let limit = ResetLimit { count, window: Duration::from_millis(window) };
            let mut budget = ResetBudget::new(limit);
            let begun = Instant::now();
            let (mut now, mut taken) = (begun, Vec::<Instant>::new());
            for pause in pauses {
                now += Duration::from_millis(pause);
                let recent = taken.iter().filter(|&&then| now - then < limit.window).count();
                let is_left = recent < usize::try_from(count).expect("small");
                prop_assert_eq!(budget.take(now), is_left);
                if is_left {
                    taken.push(now);
                }
            }
            for first in &taken {
                let until = *first + limit.window;
                let within = taken.iter().filter(|&then| then >= first && *then < until).count();
                prop_assert!(within <= usize::try_from(count).expect("small"));
            }
            prop_assert!(budget.recent.0.len() <= usize::try_from(count).expect("small"));
        }
    }
}
