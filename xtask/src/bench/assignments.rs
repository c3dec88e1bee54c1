//! What becomes of desired states with very many VMs: planned as values alone, and applied by a whole worker.

use anyhow::{Result, bail};

use super::plan::milliseconds;
use super::report::{Row, Unit};
use super::subject::Subject;

/// VMs of a host that is planned for.
const PLANNED: usize = 10_000;
/// Leases of a pool that is changed: of a usual host, and of the most that the default subnet has.
const HELD: [u32; 2] = [1_000, 65_533];
/// VMs that are assigned at once.
const ASSIGNED: usize = 1_000;

/// Planning for very many VMs.
pub(super) fn planning(subject: &mut Subject, runs: u32) -> Result<Row> {
    let times = (0..runs).map(|_| Ok(milliseconds(subject.times(&format!("plan {PLANNED}"))?[0])));
    let times = times.collect::<Result<Vec<_>>>()?;
    let name = format!("plan for {PLANNED} VMs, four of ten changed");
    Ok(Row::new("plan", name, Unit::Milliseconds, &times))
}

/// Changes of pools of addresses.
pub(super) fn leases(subject: &mut Subject, runs: u32) -> Result<Vec<Row>> {
    let mut row = |held: u32| {
        let times = (0..runs).map(|_| Ok(milliseconds(subject.times(&format!("leases {held}"))?[0]) * 1e3));
        let times = times.collect::<Result<Vec<_>>>()?;
        let name = format!("a lease ended and another given, of {held}");
        Ok(Row::new(format!("leases/{held}"), name, Unit::Microseconds, &times))
    };
    HELD.into_iter().map(&mut row).collect()
}

/// Very many VMs by one desired state.
pub(super) fn assigned(subject: &mut Subject) -> Result<Vec<Row>> {
    eprintln!("bench: {ASSIGNED} VMs by one desired state");
    let times = subject.times(&format!("assign {ASSIGNED}"))?;
    let [planned, ordered, running, unchanged, removal, gone] = times[..] else {
        bail!("not six figures: {times:?}")
    };
    let row = |id: &str, shown: &str, nanoseconds| {
        let name = format!("{ASSIGNED} VMs by one desired state: {shown}");
        Row::new(format!("assigned/{id}"), name, Unit::Milliseconds, &[milliseconds(nanoseconds)])
    };
    Ok(vec![
        row("planned", "plan", planned),
        row("ordered", "kept on disk and ordered", ordered),
        row("running", "… → all run", running),
        row("unchanged", "the same again", unchanged),
        row("removal", "the removal of all, kept and ordered", removal),
        row("gone", "… → all are gone", gone),
    ])
}
