//! What other threads leave for the one that writes files. No call here waits for a disk but a flush, which has a
//! deadline.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::kept_console::KeptConsole;

/// Names one registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConsoleKey(u64);

/// What is told of a console. A later variant includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Note {
    /// Something was written.
    Written,
    /// Somebody waits until it is in the files.
    Flush,
    /// Its registration was dropped.
    Leaves,
}

/// What the thread finds in the inbox.
pub(super) struct Mail {
    pub(super) arrivals: Vec<(ConsoleKey, KeptConsole)>,
    pub(super) notes: BTreeMap<ConsoleKey, Note>,
    /// Nothing comes any more once all consoles have left.
    pub(super) is_closed: bool,
}

/// One inbox a thread.
#[derive(Default)]
pub(super) struct Inbox {
    /// Held for a look and a change, and while nothing else is locked or awaited. Every change is whole: a poisoned lock
    /// is used on.
    state: Mutex<State>,
    /// There is something in it for the thread.
    mail: Condvar,
    /// A flush was answered.
    answers: Condvar,
}

/// Bounded by the number of registrations, as is all that is in it.
#[derive(Default)]
struct State {
    next_key: u64,
    arrivals: Vec<(ConsoleKey, KeptConsole)>,
    notes: BTreeMap<ConsoleKey, Note>,
    flushes: BTreeMap<ConsoleKey, Flushes>,
    is_closed: bool,
}

/// The flushes of one console, which are answered together.
#[derive(Default)]
struct Flushes {
    /// Asked for so far.
    asked: u64,
    /// Answered of those.
    answered: u64,
    /// What the latest answer was: whether all was written.
    all_written: bool,
}

impl Inbox {
    /// Hands over a console to be written from now on.
    pub(super) fn add(&self, console: KeptConsole) -> ConsoleKey {
        let mut state = self.lock();
        let key = ConsoleKey(state.next_key);
        state.next_key += 1;
        state.arrivals.push((key, console));
        self.mail.notify_one();
        key
    }

    pub(super) fn leave(&self, key: ConsoleKey, note: Note) {
        let mut state = self.lock();
        let left = state.notes.entry(key).or_insert(note);
        *left = note.max(*left);
        self.mail.notify_one();
    }

    /// Nobody will add a console any more.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.mail.notify_one();
    }

    /// Leaves `note`, waits until it was followed, and answers whether everything is in the files then; `None` at
    /// `deadline`.
    pub(super) fn flush(&self, key: ConsoleKey, note: Note, deadline: Option<Instant>) -> Option<bool> {
        let flushes = self.lock().flushes.entry(key).or_default().ask();
        self.leave(key, note);
        let mut state = self.lock();
        loop {
            let of_console = state.flushes.get(&key)?;
            if of_console.answered >= flushes {
                return Some(of_console.all_written);
            }
            state = wait(&self.answers, state, deadline)?;
        }
    }

    /// How many flushes of the console were asked for: those that a look at it now is an answer to.
    pub(super) fn flushes_asked(&self, key: ConsoleKey) -> u64 {
        self.lock().flushes.get(&key).map_or(0, |flushes| flushes.asked)
    }

    /// Answers the first `count` flushes of the console.
    pub(super) fn answer_flushes(&self, key: ConsoleKey, count: u64, all_written: bool) {
        let mut state = self.lock();
        if let Some(flushes) = state.flushes.get_mut(&key).filter(|flushes| flushes.answered < count) {
            flushes.answered = count;
            flushes.all_written = all_written;
            self.answers.notify_all();
        }
    }

    /// Forgets the flushes of a console for which nobody can wait any more.
    pub(super) fn forget_flushes(&self, key: ConsoleKey) {
        self.lock().flushes.remove(&key);
    }

    /// Takes out what is there; waits for it until `deadline`, without one for ever.
    pub(super) fn take(&self, deadline: Option<Instant>) -> Mail {
        let mut state = self.lock();
        while state.arrivals.is_empty() && state.notes.is_empty() && !state.is_closed {
            match wait(&self.mail, state, deadline) {
                Some(woken) => state = woken,
                None => {
                    state = self.lock();
                    break;
                }
            }
        }
        Mail {
            arrivals: std::mem::take(&mut state.arrivals),
            notes: std::mem::take(&mut state.notes),
            is_closed: state.is_closed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flushes {
    fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }
}

/// Waits on `signal`; `None` where `deadline` has passed.
fn wait<'a>(
    signal: &Condvar,
    state: MutexGuard<'a, State>,
    deadline: Option<Instant>,
) -> Option<MutexGuard<'a, State>> {
    let Some(deadline) = deadline else {
        return Some(signal.wait(state).unwrap_or_else(PoisonError::into_inner));
    };
    let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
    Some(signal.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0)
}
