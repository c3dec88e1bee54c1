//! From what sources say to a plan, for very many VMs, and their addresses: values alone.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ipam::{Pool, Wish};
use vm_model::VmId;
use worker::benchmarks::Planning;

use crate::machines::nanoseconds;

/// Changes that one figure is the mean of.
const CHANGES: u32 = 1_000;

/// Plans for `count` VMs.
pub(crate) fn plan(count: usize) -> Result<Vec<u64>> {
    let planning = Planning::of(count);
    let begun = Instant::now();
    let actions = planning.plan();
    let took = begun.elapsed();
    ensure!(actions == count / 10 * 4, "{actions} actions for {count} VMs");
    Ok(vec![nanoseconds(took)])
}

/// The time of one change of a pool that holds `held` leases: a lease ends and another is given, neither of them for good.
pub(crate) fn change_leases(held: u32) -> Result<Vec<u64>> {
    let mut pool = Pool::new("10.0.0.0/8".parse()?)?;
    let vm = |number: u32| VmId::new(&format!("vm-{number}"));
    for number in 0..held {
        pool.allocate(&vm(number), "net0", Wish::default())?;
    }
    let (old, new) = (vm(held / 2), vm(held));
    let begun = Instant::now();
    for _ in 0..CHANGES {
        let mut change = pool.change();
        change.release(&old);
        change.allocate_all(&new, &[("net0", Wish::default())])?;
    }
    let took = begun.elapsed() / CHANGES;
    ensure!(
        pool.leases().count() == usize::try_from(held).context("more leases than memory")?,
        "a change was kept"
    );
    Ok(vec![nanoseconds(took)])
}
