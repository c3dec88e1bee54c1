//! The two stages of the countdown. Pure: the clock comes as a parameter.
//!
//! ```text
//! Stopped ──start──→ First ──its time──→ Second ──its time──→ Stopped (expired)
//!    ↑ stop             ↑ reload, from either │
//!    └──────────────────┴─────────────────────┘          freeze keeps what is left, thaw goes on with it
//! ```

use std::time::{Duration, Instant};

/// How long each stage takes.
pub(super) type Lengths = [Duration; 2];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    First,
    Second,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Course {
    #[default]
    Stopped,
    Counting {
        stage: Stage,
        ends: Instant,
    },
    Frozen {
        stage: Stage,
        left: Duration,
    },
}

/// One watchdog's countdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Countdown {
    course: Course,
    /// Starts frozen, too.
    frozen: bool,
}

/// What went by with the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Nothing,
    /// The first stage is over.
    FirstStage,
    /// Both are.
    Expired,
}

impl Countdown {
    pub(super) fn start(&mut self, now: Instant, lengths: &Lengths) {
        let [left, _] = *lengths;
        self.course = Course::Frozen { stage: Stage::First, left };
        if !self.frozen {
            self.run(now);
        }
    }

    pub(super) fn stop(&mut self) {
        self.course = Course::Stopped;
    }

    /// Begins with the first stage again, if it runs.
    pub(super) fn reload(&mut self, now: Instant, lengths: &Lengths) {
        if self.course != Course::Stopped {
            self.start(now, lengths);
        }
    }

    pub(super) fn freeze(&mut self, now: Instant) {
        self.frozen = true;
        if let Course::Counting { stage, ends } = self.course {
            self.course = Course::Frozen { stage, left: ends.saturating_duration_since(now) };
        }
    }

    pub(super) fn thaw(&mut self, now: Instant) {
        self.frozen = false;
        self.run(now);
    }

    fn run(&mut self, now: Instant) {
        if let Course::Frozen { stage, left } = self.course {
            self.course = Course::Counting { stage, ends: now + left };
        }
    }

    /// When the present stage is over; `None` while no time goes by.
    pub(super) fn ends(&self) -> Option<Instant> {
        match self.course {
            Course::Counting { ends, .. } => Some(ends),
            Course::Stopped | Course::Frozen { .. } => None,
        }
    }

    /// Lets time go by until `now`. An expired countdown is stopped: it expires once.
    pub(super) fn advance(&mut self, now: Instant, lengths: &Lengths) -> Outcome {
        let mut outcome = Outcome::Nothing;
        // Twice at most: there are two stages.
        while let Course::Counting { stage, ends } = self.course
            && ends <= now
        {
            match stage {
                Stage::First => {
                    let [_, second] = *lengths;
                    self.course = Course::Counting { stage: Stage::Second, ends: ends + second };
                    outcome = Outcome::FirstStage;
                }
                Stage::Second => {
                    self.course = Course::Stopped;
                    outcome = Outcome::Expired;
                }
            }
        }
        outcome
    }
}
