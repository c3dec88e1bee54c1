//! All probes of a VM: what they say together, and promises that hold whatever happens.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use proptest::prelude::*;
use vm_model::{ProbeCheck, ProbeTiming, Timestamp};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn probe(id: &str, role: ProbeRole) -> ProbeSpec {
    let timing =
        ProbeTiming { failure_threshold: NonZeroU32::MIN.saturating_add(1), ..ProbeTiming::default() };
    ProbeSpec { id: id.to_owned(), role, check: ProbeCheck::Tcp { port: NonZeroU16::MIN }, timing }
}

fn state(roles: &[ProbeRole]) -> HealthState {
    let probes = roles.iter().enumerate().map(|(place, role)| probe(&format!("p{place}"), *role));
    HealthState::new(&VmId::new("web-1"), &HealthSpec { probes: probes.collect() })
}

/// Runs everything that is due until `until`; each run ends at once with what `finding` says of its probe.
fn run(state: &mut HealthState, until: Moment, finding: impl Fn(usize) -> Finding) -> Vec<usize> {
    let mut probes = Vec::new();
    while let Some(now) = state.next_due().filter(|due| *due <= until) {
        for ticket in state.take_due(now) {
            probes.push(ticket.probe);
            state.finish(ticket, finding(ticket.probe), now);
        }
    }
    probes
}

fn failure() -> Finding {
    Finding::Failure("refused".to_owned())
}

use ProbeRole::{Liveness, Readiness as Ready, Startup};

#[test]
fn a_guest_that_starts_well_becomes_ready() {
    let mut state = state(&[Startup, Ready, Liveness]);
    assert_eq!(state.readiness(), (Readiness::NotReady, Some("startup probe p0: no success yet".to_owned())));
    assert_eq!(state.next_due(), None, "there is no guest yet");
    state.observe(Guest::Running, SECOND);
    assert_eq!(run(&mut state, SECOND * 3, |_| failure()), [0], "only the startup probe is run");
    assert_eq!(state.readiness(), (Readiness::NotReady, Some("startup probe p0: refused".to_owned())));
    let ran = run(&mut state, SECOND * 14, |place| if place == 1 { failure() } else { Finding::Success });
    assert_eq!(ran[0], 0);
    assert!(!ran[1..].contains(&0) && ran.contains(&1) && ran.contains(&2), "{ran:?}");
    assert_eq!(state.readiness(), (Readiness::NotReady, Some("readiness probe p1: refused".to_owned())));
    run(&mut state, SECOND * 40, |_| Finding::Success);
    assert_eq!((state.readiness(), state.dead()), ((Readiness::Ready, None), None));
    run(&mut state, SECOND * 80, |place| if place == 1 { failure() } else { Finding::Success });
    assert_eq!(state.readiness().0, Readiness::NotReady);
    assert_eq!(state.dead(), None, "a guest that is not ready runs on");
    assert!(state.probes()[1].failures >= 2);
}

#[test]
fn a_guest_that_does_not_start_or_stops_working_is_dead_until_another_boot() {
    for roles in [&[Startup, Ready][..], &[Liveness, Ready]] {
        let mut state = state(roles);
        state.observe(Guest::Running, SECOND);
        run(&mut state, SECOND * 60, |place| if place == 0 { failure() } else { Finding::Success });
        let reason = state.dead().expect("dead").to_owned();
        assert_eq!(reason, format!("{} probe p0: refused", roles[0]));
        assert_eq!((state.readiness(), state.next_due()), ((Readiness::NotReady, Some(reason)), None));
        state.rebooted();
        assert_eq!(state.dead(), None);
        state.observe(Guest::Running, SECOND * 70);
        run(&mut state, SECOND * 100, |_| Finding::Success);
        assert_eq!(state.readiness().0, Readiness::Ready);
    }
}

#[test]
fn without_a_probe_about_it_readiness_is_unknown() {
    let mut alive = state(&[Liveness]);
    alive.observe(Guest::Running, SECOND);
    run(&mut alive, SECOND * 30, |_| Finding::Success);
    assert_eq!(alive.readiness(), (Readiness::Unknown, None));
    let mut started = state(&[Startup]);
    started.observe(Guest::Running, SECOND);
    run(&mut started, SECOND * 30, |_| Finding::Success);
    assert_eq!(started.readiness(), (Readiness::Ready, None));
    let mut unknown = state(&[Ready]);
    unknown.observe(Guest::Running, SECOND);
    run(&mut unknown, SECOND * 30, |_| Finding::Unknown("not heard".to_owned()));
    assert_eq!(unknown.readiness(), (Readiness::Unknown, Some("readiness probe p0: not heard".to_owned())));
}

#[test]
fn a_paused_guest_is_never_asked_and_nothing_is_concluded() {
    let mut state = state(&[Ready, Liveness]);
    state.observe(Guest::Running, SECOND);
    run(&mut state, SECOND * 30, |_| Finding::Success);
    let due = state.next_due().expect("more runs");
    let ticket = state.take_due(due)[0];
    state.observe(Guest::Paused, due);
    state.finish(ticket, failure(), due);
    assert_eq!((state.next_due(), state.take_due(due + SECOND * 600)), (None, vec![]));
    assert_eq!(state.readiness(), (Readiness::Ready, None));
    assert_eq!(state.probes()[0].failures + state.probes()[1].failures, 0);
    state.observe(Guest::Running, due + SECOND * 600);
    assert!(state.next_due().expect("they go on") >= due + SECOND * 605);
}

