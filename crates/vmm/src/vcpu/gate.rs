//! The gate every vCPU passes before it enters the guest: one wish for all, and a count of who is where.
//!
//! A wish is published under the lock and mirrored in an atomic. A vCPU looks at the mirror before each entry, and
//! the kicks that follow a changed wish make it come back to look (the kick's protocol orders the two).

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What a machine's vCPUs should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Wish {
    /// Run the guest.
    Run = 0,
    /// Wait at the gate.
    Park = 1,
    /// Leave for good. Nothing follows it.
    End = 2,
}

/// One machine's gate.
#[derive(Debug)]
pub(super) struct Gate {
    mirror: AtomicU8,
    /// Protects the counts and the wish; a leaf lock, held for a few instructions.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    wish: Wish,
    members: usize,
    parked: usize,
}

impl Gate {
    pub(super) fn new(wish: Wish) -> Self {
        Self {
            mirror: AtomicU8::new(wish as u8),
            state: Mutex::new(State { wish, members: 0, parked: 0 }),
            changed: Condvar::new(),
        }
    }

    /// Changes the wish, unless it is [`Wish::End`]. The caller kicks the vCPUs after it.
    pub(super) fn wish(&self, wish: Wish) {
        let mut state = self.lock();
        if state.wish != Wish::End {
            state.wish = wish;
            self.mirror.store(wish as u8, Ordering::Release);
            self.changed.notify_all();
        }
    }

    /// Waits until every vCPU is parked or gone; `false` when `until` came first.
    pub(super) fn all_parked_or_ended(&self, until: Instant) -> bool {
        self.wait(until, |state| state.parked == state.members)
    }

    /// Waits until every vCPU is gone; `false` when `until` came first.
    pub(super) fn all_ended(&self, until: Instant) -> bool {
        self.wait(until, |state| state.members == 0)
    }

    fn wait(&self, until: Instant, reached: impl Fn(&State) -> bool) -> bool {
        let mut state = self.lock();
        while !reached(&state) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, so its content is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A vCPU's place at the gate, from before its thread starts until it ends, by a panic too.
#[derive(Debug)]
pub(super) struct Member {
    gate: Arc<Gate>,
}

impl Member {
    pub(super) fn join(gate: &Arc<Gate>) -> Self {
        gate.lock().members += 1;
        Self { gate: gate.clone() }
    }

    /// Returns when the guest may be entered; `false` when the vCPU is to end. `parking` is called once if there is a
    /// wait.
    pub(super) fn pass(&self, parking: impl FnOnce()) -> bool {
        if self.gate.mirror.load(Ordering::Acquire) == Wish::Run as u8 {
            return true;
        }
        self.wait(parking)
    }

    #[cold]
    fn wait(&self, parking: impl FnOnce()) -> bool {
        let mut state = self.gate.lock();
        if state.wish == Wish::Park {
            drop(state);
            parking();
            state = self.gate.lock();
        }
        while state.wish == Wish::Park {
            state.parked += 1;
            self.gate.changed.notify_all();
            state = self
                .gate
                .changed
                .wait_while(state, |state| state.wish == Wish::Park)
                .unwrap_or_else(PoisonError::into_inner);
            state.parked -= 1;
        }
        state.wish == Wish::Run
    }

    /// Makes this vCPU, and with the caller's kicks all others, leave.
    pub(super) fn end_all(&self) {
        self.gate.wish(Wish::End);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.gate.lock().members -= 1;
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn members_park_resume_and_end_together() {
        let gate = Arc::new(Gate::new(Wish::Park));
        let passes = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (member, passes) = (Member::join(&gate), passes.clone());
                thread::spawn(move || {
                    while member.pass(|| {}) {
                        passes.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        assert!(gate.all_parked_or_ended(soon()));
        assert_eq!(passes.load(Ordering::Relaxed), 0, "nobody passes a gate that starts closed");
        for _ in 0..100 {
            let before = passes.load(Ordering::Relaxed);
            gate.wish(Wish::Run);
            while passes.load(Ordering::Relaxed) == before {
                thread::yield_now();
            }
            gate.wish(Wish::Park);
            assert!(gate.all_parked_or_ended(soon()));
            let parked_at = passes.load(Ordering::Relaxed);
            thread::yield_now();
            assert_eq!(passes.load(Ordering::Relaxed), parked_at);
        }
        assert!(!gate.all_ended(Instant::now()));
        gate.wish(Wish::End);
        gate.wish(Wish::Run);
        assert!(gate.all_ended(soon()), "the end is final");
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
