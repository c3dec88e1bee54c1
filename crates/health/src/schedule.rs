//! When one probe is run, and what its results amount to. Pure.
//!
//! ```text
//!          start              begin               finish
//!  idle ─────────▶ waiting ──────────▶ running ──────────▶ waiting …
//!   ▲               │    ▲               │
//!   │ stop     pause│    │resume    pause│        what a run finds that was interrupted by a pause does not count
//!   └───────────────┴─ held ◀────────────┘
//! ```
//!
//! The probes of many VMs that were started at the same time must not be run at the same time: each has a [`Phase`], by
//! which its first run is delayed by up to a second, and the gap after that is shortened by up to half.

#[cfg(test)]
mod tests;

use std::time::Duration;

use vm_model::{ProbeOutcome, ProbeTiming, VmId};

/// A moment, as the time since some beginning that all moments of a VM share.
pub type Moment = Duration;

/// By how much a first run is delayed at most.
const SPREAD_MAX: Duration = Duration::from_secs(1);

/// Where in its period a probe is run, of 65536 places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phase(u16);

impl Phase {
    /// The place of a VM's probe: the same whenever it is asked for, and spread over VMs and probes.
    pub fn of(vm: &VmId, probe: &str) -> Self {
        const OFFSET_BASIS: u32 = 0x811c_9dc5;
        const PRIME: u32 = 0x0100_0193;
        let bytes = vm.as_str().bytes().chain([0]).chain(probe.bytes());
        let hash = bytes.fold(OFFSET_BASIS, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(PRIME));
        let [a, b, c, d] = hash.to_le_bytes();
        Self(u16::from_le_bytes([a ^ c, b ^ d]))
    }

    /// This part of `whole`: from nothing up to, and without, all of it.
    fn part_of(self, whole: Duration) -> Duration {
        whole * u32::from(self.0) / 0x1_0000
    }
}

/// What a probe does at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    /// It is not to be run.
    Idle,
    /// It is run from this moment on.
    Waiting(Moment),
    /// It has been run since this moment.
    Running(Moment),
    /// It is not to be run while the guest is paused.
    Held,
}

/// One probe's schedule and results.
#[derive(Clone, Debug)]
pub struct ProbeState {
    timing: ProbeTiming,
    phase: Phase,
    activity: Activity,
    outcome: ProbeOutcome,
    successes: u32,
    failures: u32,
    /// Whether the gap after a first run is over with.
    is_in_step: bool,
}

impl ProbeState {
    /// A probe that is idle and untried.
    pub const fn new(timing: ProbeTiming, phase: Phase) -> Self {
        Self {
            timing,
            phase,
            activity: Activity::Idle,
            outcome: ProbeOutcome::Untried,
            successes: 0,
            failures: 0,
            is_in_step: false,
        }
    }

    /// Begins: results start over, and the first run is due after the initial delay.
    pub fn start(&mut self, now: Moment) {
        let spread = self.phase.part_of(self.timing.period.min(SPREAD_MAX));
        *self = Self::new(self.timing, self.phase);
        self.activity = Activity::Waiting(now + self.timing.initial_delay + spread);
    }

    /// Begins as [`ProbeState::start`] does, with what is known from before a change of workers.
    pub fn start_with(&mut self, outcome: ProbeOutcome, now: Moment) {
        self.start(now);
        self.outcome = outcome;
    }

    /// Is not run any more. Results stay.
    pub fn stop(&mut self) {
        self.activity = Activity::Idle;
    }

    /// Back to the beginning: idle and untried.
    pub fn reset(&mut self) {
        *self = Self::new(self.timing, self.phase);
    }

    /// Is not run until [`ProbeState::resume`]; a run that is under way does not count.
    pub fn pause(&mut self) {
        match self.activity {
            Activity::Idle => {}
            Activity::Waiting(_) | Activity::Running(_) | Activity::Held => self.activity = Activity::Held,
        }
    }

    /// Is run again after a pause: as after a first run, so that the guest has time to get going. Failures in a row from
    /// before the pause are forgotten.
    pub fn resume(&mut self, now: Moment) {
        if self.activity == Activity::Held {
            self.failures = 0;
            self.is_in_step = true;
            self.activity = Activity::Waiting(now + self.first_gap());
        }
    }

    /// Is due at once, if it waits.
    pub fn hasten(&mut self, now: Moment) {
        if let Activity::Waiting(due) = &mut self.activity {
            *due = now.min(*due);
        }
    }

    /// When it is to be run next.
    pub const fn due(&self) -> Option<Moment> {
        match self.activity {
            Activity::Waiting(due) => Some(due),
            Activity::Idle | Activity::Running(_) | Activity::Held => None,
        }
    }

    /// Whether a run begins now, because one is due.
    pub fn begin(&mut self, now: Moment) -> bool {
        let is_due = self.due().is_some_and(|due| due <= now);
        if is_due {
            self.activity = Activity::Running(now);
        }
        is_due
    }

    /// A run has ended; `success` is `None` where it could not tell anything. False where no run is under way that counts.
    pub fn finish(&mut self, success: Option<bool>, now: Moment) -> bool {
        let Activity::Running(since) = self.activity else {
            return false;
        };
        let gap = if self.is_in_step { self.timing.period } else { self.first_gap() };
        self.is_in_step = true;
        self.activity = Activity::Waiting(now.max(since + gap));
        match success {
            Some(true) => {
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                if self.successes >= self.timing.success_threshold.get() {
                    self.outcome = ProbeOutcome::Passing;
                }
            }
            Some(false) => {
                self.successes = 0;
                self.failures = self.failures.saturating_add(1);
                if self.failures >= self.timing.failure_threshold.get() {
                    self.outcome = ProbeOutcome::Failing;
                }
            }
            None => {}
        }
        true
    }

    /// What its results amount to.
    pub const fn outcome(&self) -> ProbeOutcome {
        self.outcome
    }

    /// Failures in a row up to now.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Half a period and more.
    fn first_gap(&self) -> Duration {
        let half = self.timing.period / 2;
        half + self.phase.part_of(half)
    }
}
