//! `cargo xtask vm-test`: the end-to-end suite inside the lab's outer host.
//!
//! The suite is one test executable. Its ordinary tests are the smoke set; those marked `#[ignore = "full: …"]` run
//! with `--full` only and count as skipped otherwise.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::counts::Counts;
use crate::lab::host::{Afterwards, Session};
use crate::lab::loss::with_second_try;
use crate::lab::{Lab, SCRIPT_VARIABLES, programs};
use crate::process::shell_quote;
use crate::workspace::Workspace;

const SMOKE_DEADLINE: Duration = Duration::from_secs(10 * 60);
const FULL_DEADLINE: Duration = Duration::from_secs(45 * 60);

/// Options of the task.
#[derive(Args, Debug, Default)]
pub(crate) struct VmTest {
    /// Runs only tests whose name contains this.
    filter: Option<String>,
    /// Runs also the tests outside the smoke set.
    #[arg(long)]
    full: bool,
    /// Leaves the outer host up afterwards and says how to look around in it.
    #[arg(long)]
    keep: bool,
    /// Shows what tests print while they run.
    #[arg(long)]
    nocapture: bool,
}

impl VmTest {
    /// Runs the suite, prints its output live and returns its counts.
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<Counts> {
        let start = Instant::now();
        let mut programs = programs::build(workspace, &["build", "--package", "worker-bin"])?;
        programs.extend(programs::build(
            workspace,
            &["test", "--package", "end-to-end", "--test", "vm", "--no-run"],
        )?);
        println!("Programs built ({:.1?})", start.elapsed());
        let lab = Lab::prepare(workspace)?;
        let session = Session {
            lab: &lab,
            programs: &programs,
            script: &self.script(),
            deadline: if self.full { FULL_DEADLINE } else { SMOKE_DEADLINE },
            afterwards: if self.keep { Afterwards::Keep } else { Afterwards::PowerOff },
        };
        let counts = with_second_try(|| run_suite(&session))?;
        if counts.skipped > 0 {
            println!("{} tests outside the smoke set were skipped; `--full` runs them", counts.skipped);
        }
        println!("vm-test: {counts} ({:.1?})", start.elapsed());
        Ok(counts)
    }

    /// What runs in the outer host.
    fn script(&self) -> String {
        let mut words = vec!["/lab/bin/vm".to_owned(), "--test-threads=1".to_owned()];
        words.extend(self.filter.clone());
        words.extend(self.full.then(|| "--include-ignored".to_owned()));
        words.extend(self.nocapture.then(|| "--nocapture".to_owned()));
        let command: Vec<String> = words.iter().map(|word| shell_quote(word)).collect();
        format!(
            "{SCRIPT_VARIABLES}\nexport RUST_BACKTRACE=1 RUST_LIB_BACKTRACE=0\ncd /tmp\nexec {}\n",
            command.join(" ")
        )
    }
}

/// One run of the suite, printed as it goes.
fn run_suite(session: &Session<'_>) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut is_complete = false;
    let status = session.run(|line| {
        println!("{line}");
        if let Some(more) = Counts::from_libtest_line(line) {
            counts += more;
            is_complete = true;
        }
    })?;
    if !is_complete {
        bail!("the suite ended with status {status} before it had run all tests");
    }
    if status != 0 && counts.failed == 0 {
        bail!("the suite ended with status {status}, though no test of it failed");
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_passed_as_one_word() {
        let task = VmTest { filter: Some("a; reboot".into()), full: true, ..VmTest::default() };
        let script = task.script();
        assert!(
            script.ends_with("exec '/lab/bin/vm' '--test-threads=1' 'a; reboot' '--include-ignored'\n"),
            "{script}"
        );
    }
}
