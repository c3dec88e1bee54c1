//! A model of a VM, its supervisor and its host: whatever happens, there is never a second machine, and once nothing more
//! happens the VM comes to rest where it should be.
//!
//! The model carries out each [`Step`] as the supervisor does, well or badly. Between steps, machines end, orders come,
//! definitions are judged, time goes by and the worker is replaced by another, which begins from what it finds.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// How a machine or a start came to its end.
#[derive(Clone, Copy, Debug)]
enum End {
    PoweredOff,
    FailedForGood,
    Restarts { after: u64 },
}

/// What happens between two steps.
#[derive(Clone, Copy, Debug)]
enum Happening {
    /// Time goes by, in seconds.
    Later(u64),
    /// The machine ends, if there is one; its supervisor has not looked yet.
    MachineEnds(End),
    /// The guest's reset in place or a disk in trouble leaves vCPUs running or parked.
    Vcpus(Vcpus),
    /// Somebody orders it to be so.
    Ordered(Goal),
    /// Somebody asks for a fresh start.
    StartAfresh,
    /// Its definition changes; this becomes of it when it is tried.
    Redefined(Judgement),
    /// Another worker takes over.
    WorkerReplaced,
    /// The next steps go wrong: what is started ends so, and what is stopped does not stop.
    StepsFail(End),
}

/// What becomes of the newest definition when it is made ready.
#[derive(Clone, Copy, Debug)]
enum Judgement {
    Good,
    RefusedForGood,
    RefusedAtFirst,
}

#[derive(Debug)]
struct Machine {
    definition: DefinitionNumber,
    vcpus: Vcpus,
    ended: Option<End>,
}

/// A VM, where everything stands as it really is.
#[derive(Debug)]
struct World {
    now: Instant,
    /// What the supervisor knows. It holds the number of its machine.
    state: RunState<usize>,
    goal: Goal,
    stamp: Stamp,
    candidate: Candidate,
    judgement: Judgement,
    /// All machines there ever were.
    machines: Vec<Machine>,
    failing: Option<End>,
    /// What is on record: the guest had switched itself off and nothing new was asked since.
    powered_off: bool,
    removed: bool,
}

impl World {
    fn new(goal: Goal) -> Self {
        Self {
            now: Instant::now(),
            state: RunState::Off,
            goal,
            stamp: Stamp::default(),
            candidate: Candidate::Unknown,
            judgement: Judgement::Good,
            machines: Vec::new(),
            failing: None,
            powered_off: false,
            removed: false,
        }
    }

