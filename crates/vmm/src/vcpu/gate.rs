//! The gate every vCPU passes before it enters the guest: one wish for all, a count of who is where, and at times an
//! errand that each vCPU does on its way.
//!
//! ```text
//! event loop:  begin_round ──kicks──→ ... ──→ end_round: an answer, or none, from each vCPU
//! vCPU:        guest → pass: errand → answer → guest, or → wait at the gate
//! ```
//!
//! A wish or an errand is published under the lock and mirrored in an atomic. A vCPU looks at the mirror before each
//! entry, and the kicks that follow a change make it come back to look (the kick's protocol orders the two).

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::errand::{Answer, Errand};

/// The bit of the mirror that says that there is an errand.
const ERRAND: u8 = 1 << 7;

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

/// What a vCPU does at the gate. Called without the gate's lock.
pub(super) trait AtGate {
    /// It is about to wait. Called once a wait.
    fn parking(&self);

    /// Does `errand`.
    fn carry_out(&self, errand: Errand) -> Answer;
}

/// One machine's gate.
#[derive(Debug)]
pub(super) struct Gate {
    mirror: AtomicU8,
    /// Protects the counts, the wish and the errand; a leaf lock, held for a few instructions.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    wish: Wish,
    members: usize,
    parked: usize,
    /// Numbers of rounds start at 1, so that nobody has answered the first one.
    rounds: u64,
    round: Option<Round>,
}

/// One errand, and the answers so far by vCPU.
#[derive(Debug)]
struct Round {
    number: u64,
    errand: Errand,
    answers: Vec<Option<Answer>>,
}

impl Gate {
    pub(super) fn new(wish: Wish) -> Self {
        Self {
            mirror: AtomicU8::new(wish as u8),
            state: Mutex::new(State { wish, members: 0, parked: 0, rounds: 0, round: None }),
            changed: Condvar::new(),
        }
    }

    /// Changes the wish, unless it is [`Wish::End`]. The caller kicks the vCPUs after it.
    pub(super) fn wish(&self, wish: Wish) {
        let mut state = self.lock();
        if state.wish != Wish::End {
            state.wish = wish;
            self.publish(&state);
        }
    }

    /// Sends each of `vcpus` vCPUs on `errand`. The caller kicks them after it, and ends the round.
    pub(super) fn begin_round(&self, errand: Errand, vcpus: usize) {
        let mut state = self.lock();
        state.rounds += 1;
        let answers = std::iter::repeat_with(|| None).take(vcpus).collect();
        state.round = Some(Round { number: state.rounds, errand, answers });
        self.publish(&state);
    }

    /// Waits until every vCPU that is there has answered; `false` when `until` came first.
    pub(super) fn all_answered(&self, until: Instant) -> bool {
        self.wait(until, |state| {
            let answers = state.round.as_ref().map_or(0, |round| round.answers.iter().flatten().count());
            answers >= state.members
        })
    }

    /// The answers by vCPU; an answer that comes later is dropped.
    pub(super) fn end_round(&self) -> Vec<Option<Answer>> {
        let mut state = self.lock();
        let round = state.round.take();
        self.publish(&state);
        round.map_or_else(Vec::new, |round| round.answers)
    }

    /// Waits until every vCPU is parked or gone; `false` when `until` came first.
    pub(super) fn all_parked_or_ended(&self, until: Instant) -> bool {
        self.wait(until, |state| state.parked == state.members)
    }

    /// Waits until every vCPU is gone; `false` when `until` came first.
    pub(super) fn all_ended(&self, until: Instant) -> bool {
        self.wait(until, |state| state.members == 0)
    }

    fn publish(&self, state: &State) {
        let errand = if state.round.is_some() { ERRAND } else { 0 };
        self.mirror.store(state.wish as u8 | errand, Ordering::Release);
        self.changed.notify_all();
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
    /// The vCPU's.
    index: u8,
    /// The last round that it took part in.
    answered: Cell<u64>,
}

impl Member {
    pub(super) fn join(gate: &Arc<Gate>, index: u8) -> Self {
        gate.lock().members += 1;
        Self { gate: gate.clone(), index, answered: Cell::new(0) }
    }

    /// Returns when the guest may be entered; `false` when the vCPU is to end.
    pub(super) fn pass(&self, vcpu: &impl AtGate) -> bool {
        if self.gate.mirror.load(Ordering::Acquire) == Wish::Run as u8 {
            return true;
        }
        self.stop_at(vcpu)
    }

