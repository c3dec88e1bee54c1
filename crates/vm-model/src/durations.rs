//! How often something took how long: counts between bounds that never change, as plain values and as something that any
//! thread can record into without waiting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The upper bounds, lowest first. A duration of exactly a bound counts below it. What is longer than the last one is
/// counted apart. They are part of what processes of several releases tell each other, so they stay as they are.
pub const DURATION_BOUNDS: [Duration; BOUNDS] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(10),
    Duration::from_secs(60),
];

const BOUNDS: usize = 13;
const BUCKETS: usize = BOUNDS + 1;

/// How often something took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DurationCounts {
    buckets: Buckets,
    /// All durations together.
    pub sum: Duration,
}

/// Counts by [`DURATION_BOUNDS`], each without those of lower bounds. Read from any list: one of another length, which no
/// release writes, counts as empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
struct Buckets([u64; BUCKETS]);

impl From<Vec<u64>> for Buckets {
    fn from(counts: Vec<u64>) -> Self {
        Self(counts.try_into().unwrap_or_default())
    }
}

impl From<Buckets> for Vec<u64> {
    fn from(Buckets(counts): Buckets) -> Self {
        counts.into()
    }
}

impl DurationCounts {
    /// How many durations there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// How many durations were within each bound, those within lower ones included.
    pub fn up_to(&self) -> impl Iterator<Item = (Duration, u64)> {
        DURATION_BOUNDS.into_iter().zip(self.buckets.0).scan(0_u64, |sum, (bound, count)| {
            *sum = sum.saturating_add(count);
            Some((bound, *sum))
        })
    }

    /// Adds one duration.
    pub fn record(&mut self, took: Duration) {
        let count = &mut self.buckets.0[bucket_of(took)];
        *count = count.saturating_add(1);
        self.sum = self.sum.saturating_add(took);
    }

    /// Replaces each figure by what `with` makes of it and of the same one of `other`. Durations are nanoseconds there.
    pub fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64 + Copy) {
        let Self { buckets, sum } = other;
        for (count, other) in self.buckets.0.iter_mut().zip(buckets.0) {
            *count = with(*count, other);
        }
        combine_time(&mut self.sum, *sum, with);
    }
}

/// [`DurationCounts`] that several threads record into and read from.
#[derive(Debug, Default)]
pub struct DurationRecorder {
    buckets: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
}

impl DurationRecorder {
    /// Adds one duration: two additions to memory, no waiting.
    pub fn record(&self, took: Duration) {
        self.buckets[bucket_of(took)].fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(nanoseconds(took), Ordering::Relaxed);
    }

    /// What was recorded so far, each value on its own.
    #[must_use]
    pub fn counts(&self) -> DurationCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DurationCounts {
            buckets: Buckets(std::array::from_fn(|index| load(&self.buckets[index]))),
            sum: Duration::from_nanos(load(&self.nanoseconds)),
        }
    }
}

/// The index of the bucket that `took` belongs to: always one that is there.
fn bucket_of(took: Duration) -> usize {
    DURATION_BOUNDS.partition_point(|bound| *bound < took)
}

/// As [`DurationCounts::combine`], for one duration.
pub(crate) fn combine_time(time: &mut Duration, other: Duration, with: impl Fn(u64, u64) -> u64) {
    *time = Duration::from_nanos(with(nanoseconds(*time), nanoseconds(other)));
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duration_counts_within_its_bound_and_every_higher_one() {
        let recorder = DurationRecorder::default();
        for took in [100, 101, 600_000, 90_000_000] {
            recorder.record(Duration::from_micros(took));
        }
        let counts = recorder.counts();
        let up_to: Vec<u64> = counts.up_to().map(|(_, count)| count).collect();
        assert_eq!(up_to, [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3], "the longest is beyond the last bound");
        assert_eq!((counts.count(), counts.sum), (4, Duration::from_micros(90_600_201)));
        let mut plain = DurationCounts::default();
        for took in [100, 101, 600_000, 90_000_000] {
            plain.record(Duration::from_micros(took));
        }
        assert_eq!(plain, counts);
    }

    #[test]
    fn a_list_of_another_length_counts_as_empty() {
        let read = |text: &str| serde_json::from_str::<DurationCounts>(text).expect("it is taken");
        assert_eq!(read("{}"), DurationCounts::default());
        let sum = r#""sum":{"secs":1,"nanos":0}"#;
        for list in [String::from("[]"), "[1,2]".to_owned(), format!("{:?}", [1; 15])] {
            assert_eq!(read(&format!(r#"{{"buckets":{list},{sum}}}"#)).count(), 0, "{list}");
        }
        assert_eq!(read(&format!(r#"{{"buckets":{:?},{sum}}}"#, [1; 14])).count(), 14);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(times in proptest::collection::vec(any::<u64>(), 0..20)) {
            let mut counts = DurationCounts::default();
            times.iter().for_each(|time| counts.record(Duration::from_nanos(*time)));
            let text = serde_json::to_string(&counts)?;
            prop_assert_eq!(serde_json::from_str::<DurationCounts>(&text)?, counts);
            prop_assert_eq!(counts.count(), times.len() as u64);
        }
    }
}
