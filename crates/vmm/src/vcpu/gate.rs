//! The gate that every vCPU thread passes before it enters the guest. It holds what all vCPUs are requested to do (run,
//! park or end), counts which have done it, and at times hands each of them a request to answer on its way.
//!
//! ```text
//! event loop:  begin_round ──kicks──→ ... ──→ end_round: an answer, or none, from each vCPU
//! vCPU:        guest → pass: request → answer → guest, or → wait at the gate
//! ```
//!
//! A request of either kind is published under the lock and mirrored in an atomic. A vCPU looks at the mirror before each
//! entry, and the kicks that follow a change make it come back to look (the kick's protocol orders the two).

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::request::{VcpuAnswer, VcpuRequest};

/// The bit of the mirror that says that a [`VcpuRequest`] waits.
const REQUEST: u8 = 1 << 7;

/// What a machine's vCPUs should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RunRequest {
    /// Run the guest.
    Run = 0,
    /// Wait at the gate.
    Park = 1,
    /// Leave for good. Nothing follows it.
    End = 2,
}

/// What a vCPU does at the gate. Called on the vCPU's thread, without the gate's lock.
pub(super) trait AtGate {
    /// It is about to wait. Called once a wait.
    fn parking(&self);

    /// Carries out `request`.
    fn carry_out(&self, request: VcpuRequest) -> VcpuAnswer;
}

/// One machine's gate.
#[derive(Debug)]
pub(super) struct VcpuGate {
    mirror: AtomicU8,
    /// Protects the counts and both requests; a leaf lock, held for a few instructions.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    run: RunRequest,
    members: usize,
    parked: usize,
    /// Numbers of rounds start at 1, so that nobody has answered the first one.
    rounds: u64,
    round: Option<Round>,
}

/// One request to every vCPU, and the answers so far by vCPU.
#[derive(Debug)]
struct Round {
    number: u64,
    request: VcpuRequest,
    answers: Vec<Option<VcpuAnswer>>,
}

impl VcpuGate {
    pub(super) fn new(run: RunRequest) -> Self {
        Self {
            mirror: AtomicU8::new(run as u8),
            state: Mutex::new(State { run, members: 0, parked: 0, rounds: 0, round: None }),
            changed: Condvar::new(),
        }
    }

    /// Requests `run` of all vCPUs; changes nothing after [`RunRequest::End`]. The caller kicks the vCPUs afterwards.
    pub(super) fn request_run(&self, run: RunRequest) {
        let mut state = self.lock();
        if state.run != RunRequest::End {
            state.run = run;
            self.publish(&state);
        }
    }