#[test]
fn what_an_earlier_worker_knew_holds_until_it_is_disproved() {
    let mut before = state(&[Startup, Ready, Liveness]);
    before.observe(Guest::Running, SECOND);
    run(&mut before, SECOND * 30, |_| Finding::Success);
    let health = Health { probes: before.probes(), ..Health::unknown(Timestamp::from_millis(0)) };

    let mut after = state(&[Startup, Ready, Liveness]);
    after.carry_over(health.clone());
    after.observe(Guest::Running, SECOND);
    assert_eq!(after.readiness(), (Readiness::Ready, None), "at once");
    assert!(!run(&mut after, SECOND * 40, |_| failure()).contains(&0), "it has started");
    assert_eq!(after.readiness().0, Readiness::NotReady);

    let mut rebooted = state(&[Startup, Ready, Liveness]);
    rebooted.carry_over(health);
    rebooted.rebooted();
    rebooted.observe(Guest::Running, SECOND);
    assert_eq!(rebooted.readiness().0, Readiness::NotReady, "that was another boot");
}

/// What happens to a VM.
#[derive(Clone, Copy, Debug)]
enum Step {
    Pass(u64),
    TakeDue,
    Finish(prop::sample::Index, Option<bool>),
    Observe(Guest),
    Reboot,
    Hasten(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let guest = prop_oneof![3 => Just(Guest::Running), 1 => Just(Guest::Paused), 1 => Just(Guest::Absent)];
    prop_oneof![
        4 => (0..8000u64).prop_map(Step::Pass),
        4 => Just(Step::TakeDue),
        6 => (any::<prop::sample::Index>(), any::<Option<bool>>()).prop_map(|(which, what)| Step::Finish(which, what)),
        2 => guest.prop_map(Step::Observe),
        1 => Just(Step::Reboot),
        1 => (0..5usize).prop_map(Step::Hasten),
    ]
}

fn roles() -> impl Strategy<Value = Vec<ProbeRole>> {
    prop::collection::vec(prop_oneof![Just(Startup), Just(Ready), Just(Liveness)], 1..5)
}

proptest! {
    #[test]
    fn promises_hold_whatever_happens(roles in roles(), steps in prop::collection::vec(step(), 0..120)) {
        let mut state = state(&roles);
        let (mut now, mut guest, mut open): (_, _, Vec<Ticket>) = (Duration::ZERO, Guest::Absent, Vec::new());
        for step in steps {
            let (dead_before, readiness_before) = (state.dead().map(str::to_owned), state.readiness());
            match step {
                Step::Pass(milliseconds) => now += Duration::from_millis(milliseconds),
                Step::TakeDue => {
                    let due = state.next_due();
                    let taken = state.take_due(now);
                    prop_assert_eq!(taken.is_empty(), due.is_none_or(|due| due > now));
                    prop_assert!(taken.is_empty() || guest == Guest::Running, "only a guest that runs is asked");
                    let asked: Vec<ProbeRole> = taken.iter().map(|ticket| roles[ticket.probe]).collect();
                    prop_assert!(asked.iter().all(|role| *role == Startup) || !asked.contains(&Startup));
                    prop_assert!(state.next_due().is_none_or(|due| due > now));
                    open.extend(taken);
                }
                Step::Finish(which, what) => if !open.is_empty() {
                    let ticket = open.swap_remove(which.index(open.len()));
                    let finding = match what {
                        Some(true) => Finding::Success,
                        Some(false) => failure(),
                        None => Finding::Unknown("silent".to_owned()),
                    };
                    state.finish(ticket, finding.clone(), now);
                    let after = state.probes();
                    state.finish(ticket, finding, now);
                    prop_assert_eq!(state.probes(), after, "a finding counts once");
                },
                Step::Observe(next) => {
                    state.observe(next, now);
                    guest = next;
                    prop_assert_eq!(state.readiness(), readiness_before, "looking at the machine concludes nothing");
                }
                Step::Reboot => {
                    state.rebooted();
                    guest = Guest::Absent;
                    prop_assert!(state.probes().iter().all(|probe| probe.outcome == ProbeOutcome::Untried));
                }
                Step::Hasten(place) => state.hasten(place, now),
            }
            if guest != Guest::Running || state.dead().is_some() {
                prop_assert_eq!(state.next_due(), None);
            }
            if let (Some(before), false) = (dead_before, matches!(step, Step::Reboot)) {
                prop_assert_eq!(state.dead(), Some(before.as_str()), "only another boot ends it");
            }
            let (ready, reason) = state.readiness();
            prop_assert_eq!(ready == Readiness::NotReady, reason.is_some() && ready != Readiness::Unknown);
            if ready == Readiness::Ready {
                let fine = |probe: &ProbeHealth| probe.role == Liveness || probe.outcome == ProbeOutcome::Passing;
                prop_assert!(state.probes().iter().all(fine));
            }
        }
    }
}
