//! `cargo xtask vm-test`: the end-to-end suite inside the lab's outer host.
//!
//! The suite is one test executable. Its ordinary tests are the smoke set; those marked `#[ignore = "full: …"]` run
//! with `--full` only and count as skipped otherwise. After it come the host network's own tests that are marked
//! `#[ignore = "lab: …"]`, because they need what this kernel has and others lack. A second executable has the tests of a
//! worker that systemd runs, on an outer host that has it: `--systemd` runs these alone, and its module `smoke` belongs to the
//! smoke set. A third one has the tests of power cuts, on an outer host that is
//! killed and booted again: `--power` runs these alone. `--full` runs all.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::counts::Counts;
use crate::lab::host::{Afterwards, Session};
use crate::lab::kept_disk::KeptDisk;
use crate::lab::loss::with_second_try;
use crate::lab::programs::{self, Program};
use crate::lab::systemd::{self, DebianRoot, SystemdInit};
use crate::lab::{Lab, SCRIPT_VARIABLES};
use crate::process::shell_quote;
use crate::workspace::Workspace;

const SMOKE_DEADLINE: Duration = Duration::from_secs(20 * 60);
const SYSTEMD_DEADLINE: Duration = Duration::from_secs(40 * 60);
/// How many seconds the emulated manager may take to answer `systemctl`: reading all its units again takes it a minute where
/// the machine has other work.
const BUS_TIMEOUT: u32 = 600;
/// What builds the host network's tests, an executable called `host`.
const NETWORK_TESTS: [&str; 6] = ["test", "--package", "host-network", "--test", "host", "--no-run"];
const FULL_DEADLINE: Duration = Duration::from_secs(70 * 60);