    /// Hands `request` to each of `vcpus` vCPUs. The caller kicks them afterwards, and ends the round.
    pub(super) fn begin_round(&self, request: VcpuRequest, vcpus: usize) {
        let mut state = self.lock();
        state.rounds += 1;
        let answers = std::iter::repeat_with(|| None).take(vcpus).collect();
        state.round = Some(Round { number: state.rounds, request, answers });
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
    pub(super) fn end_round(&self) -> Vec<Option<VcpuAnswer>> {
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
        let request = if state.round.is_some() { REQUEST } else { 0 };
        self.mirror.store(state.run as u8 | request, Ordering::Release);
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
    gate: Arc<VcpuGate>,
    /// The vCPU's.
    index: u8,
    /// The last round that it took part in.
    answered: Cell<u64>,
}

impl Member {
    pub(super) fn join(gate: &Arc<VcpuGate>, index: u8) -> Self {
        gate.lock().members += 1;
        Self { gate: gate.clone(), index, answered: Cell::new(0) }
    }

    /// Returns when the guest may be entered; `false` when the vCPU is to end.
    pub(super) fn pass(&self, vcpu: &impl AtGate) -> bool {
        if self.gate.mirror.load(Ordering::Acquire) == RunRequest::Run as u8 {
            return true;
        }
        self.stop_at(vcpu)
    }

    #[cold]
    fn stop_at(&self, vcpu: &impl AtGate) -> bool {
        let mut state = self.answer_request(self.gate.lock(), vcpu);
        if state.run == RunRequest::Park {
            drop(state);
            vcpu.parking();
            state = self.gate.lock();
        }
        while state.run == RunRequest::Park {
            state.parked += 1;
            self.gate.changed.notify_all();
            state = self
                .gate
                .changed
                .wait_while(state, |state| {
                    state.run == RunRequest::Park && self.open_request(state).is_none()
                })
                .unwrap_or_else(PoisonError::into_inner);
            state.parked -= 1;
            state = self.answer_request(state, vcpu);
        }
        state.run == RunRequest::Run
    }

    /// The round that this vCPU has not answered yet, and its request.
    fn open_request(&self, state: &State) -> Option<(u64, VcpuRequest)> {
        let round = state.round.as_ref().filter(|round| round.number != self.answered.get())?;
        Some((round.number, round.request))
    }

    fn answer_request<'gate>(
        &'gate self,
        state: MutexGuard<'gate, State>,
        vcpu: &impl AtGate,
    ) -> MutexGuard<'gate, State> {
        let Some((number, request)) = self.open_request(&state).filter(|_| state.run != RunRequest::End)
        else {
            return state;
        };
        self.answered.set(number);
        drop(state);
        let answer = vcpu.carry_out(request);
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
        self.gate.request_run(RunRequest::End);
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

    /// Carries out every request.
    struct Willing;

    impl AtGate for Willing {
        fn parking(&self) {}

        fn carry_out(&self, _request: VcpuRequest) -> VcpuAnswer {
            VcpuAnswer::NmiQueued
        }
    }

    fn answered(gate: &VcpuGate) -> Vec<bool> {
        gate.end_round().iter().map(Option::is_some).collect()
    }

    #[test]
    fn each_member_answers_a_request_once_whether_it_runs_or_is_parked() {
        struct Counting(Arc<AtomicUsize>);
        impl AtGate for Counting {
            fn parking(&self) {}

            fn carry_out(&self, _request: VcpuRequest) -> VcpuAnswer {
                self.0.fetch_add(1, Ordering::Relaxed);
                VcpuAnswer::NmiQueued
            }
        }
        let gate = Arc::new(VcpuGate::new(RunRequest::Run));
        let requests = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..3)
            .map(|index| {
                let (member, vcpu) = (Member::join(&gate, index), Counting(requests.clone()));
                thread::spawn(move || while member.pass(&vcpu) {})
            })
            .collect();
        for round in 1..=40 {
            gate.request_run(if round % 2 == 0 { RunRequest::Run } else { RunRequest::Park });
            gate.begin_round(VcpuRequest::QueueNmi, 3);
            assert!(gate.all_answered(soon()));
            thread::yield_now();
            assert_eq!(answered(&gate), [true; 3]);
            assert_eq!(requests.load(Ordering::Relaxed), round * 3);
        }
        gate.request_run(RunRequest::Park);
        assert!(gate.all_parked_or_ended(soon()), "requests leave nobody outside of the gate");
        gate.request_run(RunRequest::End);
        for thread in threads {
            thread.join().unwrap();
        }
        gate.begin_round(VcpuRequest::QueueNmi, 3);
        assert!(gate.all_answered(soon()), "nobody is there to wait for");
        assert_eq!(answered(&gate), [false; 3]);
    }

    #[test]
    fn a_member_that_does_not_come_is_missing_and_its_late_answer_dropped() {
        let gate = Arc::new(VcpuGate::new(RunRequest::Run));
        let (present, absent) = (Member::join(&gate, 0), Member::join(&gate, 1));
        gate.begin_round(VcpuRequest::ReadRegisters, 2);
        assert!(present.pass(&Willing));
        assert!(!gate.all_answered(Instant::now() + Duration::from_millis(5)));
        assert_eq!(answered(&gate), [true, false]);
        assert!(absent.pass(&Willing));
        gate.begin_round(VcpuRequest::ReadRegisters, 2);
        assert!(absent.pass(&Willing) && present.pass(&Willing));
        assert!(gate.all_answered(Instant::now()));
        assert_eq!(answered(&gate), [true, true]);
    }

    #[test]
    fn members_park_resume_and_end_together() {
        let gate = Arc::new(VcpuGate::new(RunRequest::Park));
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
            gate.request_run(RunRequest::Run);
            while passes.load(Ordering::Relaxed) == before {
                thread::yield_now();
            }
            gate.request_run(RunRequest::Park);
            assert!(gate.all_parked_or_ended(soon()));
            let parked_at = passes.load(Ordering::Relaxed);
            thread::yield_now();
            assert_eq!(passes.load(Ordering::Relaxed), parked_at);
        }
        assert!(!gate.all_ended(Instant::now()));
        gate.request_run(RunRequest::End);
        gate.request_run(RunRequest::Run);
        assert!(gate.all_ended(soon()), "the end is final");
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
