//! Which refused connections are logged: whoever can dial a master must not fill its log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines are counted over so long.
const WINDOW: Duration = Duration::from_secs(60);
/// So many are written in that time.
const LINES_MOST: u32 = 20;

/// Counts refused connections.
#[derive(Debug, Default)]
pub(super) struct RefusalLog {
    /// Held for a moment.
    window: Mutex<Option<Window>>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    begun: Instant,
    lines: u32,
    left_out: u64,
}

impl RefusalLog {
    /// Counts one that was refused at `now`. Where it is to be logged, how many before it were not since the last line.
    pub(super) fn count(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Window { begun: now, lines: 0, left_out: 0 };
        let current = match window.take() {
            Some(current) if now.saturating_duration_since(current.begun) < WINDOW => current,
            Some(over) => Window { left_out: over.left_out, ..fresh },
            None => fresh,
        };
        if current.lines == LINES_MOST {
            *window = Some(Window { left_out: current.left_out.saturating_add(1), ..current });
            return None;
        }
        *window = Some(Window { lines: current.lines + 1, left_out: 0, ..current });
        Some(current.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refused_connections_is_a_few_lines_a_minute() {
        let (log, now) = (RefusalLog::default(), Instant::now());
        let logged = (0..1000).filter(|_| log.count(now).is_some()).count();
        assert_eq!(logged, 20);
        assert_eq!(log.count(now + WINDOW / 2), None);
        assert_eq!(log.count(now + WINDOW), Some(981), "what was left out is told with the next line");
        assert_eq!(log.count(now + WINDOW), Some(0));
    }
}