/// Options of the task.
#[derive(Args, Debug, Default)]
pub(crate) struct VmTest {
    /// Runs only tests whose name contains this.
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Runs also the tests outside the smoke set.
    #[arg(long)]
    full: bool,
    /// Runs the tests under systemd, and these only.
    #[arg(long, conflicts_with = "full")]
    systemd: bool,
    /// Runs the tests of power cuts, and these only.
    #[arg(long, conflicts_with_all = ["full", "systemd", "keep"])]
    power: bool,
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
        let shipped = programs::build_shipped(workspace)?;
        let mut counts = Counts::default();
        if !self.systemd && !self.power {
            counts += self.run_plain(workspace, shipped.clone())?;
        }
        if self.is_smoke_set() {
            counts += self.run_service_smoke(workspace, shipped.clone())?;
        }
        if self.systemd || self.full {
            counts += self.run_under_systemd(workspace, shipped.clone())?;
        }
        if self.power || self.full {
            counts += self.run_power_cuts(workspace, shipped)?;
        }
        println!("vm-test: {counts} ({:.1?})", start.elapsed());
        Ok(counts)
    }

    /// Whether all that every change is tried with is to run, and nothing else.
    fn is_smoke_set(&self) -> bool {
        !(self.systemd || self.power || self.full || self.keep || !self.filters.is_empty())
    }

    fn run_plain(&self, workspace: &Workspace, shipped: Vec<Program>) -> Result<Counts> {
        let mut programs = with_suite(workspace, shipped, "vm")?;
        programs.extend(programs::build(workspace, &NETWORK_TESTS)?);
        let lab = Lab::prepare(workspace)?;
        let lab = if self.full { lab.with_client_guest()? } else { lab };
        // Limits of a disk are for real ones: all else that is written is in memory.
        let disk = KeptDisk::blank(&workspace.lab_dir().join("scratch.img"))?;
        let session = Session {
            lab: &lab,
            programs: &programs,
            script: &self.plain_script(),
            kept: Some(&disk),
            deadline: if self.full { FULL_DEADLINE } else { SMOKE_DEADLINE },
            afterwards: if self.keep { Afterwards::Keep } else { Afterwards::PowerOff },
        };
        let counts = with_second_try(|| run_suite(2, |on_line| session.run(on_line)))?;
        if counts.skipped > 0 {
            println!("{} tests outside the smoke set were skipped; `--full` runs them", counts.skipped);
        }
        Ok(counts)
    }

    /// Three runs of the executable: its tests, those that leave the host as it is to be shut down, and those of what the
    /// shutdown did.
    fn run_under_systemd(&self, workspace: &Workspace, shipped: Vec<Program>) -> Result<Counts> {
        let lab = Lab::prepare(workspace)?.with_stock_guest()?;
        let run = UnderSystemd {
            script: &self.systemd_script(),
            after_shutdown: "exec /var/lib/lab/systemd --test-threads=1 after_shutdown\n",
            runs: if self.keep { 2 } else { 3 },
            deadline: SYSTEMD_DEADLINE,
            afterwards: if self.keep { Afterwards::Keep } else { Afterwards::PowerOff },
        };
        run.carry_out(workspace, shipped, &lab)
    }

    /// The service as it ships, and a VM of it.
    fn run_service_smoke(&self, workspace: &Workspace, shipped: Vec<Program>) -> Result<Counts> {
        let run = UnderSystemd {
            script: &self.service_smoke_script(),
            after_shutdown: "exit 0\n",
            runs: 1,
            deadline: SMOKE_DEADLINE,
            afterwards: Afterwards::PowerOff,
        };
        run.carry_out(workspace, shipped, &Lab::prepare(workspace)?)
    }

    /// The executable begins anew at each boot, and goes by what it finds on the disk that is kept.
    fn run_power_cuts(&self, workspace: &Workspace, shipped: Vec<Program>) -> Result<Counts> {
        let programs = with_suite(workspace, shipped, "power")?;
        let lab = Lab::prepare(workspace)?;
        with_second_try(|| {
            let kept = KeptDisk::blank(&workspace.lab_dir().join("kept.img"))?;
            let session = Session {
                lab: &lab,
                programs: &programs,
                script: &self.power_script(),
                kept: Some(&kept),
                deadline: SMOKE_DEADLINE,
                afterwards: Afterwards::PowerOff,
            };
            run_suite(1, |on_line| session.run(on_line))
        })
    }

    /// What runs on a host with systemd, before its shutdown. The suite is copied to where it outlives that.
    fn systemd_script(&self) -> String {
        let mut words = vec!["--skip=at_shutdown".to_owned(), "--skip=after_shutdown".to_owned()];
        words.extend(self.filters.iter().cloned());
        words.extend(self.nocapture.then(|| "--nocapture".to_owned()));
        let words: Vec<String> = words.iter().map(|word| shell_quote(word)).collect();
        format!(
            "{}\
             cp /lab/bin/systemd /var/lib/lab/systemd\n\
             systemd='/lab/bin/systemd --test-threads=1'\n\
             $systemd {}\nstatus=$?\n$systemd --nocapture at_shutdown || status=$?\nexit $status\n",
            systemd_variables(),
            words.join(" ")
        )
    }

    fn service_smoke_script(&self) -> String {
        let shown = if self.nocapture { " --nocapture" } else { "" };
        format!("{}exec /lab/bin/systemd --test-threads=1{shown} smoke::\n", systemd_variables())
    }

    /// What runs in the plain outer host: the suite, and the host network's tests that are marked for it.
    fn plain_script(&self) -> String {
        let network = self.command("host", &["--ignored"]);
        let suite = self.command("vm", if self.full { &["--include-ignored"] } else { &[] });
        format!("{}{suite}\nstatus=$?\n{network} || status=$?\nexit $status\n", preamble())
    }

    /// What runs in an outer host that loses its power. What asks for that is shown as it comes.
    fn power_script(&self) -> String {
        let options: &[&str] =
            if self.full { &["--include-ignored", "--nocapture"] } else { &["--nocapture"] };
        format!("{}exec {}\n", preamble(), self.command("power", options))
    }

    /// The call of one test executable.
    fn command(&self, executable: &str, options: &[&str]) -> String {
        let mut words = vec![format!("/lab/bin/{executable}"), "--test-threads=1".to_owned()];
        words.extend(self.filters.iter().cloned());
        words.extend(options.iter().map(ToString::to_string));
        words.extend((self.nocapture && !options.contains(&"--nocapture")).then(|| "--nocapture".to_owned()));
        let words: Vec<String> = words.iter().map(|word| shell_quote(word)).collect();
        words.join(" ")
    }
}

