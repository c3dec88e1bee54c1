//! Wakes the thread that looks at machines (`host::watch_thread`), which sleeps while none has anything to serve.
//!
//! ```text
//!   machine's thread or mailbox                watch thread
//!   1. says that it has work                   1. lowers the alarm
//!   2. raises the alarm: one load, and a       2. looks once more: sleeps if no machine has work,
//!      system call if it was lowered              else raises the alarm and goes on looking
//! ```
//!
//! All four are in one order (`SeqCst`), so that either the look sees the work or the work finds the alarm lowered. While
//! the watch thread is awake the alarm stays raised: a turn of a busy machine costs a load of a shared line.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

/// The alarm of one host.
#[derive(Debug, Default)]
pub(crate) struct WatchAlarm {
    /// Whether the watch thread sleeps until this is changed.
    lowered: AtomicBool,
    /// The watch thread is to end.
    over: AtomicBool,
    sleeper: OnceLock<Thread>,
}

impl WatchAlarm {
    /// Something has begun that should come to an end. Called on any thread; never waits.
    pub(crate) fn raise(&self) {
        if self.lowered.load(Ordering::SeqCst) && self.lowered.swap(false, Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Has the watch thread end.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// The calling thread is the one that sleeps here. Called once, by that thread, before anything below.
    pub(crate) fn begin_watch(&self) {
        // A second thread would be another host's.
        let _ = self.sleeper.set(thread::current());
    }

    /// Whether the watch thread is to end.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Lowers the alarm; [`WatchAlarm::raise`] is to be called again if a look after this finds work.
    pub(crate) fn lower(&self) {
        self.lowered.store(true, Ordering::SeqCst);
    }

    /// Returns when the alarm is raised, or the watch is over.
    pub(crate) fn sleep(&self) {
        while self.lowered.load(Ordering::SeqCst) && !self.is_over() {
            thread::park();
        }
    }

    /// Returns after `interval`, or when the watch is over; sometimes before, for no reason.
    pub(crate) fn pause(&self, interval: Duration) {
        if !self.is_over() {
            thread::park_timeout(interval);
        }
    }

    fn wake(&self) {
        if let Some(sleeper) = self.sleeper.get() {
            sleeper.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// A worker and a sleeper that hand a count back and forth: a wake-up that is lost leaves both waiting.
    #[test]
    fn work_that_begins_while_the_alarm_is_lowered_is_never_missed() {
        const ROUNDS: u64 = 20_000;
        let (alarm, work, seen) = (Arc::new(WatchAlarm::default()), Arc::default(), Arc::default());
        let (work, seen): (Arc<AtomicU64>, Arc<AtomicU64>) = (work, seen);
        let sleeper = {
            let (alarm, work, seen) = (alarm.clone(), work.clone(), seen.clone());
            thread::spawn(move || {
                alarm.begin_watch();
                while !alarm.is_over() {
                    alarm.lower();
                    let now = work.load(Ordering::SeqCst);
                    if now == seen.load(Ordering::SeqCst) {
                        alarm.sleep();
                    } else {
                        alarm.raise();
                        seen.store(now, Ordering::SeqCst);
                    }
                }
            })
        };
        for round in 1..=ROUNDS {
            work.store(round, Ordering::SeqCst);
            alarm.raise();
            while seen.load(Ordering::SeqCst) != round {
                thread::yield_now();
            }
        }
        alarm.end();
        sleeper.join().expect("it did not panic");
    }
}
