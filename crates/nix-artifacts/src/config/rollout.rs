//! `procurator.rollout`: how a changed definition is put in force.

use std::time::Duration;

use vm_model::{RolloutFailure, RolloutSpec};

use super::section::Section;

/// Reads `rollout` of the section `procurator`.
pub(super) fn read_rollout(procurator: Option<&Section>) -> Option<RolloutSpec> {
    let rollout = procurator?.section("rollout")?;
    let seconds = rollout.integer("ready_deadline_s").map(Duration::from_secs);
    let on_failure = match rollout.text("on_failure") {
        Some("keep") => RolloutFailure::Keep,
        Some(_) | None => RolloutFailure::RollBack,
    };
    Some(RolloutSpec { ready_deadline: seconds.unwrap_or(RolloutSpec::DEFAULT_READY_DEADLINE), on_failure })
}
