//! `cargo xtask test`: everything that has to hold before a change lands, as steps that also run alone.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::counts::Counts;
use crate::vm_test::VmTest;
use crate::workspace::Workspace;
use crate::{packages, process, prometheus, terminal, tidy};

/// Variables with which a machine says that it lacks what a tier of tests needs. A test that obeys one prints a line
/// that begins with `SKIPPED:`.
const SKIP_VARIABLES: [&str; 5] = [
    "PROCURATOR_SKIP_KVM_TESTS",
    "PROCURATOR_SKIP_ROOT_TESTS",
    "PROCURATOR_SKIP_NIX_TESTS",
    SKIP_PROMETHEUS,
    SKIP_BROWSER,
];
/// The one that spares the download of a Prometheus.
const SKIP_PROMETHEUS: &str = "PROCURATOR_SKIP_PROMETHEUS_TESTS";
/// The one that spares a browser.
const SKIP_BROWSER: &str = "PROCURATOR_SKIP_BROWSER_TESTS";

/// Options of the task.
#[derive(Args, Debug, Default)]
pub(crate) struct Test {
    /// Runs these steps only.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Step>,
}

/// One step, in the order in which they run: what is quick and fails often comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Formatting.
    Fmt,
    /// The project's own rules.
    Tidy,
    /// Lints, on all targets.
    Clippy,
    /// Unit, property and native-KVM tests.
    Unit,
    /// Examples in the documentation.
    Doctest,
    /// The documentation itself: its links, its completeness.
    Doc,
    /// The smoke set of the end-to-end tests, in nested KVM.
    Vm,
}

/// How a step went.
struct Outcome {
    step: Step,
    duration: Duration,
    result: Result<Counts>,
}

impl Test {
    /// Runs the steps, also past one that failed, closes with a table and the counts of tests, and returns whether all
    /// is well.
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<bool> {
        packages::ensure()?;
        terminal::ensure(workspace)?;
        let mut outcomes = Vec::new();
        for step in Step::value_variants() {
            if self.only.is_empty() || self.only.contains(step) {
                println!("\n── {}", step.title());
                let start = Instant::now();
                let result = step.run(workspace);
                if let Err(error) = &result {
                    println!("{}: {error:#}", step.title());
                }
                outcomes.push(Outcome { step: *step, duration: start.elapsed(), result });
            }
        }
        Ok(report(&outcomes))
    }
}

impl Step {
    fn title(self) -> &'static str {
        match self {
            Self::Fmt => "formatting",
            Self::Tidy => "tidy",
            Self::Clippy => "clippy",
            Self::Unit => "unit, property and native-KVM tests",
            Self::Doctest => "documentation examples",
            Self::Doc => "documentation",
            Self::Vm => "end-to-end tests (smoke set)",
        }
    }

    fn run(self, workspace: &Workspace) -> Result<Counts> {
        let cargo = |arguments: &[&str]| {
            let mut command = workspace.cargo();
            command.args(arguments);
            command
        };
        let nothing_counted = |()| Counts::default();
        match self {
            Self::Fmt => process::run(&mut cargo(&["fmt", "--all", "--check"])).map(nothing_counted),
            Self::Tidy => match tidy::run(workspace)? {
                true => Ok(Counts::default()),
                false => bail!("there are findings"),
            },
            Self::Clippy => {
                process::run(&mut cargo(&[
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--",
                    "-D",
                    "warnings",
                ]))?;
                // A target that plain test runs leave out is none of all targets.
                let suites = ["--test", "vm", "--test", "systemd", "--test", "power"];
                let mut clippy = cargo(&["clippy", "--package", "end-to-end"]);
                process::run(clippy.args(suites).args(["--", "-D", "warnings"])).map(nothing_counted)
            }
            Self::Unit => run_unit_tests(workspace),
            Self::Doctest => run_counted(&mut cargo(&["test", "--workspace", "--doc", "--no-fail-fast"])),
            Self::Doc => {
                process::run(cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
                    .map(nothing_counted)
            }
            Self::Vm => VmTest::default().run(workspace),
        }
    }
}

