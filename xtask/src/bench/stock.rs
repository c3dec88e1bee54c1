//! A stock Linux guest in the lab, under this project's machine and under those of others that are on `PATH` and linked
//! statically: rows of time to init and of work done for a second of processor time.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::report::{Row, Unit};
use crate::lab::host::{Afterwards, Session};
use crate::lab::programs::{self, Program};
use crate::lab::{Lab, SCRIPT_VARIABLES};
use crate::packages;
use crate::workspace::Workspace;

/// A run takes about ten seconds on an emulated processor.
const DEADLINE: Duration = Duration::from_secs(60 * 60);

/// The others. The program in the lab knows them by these names.
const PEERS: [&str; 2] = ["cloud-hypervisor", "firecracker"];

/// One run as the program in the lab tells it.
#[derive(Debug, Deserialize)]
struct Run {
    monitor: String,
    workload: String,
    mebibytes: u64,
    begin_seconds: f64,
    begin_processor_seconds: f64,
    processor_seconds: f64,
}

/// Runs every workload `runs` times and makes rows of it.
pub(super) fn measure(workspace: &Workspace, runs: u32) -> Result<Vec<Row>> {
    let build = ["build", "--release", "--package", "benchmarks", "--bin", "stock"];
    let mut programs = programs::build(workspace, &build)?;
    programs.extend(PEERS.into_iter().filter_map(peer));
    let lab = Lab::prepare(workspace)?;
    let session = Session {
        lab: &lab,
        programs: &programs,
        script: &format!("{SCRIPT_VARIABLES}\ncd /tmp\nexec /lab/bin/stock measure {runs}\n"),
        kept: None,
        deadline: DEADLINE,
        afterwards: Afterwards::PowerOff,
    };
    let mut measured = Vec::new();
    let status = session.run(|line| match serde_json::from_str::<Run>(line) {
        Ok(run) => {
            eprintln!("{} {}: {:.2} s of processor time", run.monitor, run.workload, run.processor_seconds);
            measured.push(run);
        }
        Err(_) => eprintln!("{line}"),
    })?;
    if status != 0 || measured.is_empty() {
        bail!("the measuring program ended with status {status} after {} runs", measured.len());
    }
    rows(&measured)
}

/// The program `name`, if the lab can run it.
fn peer(name: &str) -> Option<Program> {
    let path = packages::find_program(name)?;
    if !packages::is_static(&path) {
        eprintln!("{} is linked dynamically and does not run in the lab", path.display());
        return None;
    }
    Some(Program { name: name.into(), path })
}

fn rows(runs: &[Run]) -> Result<Vec<Row>> {
    let mut figures: BTreeMap<(String, String, Unit), Vec<f64>> = BTreeMap::new();
    for run in runs {
        let mut add = |kind: &str, name: &str, unit, value: f64| {
            let id = format!("stock/{}/{kind}", run.monitor);
            figures.entry((id, format!("{}, {name}", run.monitor), unit)).or_default().push(value);
        };
        if run.mebibytes == 0 {
            add("boot", "exec → init", Unit::Milliseconds, run.begin_seconds * 1e3);
            let processor = run.begin_processor_seconds * 1e3;
            add("boot-processor", "exec → init, processor time", Unit::Milliseconds, processor);
        } else {
            let work = f64::from(u32::try_from(run.mebibytes).context("too much work")?);
            let name = format!("{} for a second of processor time", run.workload);
            // The kernel counts in hundredths of a second.
            add(&run.workload, &name, Unit::Mebibytes, work / run.processor_seconds.max(0.01));
        }
    }
    Ok(figures.into_iter().map(|((id, name, unit), values)| Row::new(id, name, unit, &values)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_for_a_second_of_processor_time() {
        let line = r#"{"monitor":"x","workload":"read","mebibytes":48,"begin_seconds":1.0,
                       "begin_processor_seconds":1.0,"seconds":9.0,"processor_seconds":0.5}"#;
        let rows = rows(&[serde_json::from_str(line).expect("a run")]).expect("rows");
        assert_eq!(
            rows,
            [Row::new("stock/x/read", "x, read for a second of processor time", Unit::Mebibytes, &[96.0])]
        );
    }
}
