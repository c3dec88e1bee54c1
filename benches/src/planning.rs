//! From what sources say to a plan, for very many VMs: values alone.

use std::time::Instant;

use anyhow::{Result, ensure};
use worker::benchmarks::Planning;

use crate::machines::nanoseconds;

/// Plans for `count` VMs.
pub(crate) fn plan(count: usize) -> Result<Vec<u64>> {
    let planning = Planning::of(count);
    let begun = Instant::now();
    let actions = planning.plan();
    let took = begun.elapsed();
    ensure!(actions == count / 10 * 4, "{actions} actions for {count} VMs");
    Ok(vec![nanoseconds(took)])
}
