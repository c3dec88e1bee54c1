//! How a network interface is served, beside what it is.

use serde::{Deserialize, Serialize};

use crate::RateLimitSpec;

/// How a network interface is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NicOptions {
    /// How much the guest may send in a time, and how much it may receive: each direction has limits of its own.
    pub rate_limits: RateLimitSpec,
}