/// With nextest, which runs each test in a process of its own; with plain cargo where it is not installed.
fn run_unit_tests(workspace: &Workspace) -> Result<Counts> {
    let mut cargo = workspace.cargo();
    if std::env::var_os(SKIP_PROMETHEUS).is_none() {
        cargo.env(prometheus::VARIABLE, prometheus::ensure(&workspace.lab_dir().join("prometheus"))?);
    }
    if std::env::var_os(SKIP_BROWSER).is_none() {
        packages::ensure_browser()?;
    }
    if packages::find_program("cargo-nextest").is_some() || has_cargo_subcommand(workspace, "nextest") {
        cargo.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
        cargo.args(["--status-level", "slow", "--final-status-level", "flaky"]);
        if SKIP_VARIABLES.iter().any(|variable| std::env::var_os(variable).is_some()) {
            cargo.args(["--success-output", "final"]);
        }
    } else {
        println!("cargo-nextest is not installed; cargo's own test runner does it");
        cargo.args(["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"]);
        cargo.args(["--", "--show-output"]);
    }
    run_counted(&mut cargo)
}

fn has_cargo_subcommand(workspace: &Workspace, name: &str) -> bool {
    process::output_of(workspace.cargo().args([name, "--version"])).is_ok()
}

/// Runs a test runner, shows what it prints and reads its counts from that. A test that says it skipped itself counts
/// as skipped, whatever its runner thinks.
fn run_counted(command: &mut Command) -> Result<Counts> {
    let (reader, writer) = std::io::pipe().context("cannot create a pipe")?;
    let errors = writer.try_clone().context("cannot share a pipe")?;
    let mut child =
        command.stdin(Stdio::null()).stdout(writer).stderr(errors).spawn().context("cannot start cargo")?;
    // The command holds ends of the pipe that would keep it open.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut counts = Counts::default();
    let mut skipped_themselves = 0;
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("cannot read what the tests print")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some(more) = Counts::from_nextest_line(&line).or_else(|| Counts::from_libtest_line(&line)) {
            counts += more;
        }
        skipped_themselves += u64::from(line.trim_start().starts_with("SKIPPED:"));
    }
    let status = child.wait().context("cannot wait for cargo")?;
    let skipped_themselves = skipped_themselves.min(counts.passed);
    counts.passed -= skipped_themselves;
    counts.skipped += skipped_themselves;
    if !status.success() && counts.failed == 0 {
        bail!("the tests could not be run to their end ({status}); up to then: {counts}");
    }
    Ok(counts)
}

/// Prints the table and the closing line. Returns whether every step went well.
fn report(outcomes: &[Outcome]) -> bool {
    let mut total = Counts::default();
    println!("\n── summary");
    for Outcome { step, duration, result } in outcomes {
        let verdict = match result {
            Ok(counts) if counts.failed > 0 => format!("FAILED  {counts}"),
            Ok(counts) if *counts == Counts::default() => "ok".to_owned(),
            Ok(counts) => format!("ok      {counts}"),
            Err(_) => "FAILED".to_owned(),
        };
        println!("{:<38}{:>8.1} s  {verdict}", step.title(), duration.as_secs_f64());
        if let Ok(counts) = result {
            total += *counts;
        }
    }
    let all_well =
        outcomes.iter().all(|outcome| outcome.result.as_ref().is_ok_and(|counts| counts.failed == 0));
    if !all_well {
        println!("at least one step FAILED");
    }
    println!("{total}");
    all_well
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn counts_come_from_both_streams() {
        let script = "echo 'test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out'; \
                      echo '     Summary [   0.1s] 3 tests run: 3 passed, 0 skipped' >&2";
        let counts = run_counted(&mut shell(script)).expect("it ended well");
        assert_eq!(counts, Counts { passed: 5, failed: 0, skipped: 1 });
    }

    #[test]
    fn a_test_that_skipped_itself_did_not_pass() {
        let script = "echo 'SKIPPED: no /dev/kvm'; \
                      echo '     Summary [   0.1s] 3 tests run: 3 passed, 0 skipped'";
        let counts = run_counted(&mut shell(script)).expect("it ended well");
        assert_eq!(counts, Counts { passed: 2, failed: 0, skipped: 1 });
    }

    #[test]
    fn tests_that_do_not_build_are_no_success() {
        assert!(run_counted(&mut shell("echo error >&2; exit 101")).is_err());
    }

    #[test]
    fn a_failed_step_fails_the_whole() {
        let outcome = |result| Outcome { step: Step::Unit, duration: Duration::ZERO, result };
        assert!(report(&[outcome(Ok(Counts { passed: 1, ..Counts::default() }))]));
        assert!(!report(&[outcome(Ok(Counts { failed: 1, ..Counts::default() }))]));
        assert!(!report(&[outcome(Ok(Counts::default())), outcome(Err(anyhow::anyhow!("broken")))]));
    }
}
