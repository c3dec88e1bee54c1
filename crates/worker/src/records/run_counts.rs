//! What is counted of a VM for as long as it is there: kept with its machine and on its record.

use serde::{Deserialize, Serialize};

/// What is counted of a VM across its machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunCounts {
    /// How often it got as far as its first instruction.
    pub(crate) starts: u64,
    /// How often it was started again.
    pub(crate) restarts: u64,
    /// How often a machine of it was rebuilt in place.
    pub(crate) resets: u64,
    /// How often a start or a run failed.
    pub(crate) failures: u64,
    /// How many of them in a row.
    pub(crate) failures_in_a_row: u32,
}
