//! What the probes of one VM say together: which is to be run, whether the guest is ready, whether it is dead. Pure.
//!
//! ```text
//!              first vCPU runs            all startup probes passed
//!  not begun ──────────────────▶ starting ─────────────────────────▶ started
//!     ▲                             │ a startup probe failed            │ a liveness probe failed
//!     │ another boot                ▼                                   ▼
//!     └──────────────────────────── dead ◀──────────────────────────────┘
//! ```
//!
//! While starting only startup probes are run; once started only the others. Dead is the end of a boot: nothing is run any
//! more. A pause holds all probes, and nothing is concluded from it.

#[cfg(test)]
mod tests;

use vm_model::{Health, HealthSpec, ProbeHealth, ProbeOutcome, ProbeRole, ProbeSpec, Readiness, VmId};

use crate::finding::Finding;
use crate::schedule::{Moment, Phase, ProbeState};

/// What a guest does at present, as far as its probes are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// There is none that could answer: its machine is being built, or stops.
    Absent,
    /// It runs.
    Running,
    /// Its vCPUs stand still, whoever made them.
    Paused,
}

/// A run of a probe, until its finding is brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The probe, by its place in the definition.
    pub probe: usize,
    /// Which of all runs it is.
    run: u64,
}

/// Where a boot of the guest is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    NotBegun,
    Starting,
    Started,
    Dead(String),
}

#[derive(Clone, Debug)]
struct Probe {
    spec: ProbeSpec,
    state: ProbeState,
    /// The run that is under way.
    run: Option<u64>,
    latest: Option<Finding>,
}

/// The probes of one VM.
#[derive(Clone, Debug)]
pub struct HealthState {
    probes: Vec<Probe>,
    stage: Stage,
    guest: Guest,
    runs: u64,
    /// What earlier workers knew of the boot that goes on.
    carried_over: Option<Health>,
}

impl HealthState {
    /// The probes of `spec` for a VM whose guest is about to boot.
    pub fn new(vm: &VmId, spec: &HealthSpec) -> Self {
        let probe = |spec: &ProbeSpec| Probe {
            state: ProbeState::new(spec.timing, Phase::of(vm, &spec.id)),
            spec: spec.clone(),
            run: None,
            latest: None,
        };
        Self {
            probes: spec.probes.iter().map(probe).collect(),
            stage: Stage::NotBegun,
            guest: Guest::Absent,
            runs: 0,
            carried_over: None,
        }
    }

    /// The same for a guest that goes on under this worker, with what the one before knew of it.
    pub fn carry_over(&mut self, health: Health) {
        self.carried_over = Some(health);
    }

    /// Another guest boots, or the same one anew: everything starts over.
    pub fn rebooted(&mut self) {
        self.probes.iter_mut().for_each(|probe| {
            probe.state.reset();
            (probe.run, probe.latest) = (None, None);
        });
        (self.stage, self.guest, self.carried_over) = (Stage::NotBegun, Guest::Absent, None);
    }

    /// Tells what the guest does from now on.
    pub fn observe(&mut self, guest: Guest, now: Moment) {
        if std::mem::replace(&mut self.guest, guest) == guest {
            return;
        }
        match guest {
            Guest::Running if self.stage == Stage::NotBegun => self.begin_boot(now),
            Guest::Running => self.probes.iter_mut().for_each(|probe| probe.state.resume(now)),
            // One that is absent for a while, as while its machine stops, is not asked either.
            Guest::Paused | Guest::Absent => self.probes.iter_mut().for_each(|probe| {
                probe.state.pause();
                probe.run = None;
            }),
        }
    }