    fn alive(&self) -> impl Iterator<Item = usize> {
        (0..self.machines.len()).filter(|number| self.machines[*number].ended.is_none())
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Later(seconds) => self.now += Duration::from_secs(seconds),
            Happening::MachineEnds(end) => {
                for number in self.alive().collect::<Vec<_>>() {
                    self.machines[number].ended = Some(end);
                }
            }
            Happening::Vcpus(vcpus) => {
                for number in self.alive().collect::<Vec<_>>() {
                    self.machines[number].vcpus = vcpus;
                }
            }
            // A VM on its way out stays so.
            Happening::Ordered(_) | Happening::StartAfresh | Happening::Redefined(_)
                if self.goal == Goal::Gone => {}
            Happening::Ordered(goal) => self.goal = goal,
            Happening::StartAfresh => {
                self.goal = Goal::Be(DesiredState::Running);
                self.stamp.revision = self.stamp.revision.next();
            }
            Happening::Redefined(judgement) => {
                self.stamp.definition = self.stamp.definition.next();
                self.judgement = judgement;
                self.candidate = Candidate::Unknown;
            }
            Happening::WorkerReplaced => self.replace_worker(),
            Happening::StepsFail(end) => self.failing = Some(end),
        }
        self.look();
    }

    /// The supervisor notices what its machine has done.
    fn look(&mut self) {
        let RunState::Up { machine, stamp, vcpus, .. } = &mut self.state else { return };
        let (stamp, machine) = (*stamp, &self.machines[*machine]);
        *vcpus = machine.vcpus;
        if let Some(end) = machine.ended {
            self.follow(end, stamp);
        }
    }

    fn follow(&mut self, end: End, stamp: Stamp) {
        self.state = match end {
            End::PoweredOff => RunState::PoweredOff { stamp },
            End::FailedForGood => RunState::Failed { stamp },
            End::Restarts { after } => {
                RunState::Waiting { stamp, until: self.now + Duration::from_secs(after) }
            }
        };
        self.powered_off = matches!(self.state, RunState::PoweredOff { .. });
    }

    /// The next worker knows what is on record and what runs, and counts from zero.
    fn replace_worker(&mut self) {
        let running = match &self.state {
            RunState::Up { machine, .. } => Some(*machine),
            RunState::Off
            | RunState::PoweredOff { .. }
            | RunState::Failed { .. }
            | RunState::Waiting { .. } => None,
        };
        let newest = self.stamp.definition;
        let is_older = running.is_some_and(|number| self.machines[number].definition != newest);
        let runs = DefinitionNumber::default();
        self.stamp = Stamp::default();
        if is_older {
            self.stamp.definition = runs.next();
        }
        if let Some(number) = running {
            self.machines[number].definition = runs;
        }
        self.candidate = Candidate::Unknown;
        self.failing = None;
        let stamp = self.stamp;
        self.state = match running {
            Some(machine) => RunState::Up { stamp, runs, vcpus: self.machines[machine].vcpus, machine },
            None if self.powered_off => RunState::PoweredOff { stamp },
            None => RunState::Off,
        };
    }

    fn next_step(&self) -> Step {
        next_step(&self.state, self.goal, self.stamp, self.candidate, self.now)
    }

    /// Carries out the next step; answers which it was.
    fn step(&mut self) -> Step {
        let step = self.next_step();
        match step {
            Step::Rest | Step::RestUntil(_) => {}
            Step::Boot(vcpus) => self.boot(vcpus),
            Step::Prepare => self.prepare(),
            Step::Stop => {
                // One that does not stop stays, and is tried again.
                if self.failing.take().is_none() {
                    self.end_machine();
                }
            }
            Step::Pause => self.park(Vcpus::Parked),
            Step::Resume => self.park(Vcpus::Running),
            Step::Settle => {
                self.state = RunState::Off;
                self.powered_off = false;
            }
            Step::Remove => self.removed = self.failing.take().is_none(),
        }
        step
    }

    fn boot(&mut self, vcpus: Vcpus) {
        assert_eq!(self.alive().count(), 0, "a second machine at {:?}", self.state);
        self.powered_off = false;
        if let Some(end) = self.failing.take() {
            return self.follow(end, self.stamp);
        }
        let definition = self.stamp.definition;
        self.machines.push(Machine { definition, vcpus, ended: None });
        let machine = self.machines.len() - 1;
        self.state = RunState::Up { stamp: self.stamp, runs: definition, vcpus, machine };
        self.candidate = Candidate::Unknown;
    }

    fn prepare(&mut self) {
        self.candidate = match self.judgement {
            Judgement::Good => Candidate::Ready,
            Judgement::RefusedForGood => Candidate::Refused { retry: None },
            Judgement::RefusedAtFirst => {
                self.judgement = Judgement::Good;
                Candidate::Refused { retry: Some(self.now + Duration::from_secs(5)) }
            }
        };
    }

    fn end_machine(&mut self) {
        let RunState::Up { machine, .. } = self.state else { panic!("no machine to stop: {self:?}") };
        self.machines[machine].ended = Some(End::PoweredOff);
        self.state = RunState::Off;
    }

    fn park(&mut self, wanted: Vcpus) {
        let RunState::Up { machine, vcpus, .. } = &mut self.state else { panic!("no machine to park") };
        if self.failing.take().is_none() {
            self.machines[*machine].vcpus = wanted;
            *vcpus = wanted;
        }
    }

    /// Steps until nothing is left to do, with time going by as it is waited for; how many steps that took.
    fn settle(&mut self) -> usize {
        for count in 0..30 {
            if self.removed {
                return count;
            }
            match self.step() {
                Step::Rest => return count,
                Step::RestUntil(until) => self.now = until,
                Step::Boot(_)
                | Step::Prepare
                | Step::Stop
                | Step::Pause
                | Step::Resume
                | Step::Settle
                | Step::Remove => {}
            }
        }
        panic!("it does not come to rest: {self:?}");
    }

    /// Whether the VM is where it should be, or may stay where it is.
    fn is_at_rest_as_it_should_be(&self) -> bool {
        match (self.goal, &self.state) {
            (Goal::Gone, _) => self.removed && self.alive().count() == 0,
            (Goal::Suspended, RunState::Off | RunState::PoweredOff { .. } | RunState::Failed { .. })
            | (Goal::Be(DesiredState::Stopped), RunState::Off) => self.alive().count() == 0,
            (
                Goal::Be(DesiredState::Running | DesiredState::Paused),
                RunState::PoweredOff { stamp } | RunState::Failed { stamp },
            ) => *stamp == self.stamp && self.alive().count() == 0,
            (
                Goal::Be(desired @ (DesiredState::Running | DesiredState::Paused)),
                RunState::Up { machine, runs, stamp, .. },
            ) => {
                let wanted = if desired == DesiredState::Paused { Vcpus::Parked } else { Vcpus::Running };
                let is_newest = *runs == self.stamp.definition
                    || matches!(self.candidate, Candidate::Refused { retry: None });
                self.alive().eq([*machine])
                    && self.machines[*machine].vcpus == wanted
                    && stamp.revision == self.stamp.revision
                    && is_newest
            }
            (Goal::Suspended | Goal::Be(_), _) => false,
        }
    }
}