/// How a script begins that runs test executables.
fn preamble() -> String {
    format!("{SCRIPT_VARIABLES}\nexport RUST_BACKTRACE=1 RUST_LIB_BACKTRACE=0\ncd /tmp\n")
}

/// What runs of the suite on a host with systemd, and after its shutdown.
struct UnderSystemd<'a> {
    script: &'a str,
    after_shutdown: &'a str,
    /// How often the executable runs.
    runs: usize,
    deadline: Duration,
    afterwards: Afterwards,
}

impl UnderSystemd<'_> {
    fn carry_out(&self, workspace: &Workspace, shipped: Vec<Program>, lab: &Lab) -> Result<Counts> {
        let packages = systemd::build_packages(workspace, &shipped)?;
        let programs = with_suite(workspace, shipped, "systemd")?;
        let root = DebianRoot::ensure(workspace)?;
        let session = Session {
            lab,
            programs: &programs,
            script: self.script,
            kept: None,
            deadline: self.deadline,
            afterwards: self.afterwards,
        };
        let init = SystemdInit::new(&root, &packages, self.after_shutdown);
        with_second_try(|| run_suite(self.runs, |on_line| session.run_under(&init, on_line)))
    }
}

/// What every script of a host with systemd begins with.
fn systemd_variables() -> String {
    format!(
        "{SCRIPT_VARIABLES}\nexport RUST_BACKTRACE=1 RUST_LIB_BACKTRACE=0 SYSTEMD_BUS_TIMEOUT={BUS_TIMEOUT}\ncd /tmp\n"
    )
}

/// `shipped` and the suite `name`.
fn with_suite(workspace: &Workspace, shipped: Vec<Program>, name: &str) -> Result<Vec<Program>> {
    let mut programs = shipped;
    let suite = ["test", "--package", "end-to-end", "--test", name, "--no-run"];
    programs.extend(programs::build(workspace, &suite)?);
    Ok(programs)
}

/// One session, printed as it goes, in which test executables run to their end `runs` times.
fn run_suite(runs: usize, session: impl FnOnce(&mut dyn FnMut(&str)) -> Result<i32>) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut complete = 0;
    let status = session(&mut |line| {
        println!("{line}");
        if let Some(more) = Counts::from_libtest_line(line) {
            counts += more;
            complete += 1;
        }
    })?;
    if complete < runs {
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
    fn the_service_is_part_of_the_smoke_set_alone() {
        assert!(VmTest::default().is_smoke_set());
        let others = [
            VmTest { full: true, ..VmTest::default() },
            VmTest { systemd: true, ..VmTest::default() },
            VmTest { power: true, ..VmTest::default() },
            VmTest { filters: vec!["wire".into()], ..VmTest::default() },
        ];
        assert!(others.iter().all(|task| !task.is_smoke_set()));
        let script = VmTest::default().service_smoke_script();
        assert!(script.ends_with("\nexec /lab/bin/systemd --test-threads=1 smoke::\n"), "{script}");
    }

    #[test]
    fn each_filter_is_passed_as_one_word() {
        let task = VmTest { filters: vec!["a; reboot".into(), "b".into()], full: true, ..VmTest::default() };
        let script = task.plain_script();
        for line in [
            "'/lab/bin/vm' '--test-threads=1' 'a; reboot' 'b' '--include-ignored'\n",
            "'/lab/bin/host' '--test-threads=1' 'a; reboot' 'b' '--ignored' || status=$?\n",
        ] {
            assert!(script.contains(line), "{script}");
        }
    }
}
