//! Whether a definition on trial is accepted. Pure.
//!
//! | its guest | before the deadline | after it |
//! |---|---|---|
//! | ready | accepted | accepted |
//! | not ready, or not known | waits | failed |
//! | paused | waits; the deadline is counted from its end | the same |
//!
//! A machine that ends while it is on trial has failed; that is not decided here.

use std::time::{Duration, Instant};

use vm_model::{Health, HealthSpec, ProbeRole, Readiness, RolloutSpec};

use super::step::Vcpus;

/// What is known of the guest of a machine on trial.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observed<'a> {
    /// Whether its vCPUs run.
    pub(super) vcpus: Vcpus,
    /// How it is; absent where it is not watched.
    pub(super) health: Option<&'a Health>,
}

/// What is to be done with a definition on trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing before then, unless something else is known of the guest.
    Wait {
        /// When it is to be judged again.
        until: Instant,
    },
    /// Nothing, and the time until the deadline begins anew.
    StartOver,
    /// It is ready, and stays.
    Accept,
    /// It is not ready in time.
    Fail {
        /// Why it is not ready, in words.
        why: String,
    },
}

/// Judges a machine that was launched at `started`.
pub(super) fn judge(spec: RolloutSpec, started: Instant, observed: Observed<'_>, now: Instant) -> Verdict {
    let until = deadline(spec, started);
    match (observed.vcpus, observed.health.map(|health| health.ready)) {
        (_, Some(Readiness::Ready)) => Verdict::Accept,
        (Vcpus::Parked, _) => Verdict::StartOver,
        (Vcpus::Running, _) if now < until => Verdict::Wait { until },
        (Vcpus::Running, _) => {
            let seconds = spec.ready_deadline.as_secs();
            Verdict::Fail { why: format!("not ready after {seconds} s: {}", reason(observed.health)) }
        }
    }
}

/// When a machine that was launched at `started` has to be ready.
pub(super) fn deadline(spec: RolloutSpec, started: Instant) -> Instant {
    started.checked_add(spec.ready_deadline).unwrap_or(started + Duration::from_secs(3600))
}

/// What the rollout of a definition by `spec` has to wait for; nothing where its guest tells nobody whether it is ready:
/// it counts as ready when it runs.
pub(super) fn to_wait_for(spec: Option<RolloutSpec>, health: Option<&HealthSpec>) -> Option<RolloutSpec> {
    spec.filter(|_| tells_readiness(health))
}

/// Whether a guest that is watched by `health` tells whether it is ready.
pub(super) fn tells_readiness(health: Option<&HealthSpec>) -> bool {
    let tells = |role: ProbeRole| match role {
        ProbeRole::Startup | ProbeRole::Readiness => true,
        ProbeRole::Liveness => false,
    };
    health.is_some_and(|health| health.probes.iter().any(|probe| tells(probe.role)))
}

fn reason(health: Option<&Health>) -> &str {
    match health {
        None => "its guest's health is not watched",
        Some(health) => health.reason.as_deref().unwrap_or("no probe has succeeded yet"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_model::{RolloutFailure, Timestamp};

    use super::*;

    fn any_health() -> impl Strategy<Value = Option<Health>> {
        let ready = prop_oneof![Just(Readiness::Unknown), Just(Readiness::Ready), Just(Readiness::NotReady)];
        let health = (ready, prop::option::of("[a-z]{1,8}"), 0_u64..3).prop_map(|(ready, reason, boot)| {
            Health { ready, reason, boot, ..Health::unknown(Timestamp::from_millis(0)) }
        });
        prop::option::of(health)
    }

    fn spec(seconds: u64) -> RolloutSpec {
        RolloutSpec { ready_deadline: Duration::from_secs(seconds), on_failure: RolloutFailure::RollBack }
    }

    proptest! {
        #[test]
        fn a_guest_is_accepted_when_it_is_ready_and_fails_when_it_had_its_time(
            seconds in 1_u64..3600, elapsed in 0_u64..7200, health in any_health(), is_parked in any::<bool>(),
        ) {
            let started = Instant::now();
            let now = started + Duration::from_secs(elapsed);
            let vcpus = if is_parked { Vcpus::Parked } else { Vcpus::Running };
            let verdict = judge(spec(seconds), started, Observed { vcpus, health: health.as_ref() }, now);
            let is_ready = health.as_ref().is_some_and(|health| health.ready == Readiness::Ready);
            prop_assert_eq!(verdict == Verdict::Accept, is_ready);
            match verdict {
                Verdict::Accept => {}
                Verdict::StartOver => prop_assert!(is_parked),
                Verdict::Wait { until } => {
                    prop_assert!(!is_parked && now < until);
                    prop_assert_eq!(until, started + Duration::from_secs(seconds));
                }
                Verdict::Fail { why } => {
                    prop_assert!(!is_parked && elapsed >= seconds);
                    let told = health.and_then(|health| health.reason).unwrap_or_default();
                    prop_assert!(why.contains(&told), "{}", why);
                }
            }
        }

        #[test]
        fn whatever_is_seen_a_trial_of_a_guest_that_runs_ends_by_its_deadline(
            seconds in 1_u64..600, seen in prop::collection::vec((0_u64..60, any_health()), 1..50),
        ) {
            let (started, mut now) = (Instant::now(), Instant::now());
            for (later, health) in seen {
                let observed = Observed { vcpus: Vcpus::Running, health: health.as_ref() };
                match judge(spec(seconds), started, observed, now) {
                    Verdict::Accept | Verdict::Fail { .. } => return Ok(()),
                    Verdict::StartOver => prop_assert!(false, "it was not paused"),
                    Verdict::Wait { until } => {
                        prop_assert!(until > now && until <= started + Duration::from_secs(seconds));
                        now = until.min(now + Duration::from_secs(later));
                    }
                }
            }
            prop_assert!(now <= started + Duration::from_secs(seconds));
        }
    }
}