    /// The runs that begin now.
    pub fn take_due(&mut self, now: Moment) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        for (place, probe) in self.probes.iter_mut().enumerate() {
            if probe.state.begin(now) {
                self.runs += 1;
                probe.run = Some(self.runs);
                tickets.push(Ticket { probe: place, run: self.runs });
            }
        }
        tickets
    }

    /// When the next run begins.
    pub fn next_due(&self) -> Option<Moment> {
        self.probes.iter().filter_map(|probe| probe.state.due()).min()
    }

    /// The probe at `place` can tell something new: if it waits, it is due.
    pub fn hasten(&mut self, place: usize, now: Moment) {
        if let Some(probe) = self.probes.get_mut(place) {
            probe.state.hasten(now);
        }
    }

    /// Brings back what a run found. One that was interrupted does not count.
    pub fn finish(&mut self, ticket: Ticket, finding: Finding, now: Moment) {
        let Some(probe) = self.probes.get_mut(ticket.probe).filter(|probe| probe.run == Some(ticket.run))
        else {
            return;
        };
        probe.run = None;
        let success = match &finding {
            Finding::Success => Some(true),
            Finding::Failure(_) => Some(false),
            Finding::Unknown(_) => None,
        };
        if probe.state.finish(success, now) {
            probe.latest = Some(finding);
            self.advance(now);
        }
    }

    /// Whether the guest can serve, and why it cannot.
    pub fn readiness(&self) -> (Readiness, Option<String>) {
        let role = match &self.stage {
            Stage::NotBegun | Stage::Starting if self.has(ProbeRole::Startup) => ProbeRole::Startup,
            Stage::NotBegun | Stage::Starting | Stage::Started => ProbeRole::Readiness,
            Stage::Dead(reason) => return (Readiness::NotReady, Some(reason.clone())),
        };
        let waits_for = self.of(role).find(|probe| probe.state.outcome() != ProbeOutcome::Passing);
        match waits_for {
            Some(probe) => {
                let reason = probe.reason();
                let is_unknown = probe.state.outcome() == ProbeOutcome::Untried
                    && matches!(probe.latest, Some(Finding::Unknown(_)));
                (if is_unknown { Readiness::Unknown } else { Readiness::NotReady }, Some(reason))
            }
            None if self.has(ProbeRole::Startup) || self.has(ProbeRole::Readiness) => {
                (Readiness::Ready, None)
            }
            None => (Readiness::Unknown, None),
        }
    }

    /// Why the guest is held to be dead.
    pub fn dead(&self) -> Option<&str> {
        match &self.stage {
            Stage::Dead(reason) => Some(reason),
            Stage::NotBegun | Stage::Starting | Stage::Started => None,
        }
    }

    /// How each probe fares, in the order of the definition.
    pub fn probes(&self) -> Vec<ProbeHealth> {
        let health = |probe: &Probe| ProbeHealth {
            id: probe.spec.id.clone(),
            role: probe.spec.role,
            outcome: probe.state.outcome(),
            failures: probe.state.failures(),
            problem: probe.problem().map(str::to_owned),
        };
        self.probes.iter().map(health).collect()
    }

    fn begin_boot(&mut self, now: Moment) {
        self.stage = Stage::Starting;
        let carried_over = self.carried_over.take();
        let known = |probe: &Probe| {
            let probes = carried_over.as_ref()?.probes.iter();
            probes.into_iter().find(|known| known.id == probe.spec.id && known.role == probe.spec.role)
        };
        for probe in &mut self.probes {
            let outcome = known(probe).map_or(ProbeOutcome::Untried, |known| known.outcome);
            if probe.spec.role == ProbeRole::Startup {
                // One that failed is tried again: the guest goes on all the same.
                let is_passing = outcome == ProbeOutcome::Passing;
                probe.state.start_with(if is_passing { outcome } else { ProbeOutcome::Untried }, now);
            }
        }
        if self.has_started() {
            self.stage = Stage::Started;
            for probe in &mut self.probes {
                match (probe.spec.role, known(probe).map(|known| known.outcome)) {
                    (ProbeRole::Startup, _) => probe.state.stop(),
                    (ProbeRole::Readiness, Some(outcome)) => probe.state.start_with(outcome, now),
                    (ProbeRole::Readiness, None) | (ProbeRole::Liveness, _) => probe.state.start(now),
                }
            }
        }
    }

    /// Draws the conclusions from results.
    fn advance(&mut self, now: Moment) {
        let fatal = |probe: &&Probe| {
            probe.spec.role != ProbeRole::Readiness && probe.state.outcome() == ProbeOutcome::Failing
        };
        if let Some(reason) = self.probes.iter().find(fatal).map(Probe::reason) {
            self.stage = Stage::Dead(reason);
            self.probes.iter_mut().for_each(|probe| {
                probe.state.stop();
                probe.run = None;
            });
            return;
        }
        if self.stage == Stage::Starting && self.has_started() {
            self.stage = Stage::Started;
            for probe in &mut self.probes {
                match probe.spec.role {
                    ProbeRole::Startup => probe.state.stop(),
                    ProbeRole::Readiness | ProbeRole::Liveness => probe.state.start(now),
                }
            }
        }
    }

    fn has_started(&self) -> bool {
        self.of(ProbeRole::Startup).all(|probe| probe.state.outcome() == ProbeOutcome::Passing)
    }

    fn of(&self, role: ProbeRole) -> impl Iterator<Item = &Probe> {
        self.probes.iter().filter(move |probe| probe.spec.role == role)
    }

    fn has(&self, role: ProbeRole) -> bool {
        self.of(role).next().is_some()
    }
}

impl Probe {
    /// What its latest run found, where that was no success.
    fn problem(&self) -> Option<&str> {
        match &self.latest {
            Some(Finding::Failure(problem) | Finding::Unknown(problem)) => Some(problem),
            Some(Finding::Success) | None => None,
        }
    }

    /// Why it does not pass.
    fn reason(&self) -> String {
        let Self { spec: ProbeSpec { id, role, .. }, .. } = self;
        match self.problem() {
            Some(problem) => format!("{role} probe {id}: {problem}"),
            None => format!("{role} probe {id}: no success yet"),
        }
    }
}
