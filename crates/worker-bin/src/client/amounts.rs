//! Spans of time, moments and sizes as people read them.

use std::time::Duration;

use vm_model::{Bytes, Timestamp};

/// A span in its two largest units: `3h 2m`, `45s`.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        (_, _, _) => format!("{days}d {hours}h"),
    }
}

/// A moment in the past, and how long ago that was.
pub(super) fn ago(moment: Timestamp, now: Timestamp) -> String {
    format!("{moment} ({} ago)", span(now.since(moment)))
}

/// A moment to come, and how long it is until then.
pub(super) fn ahead(moment: Timestamp, now: Timestamp) -> String {
    format!("{moment} (in {})", span(moment.since(now)))
}

/// A size.
pub(super) fn size(bytes: u64) -> String {
    Bytes::new(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_shown_in_two_units() {
        for (seconds, shown) in
            [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3_600, "1h 0m"), (10_920, "3h 2m"), (90_000, "1d 1h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), shown);
        }
    }
}
