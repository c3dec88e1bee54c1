//! What a VM's definition says about its own replacement: how long the new machine may take to be ready, and what happens
//! when it is not.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Timestamp;

/// How a changed definition is put in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutSpec {
    /// How long a machine by the new definition may take until it is ready.
    pub ready_deadline: Duration,
    /// What happens when it is not ready by then, or fails before.
    pub on_failure: RolloutFailure,
}

impl RolloutSpec {
    /// How long a machine may take where nothing is said of it.
    pub const DEFAULT_READY_DEADLINE: Duration = Duration::from_secs(120);
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self { ready_deadline: Self::DEFAULT_READY_DEADLINE, on_failure: RolloutFailure::default() }
    }
}

/// What happens when a machine by a new definition is not ready in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutFailure {
    /// The definition before is put in force again.
    #[default]
    RollBack,
    /// The new one stays.
    Keep,
}

/// A definition whose machine runs and has not been accepted yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OnTrial {
    /// Since when it is tried. Begins anew after a pause.
    pub since: Timestamp,
    /// When it has failed unless it is ready by then.
    pub deadline: Timestamp,
    /// What happens then.
    pub on_failure: RolloutFailure,
}