fn any_goal() -> impl Strategy<Value = Goal> {
    prop_oneof![
        1 => Just(Goal::Gone),
        1 => Just(Goal::Suspended),
        4 => Just(Goal::Be(DesiredState::Running)),
        2 => Just(Goal::Be(DesiredState::Paused)),
        2 => Just(Goal::Be(DesiredState::Stopped)),
    ]
}

fn any_end() -> impl Strategy<Value = End> {
    prop_oneof![
        Just(End::PoweredOff),
        Just(End::FailedForGood),
        (0_u64..60).prop_map(|after| End::Restarts { after }),
    ]
}

fn any_happening() -> impl Strategy<Value = Happening> {
    let judgement =
        prop_oneof![Just(Judgement::Good), Just(Judgement::RefusedForGood), Just(Judgement::RefusedAtFirst)];
    prop_oneof![
        (0_u64..90).prop_map(Happening::Later),
        any_end().prop_map(Happening::MachineEnds),
        prop_oneof![Just(Vcpus::Running), Just(Vcpus::Parked)].prop_map(Happening::Vcpus),
        any_goal().prop_map(Happening::Ordered),
        Just(Happening::StartAfresh),
        judgement.prop_map(Happening::Redefined),
        Just(Happening::WorkerReplaced),
        any_end().prop_map(Happening::StepsFail),
    ]
}

/// What happens, each followed by some steps.
fn any_history() -> impl Strategy<Value = Vec<(Happening, usize)>> {
    vec((any_happening(), 0_usize..5), 0..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_happens_there_is_one_machine_and_it_comes_to_rest(
        goal in any_goal(), history in any_history(),
    ) {
        let mut world = World::new(goal);
        for (happening, steps) in history {
            if world.removed {
                break;
            }
            world.happen(happening);
            for _ in 0..steps {
                if world.removed {
                    break;
                }
                let was_up = matches!(world.state, RunState::Up { .. });
                let step = world.step();
                prop_assert!(!(was_up && matches!(step, Step::Boot(_) | Step::Remove | Step::Settle)));
                prop_assert!(world.alive().count() <= 1);
            }
        }
        world.failing = None;
        world.settle();
        prop_assert!(world.is_at_rest_as_it_should_be(), "{world:?}");
    }

    #[test]
    fn a_vm_that_should_be_gone_is_so_in_three_steps(history in any_history()) {
        let mut world = World::new(Goal::Be(DesiredState::Running));
        for (happening, steps) in history {
            if world.removed {
                break;
            }
            world.happen(happening);
            for _ in 0..steps {
                if !world.removed {
                    world.step();
                }
            }
        }
        if !world.removed {
            world.failing = None;
            world.happen(Happening::Ordered(Goal::Gone));
            prop_assert!(world.settle() <= 3, "{world:?}");
            prop_assert!(world.is_at_rest_as_it_should_be());
        }
    }

    #[test]
    fn a_worker_that_takes_a_machine_over_leaves_it_running(
        vcpus in prop_oneof![Just(Vcpus::Running), Just(Vcpus::Parked)], later in 0_u64..90,
    ) {
        let desired = if vcpus == Vcpus::Parked { DesiredState::Paused } else { DesiredState::Running };
        let mut world = World::new(Goal::Be(desired));
        world.settle();
        world.happen(Happening::WorkerReplaced);
        world.happen(Happening::Later(later));
        prop_assert_eq!(world.next_step(), Step::Rest);
        prop_assert_eq!(world.machines.len(), 1);
        // Also one that ended while no worker was there: that is seen, and nothing started beside it.
        world.machines[0].ended = Some(End::PoweredOff);
        world.happen(Happening::WorkerReplaced);
        let is_off = matches!(world.state, RunState::PoweredOff { .. });
        prop_assert!(is_off, "{:?}", world.state);
        prop_assert_eq!(world.next_step(), Step::Rest);
    }
}