    #[cold]
    fn stop_at(&self, vcpu: &impl AtGate) -> bool {
        let mut state = self.run_errand(self.gate.lock(), vcpu);
        if state.wish == Wish::Park {
            drop(state);
            vcpu.parking();
            state = self.gate.lock();
        }
        while state.wish == Wish::Park {
            state.parked += 1;
            self.gate.changed.notify_all();
            state = self
                .gate
                .changed
                .wait_while(state, |state| state.wish == Wish::Park && self.errand(state).is_none())
                .unwrap_or_else(PoisonError::into_inner);
            state.parked -= 1;
            state = self.run_errand(state, vcpu);
        }
        state.wish == Wish::Run
    }

    /// The round that waits for this vCPU, and its errand.
    fn errand(&self, state: &State) -> Option<(u64, Errand)> {
        let round = state.round.as_ref().filter(|round| round.number != self.answered.get())?;
        Some((round.number, round.errand))
    }

    fn run_errand<'gate>(
        &'gate self,
        state: MutexGuard<'gate, State>,
        vcpu: &impl AtGate,
    ) -> MutexGuard<'gate, State> {
        let Some((number, errand)) = self.errand(&state).filter(|_| state.wish != Wish::End) else {
            return state;
        };
        self.answered.set(number);
        drop(state);
        let answer = vcpu.carry_out(errand);
        let mut state = self.gate.lock();
        let round = state.round.as_mut().filter(|round| round.number == number);
        if let Some(place) = round.and_then(|round| round.answers.get_mut(usize::from(self.index))) {
            *place = Some(answer);
            self.gate.changed.notify_all();
        }
        state
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

    /// Does every errand.
    struct Willing;

    impl AtGate for Willing {
        fn parking(&self) {}

        fn carry_out(&self, _errand: Errand) -> Answer {
            Answer::NmiQueued
        }
    }

    fn answered(gate: &Gate) -> Vec<bool> {
        gate.end_round().iter().map(Option::is_some).collect()
    }

    #[test]
    fn each_member_does_an_errand_once_whether_it_runs_or_is_parked() {
        struct Counting(Arc<AtomicUsize>);
        impl AtGate for Counting {
            fn parking(&self) {}

            fn carry_out(&self, _errand: Errand) -> Answer {
                self.0.fetch_add(1, Ordering::Relaxed);
                Answer::NmiQueued
            }
        }
        let gate = Arc::new(Gate::new(Wish::Run));
        let errands = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..3)
            .map(|index| {
                let (member, vcpu) = (Member::join(&gate, index), Counting(errands.clone()));
                thread::spawn(move || while member.pass(&vcpu) {})
            })
            .collect();
        for round in 1..=40 {
            gate.wish(if round % 2 == 0 { Wish::Run } else { Wish::Park });
            gate.begin_round(Errand::QueueNmi, 3);
            assert!(gate.all_answered(soon()));
            thread::yield_now();
            assert_eq!(answered(&gate), [true; 3]);
            assert_eq!(errands.load(Ordering::Relaxed), round * 3);
        }
        gate.wish(Wish::Park);
        assert!(gate.all_parked_or_ended(soon()), "errands leave nobody astray");
        gate.wish(Wish::End);
        for thread in threads {
            thread.join().unwrap();
        }
        gate.begin_round(Errand::QueueNmi, 3);
        assert!(gate.all_answered(soon()), "nobody is there to wait for");
        assert_eq!(answered(&gate), [false; 3]);
    }

    #[test]
    fn a_member_that_does_not_come_is_missing_and_its_late_answer_dropped() {
        let gate = Arc::new(Gate::new(Wish::Run));
        let (present, absent) = (Member::join(&gate, 0), Member::join(&gate, 1));
        gate.begin_round(Errand::ReadRegisters, 2);
        assert!(present.pass(&Willing));
        assert!(!gate.all_answered(Instant::now() + Duration::from_millis(5)));
        assert_eq!(answered(&gate), [true, false]);
        assert!(absent.pass(&Willing));
        gate.begin_round(Errand::ReadRegisters, 2);
        assert!(absent.pass(&Willing) && present.pass(&Willing));
        assert!(gate.all_answered(Instant::now()));
        assert_eq!(answered(&gate), [true, true]);
    }

    #[test]
    fn members_park_resume_and_end_together() {
        let gate = Arc::new(Gate::new(Wish::Park));
        let passes = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..4)
            .map(|index| {
                let (member, passes) = (Member::join(&gate, index), passes.clone());
                thread::spawn(move || {
                    while member.pass(&Willing) {
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
