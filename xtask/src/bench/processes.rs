//! Machines in host processes: what a process of its own costs a machine, and very many under a whole worker.

use anyhow::{Context, Result};

use super::plan::{exact, mebibytes, milliseconds};
use super::report::{Row, Unit};
use super::subject::Subject;

/// Processes that are kept ahead where they are: the worker's default.
const SPARE: u64 = 2;
/// Machines to a process, and between which counts of machines the memory of a further one is measured.
const MEMORY: [(u64, u64, u64); 3] = [(1, 16, 64), (16, 16, 64), (64, 64, 128)];
/// Machines in the process in which faults are timed.
const FAULTS_BESIDE: [u64; 4] = [0, 1, 16, 64];
/// VMs under a whole worker, and for how many seconds they idle.
const MANY: (u64, u64) = (500, 60);
/// VMs to a host process there.
const MANY_EACH: [u64; 2] = [1, 16];

/// Creations in a host process, with and without one ahead, and in the measured program itself.
pub(super) fn creation(subject: &mut Subject, runs: u32) -> Result<Vec<Row>> {
    let (mut within, mut ahead, mut started) = (Vec::new(), Vec::new(), Vec::new());
    // Those with spares come in one go, as setting up begins anew with other settings. What is compared comes in turns.
    for _ in 0..runs {
        within.push(milliseconds(subject.times("boot 1")?[0]));
        ahead.push(milliseconds(subject.times(&format!("process-boot {SPARE}"))?[0]));
    }
    for _ in 0..runs {
        started.push(milliseconds(subject.times("process-boot 0")?[0]));
    }
    subject.times("process-end")?;
    let row = |id: &str, name: &str, values: &[f64]| Row::new(id, name, Unit::Milliseconds, values);
    Ok(vec![
        row("process/within", "create → first guest byte, no process of its own", &within),
        row("process/ahead", "… in a host process that was ahead", &ahead),
        row("process/started", "… in a host process that is started for it", &started),
    ])
}

/// What a further machine takes in processes of one machine and of many.
pub(super) fn memory(subject: &mut Subject) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (each, from, to) in MEMORY {
        let mut taken = |count: u64| subject.amounts(&format!("process-memory {count} {each}"));
        let (before, after) = (taken(from)?, taken(to)?);
        let further = exact(to - from);
        let difference = |index: usize| after[index].saturating_sub(before[index]);
        let name = |what: &str| format!("{what} of a further machine, {each} to a host process");
        let memory = mebibytes(difference(0)) / further;
        rows.push(Row::new(format!("process-memory/{each}"), name("PSS"), Unit::Mebibytes, &[memory]));
        let threads = exact(difference(1)) / further;
        rows.push(Row::new(format!("process-threads/{each}"), name("threads"), Unit::Count, &[threads]));
    }
    subject.times("process-end")?;
    Ok(rows)
}

/// Faults that change a page's place, in a process that holds machines.
pub(super) fn faults(subject: &mut Subject, runs: u32) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for beside in FAULTS_BESIDE {
        subject.times(&format!("hold {beside}"))?;
        let times = (0..runs).map(|_| Ok(exact(subject.times("fault")?[0]) / 1e3));
        let times = times.collect::<Result<Vec<_>>>()?;
        let name = format!("copy-on-write fault in a process of {beside} machines");
        rows.push(Row::new(format!("fault/{beside}"), name, Unit::Microseconds, &times));
    }
    subject.times("hold 0")?;
    Ok(rows)
}

/// Loading the records of many VMs.
pub(super) fn records(subject: &mut Subject, runs: u32) -> Result<Row> {
    let (vms, _) = MANY;
    let times = (0..runs.min(10)).map(|_| Ok(milliseconds(subject.times(&format!("records {vms}"))?[0])));
    let times = times.collect::<Result<Vec<_>>>()?;
    Ok(Row::new("records", format!("load the records of {vms} VMs"), Unit::Milliseconds, &times))
}

/// Many VMs under a whole worker.
pub(super) fn many(subject: &mut Subject) -> Result<Vec<Row>> {
    let (vms, seconds) = MANY;
    let mut rows = Vec::new();
    for each in MANY_EACH {
        eprintln!("bench: {vms} VMs, {each} to a host process");
        let times = subject.times(&format!("many {vms} {each} {seconds}"))?;
        let [created, adopted, idled, unsampled, ls, inspect, top, scrape] = times[..] else {
            anyhow::bail!("not eight figures: {times:?}")
        };
        let whole = format!("{vms} VMs, {each} to a host process");
        let row = |what: &str, shown: &str, unit, value: f64| {
            Row::new(format!("many/{each}/{what}"), format!("{whole}: {shown}"), unit, &[value])
        };
        let rate = exact(vms) * 1e3 / milliseconds(created);
        let seconds = u32::try_from(seconds).map(f64::from).context("too long")?;
        // Of a core: nanoseconds a second are billionths of one.
        let sampling = milliseconds(idled.saturating_sub(unsampled)) / (seconds * 1e3) * 100.0;
        let idled = milliseconds(idled) * 60.0 / seconds;
        rows.push(row("created", "creations a second", Unit::PerSecond, rate));
        rows.push(row(
            "adopted",
            "another worker starts → all run",
            Unit::Milliseconds,
            milliseconds(adopted),
        ));
        rows.push(row("idle", "processor time a minute, idle", Unit::Milliseconds, idled));
        rows.push(row("sampling", "of it for sampling, in hundredths of a core", Unit::Percent, sampling));
        for (what, time) in [("ls", ls), ("inspect", inspect), ("top", top), ("scrape", scrape)] {
            rows.push(row(what, &format!("{what} answered"), Unit::Milliseconds, milliseconds(time)));
        }
    }
    Ok(rows)
}
