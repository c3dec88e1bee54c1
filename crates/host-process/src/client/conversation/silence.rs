//! A process that does not answer, as one that somebody stopped (SIGSTOP), or that the host does not let run. It is asked for its
//! machines' counters again and again, which its first thread answers at once.

use std::time::Duration;

use tokio::time::Instant;

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether a process answers.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// The first time that it was asked since it was heard last.
    asked: Option<Instant>,
    is_noted: bool,
}

impl Silence {
    /// It was asked something.
    pub(super) fn asked(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
    }

    /// It said something, or cannot. Whether it was noted as silent.
    pub(super) fn broken(&mut self) -> bool {
        std::mem::take(self).is_noted
    }

    /// When it is to be noted as silent.
    pub(super) fn noted_at(&self) -> Option<Instant> {
        self.asked.filter(|_| !self.is_noted).map(|asked| asked + PATIENCE)
    }

    /// Whether it is silent at `now` and was not noted as that.
    pub(super) fn take_note(&mut self, now: Instant) -> bool {
        let is_due = self.noted_at().is_some_and(|at| at <= now);
        self.is_noted |= is_due;
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_silent_from_the_first_question_that_it_leaves_unanswered() {
        let (begun, mut silence) = (Instant::now(), Silence::default());
        assert!(silence.noted_at().is_none() && !silence.take_note(begun), "nobody asked");
        silence.asked(begun);
        silence.asked(begun + PATIENCE / 2);
        assert!(!silence.take_note(begun + PATIENCE / 2));
        assert!(silence.take_note(begun + PATIENCE));
        assert!(!silence.take_note(begun + PATIENCE * 2) && silence.noted_at().is_none(), "once");
        assert!(silence.broken() && !silence.broken());
        silence.asked(begun + PATIENCE * 3);
        assert_eq!(silence.noted_at(), Some(begun + PATIENCE * 4));
    }
}
