//! `cargo xtask syscalls`: runs suites of real host processes under `strace` and holds what their threads did against the
//! tables of system calls.
//!
//! Two things fail it: a call that a table lacks, and an entry that no thread made use of and that gives no reason for it.
//! Which thread is of which kind is read off the filter that it loads, which carries the kind's number in its answers.

mod judge;
mod trace;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::process::run;
use crate::workspace::Workspace;
use judge::Findings;

/// The suites whose machines run in host processes.
const SUITES: [&str; 2] = ["host-process", "worker-bin"];
/// All but those that trace a host process themselves, which has room for one tracer; those that make calls which no thread may
/// make; and those that start no host process and need what `cargo xtask test` fetches.
const TRACED: &str = "not (test(a_forbidden_call_ends_the_process_and_is_told) or \
                      test(a_machine_that_is_rebuilt_is_kept_to_its_calls_like_the_first) or binary(hostile) or \
                      test(prometheus::))";

/// Options of the task.
#[derive(Args, Debug)]
pub(crate) struct Syscalls {
    /// Runs only tests that this expression of nextest's selects
    #[arg(short = 'E', long)]
    filter: Option<String>,
    /// Judges what an earlier run left in `target/syscalls`, without running anything
    #[arg(long)]
    again: bool,
}

impl Syscalls {
    /// Whether the tables are what the threads need.
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<bool> {
        let directory = workspace.root().join("target/syscalls");
        if !self.again {
            record(workspace, &directory, self.filter.as_deref())?;
        }
        let findings = read(&directory)?;
        print!("{findings}");
        // A part of the suites does not use everything.
        Ok(if self.filter.is_some() { !findings.lacks_any() } else { findings.are_well() })
    }
}

/// Runs the suites, and leaves a file for each thread of each process that they start.
fn record(workspace: &Workspace, directory: &Path, filter: Option<&str>) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("cannot empty {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let packages = || SUITES.iter().flat_map(|suite| ["--package", suite]);
    run(Command::new("cargo")
        .current_dir(workspace.root())
        .args(["nextest", "run", "--no-run"])
        .args(packages()))?;
    let filter = filter.map_or_else(|| TRACED.to_owned(), |more| format!("({TRACED}) and ({more})"));
    let mut command = Command::new("strace");
    command
        .current_dir(workspace.root())
        .args(["--follow-forks", "--output-separately", "--quiet=all", "--signal=none"])
        // Numbers are what filters see; of the filters themselves everything is wanted.
        .args(["--raw=!seccomp", "--abbrev=!seccomp", "--output"])
        .arg(directory.join("thread"))
        .args(["cargo", "nextest", "run", "--no-fail-fast", "-E", &filter])
        .args(packages());
    run(&mut command).context("strace (Debian: strace) has to run the suites, and they have to pass")
}

/// What the threads did of which there are files in `directory`.
fn read(directory: &Path) -> Result<Findings> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut findings = Findings::default();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", directory.display()))?.path();
        read_thread(&path, &mut findings).with_context(|| format!("cannot read {}", path.display()))?;
    }
    if findings.threads() == 0 {
        bail!("no thread of {} loaded a filter: nothing was recorded", directory.display());
    }
    Ok(findings)
}

fn read_thread(path: &PathBuf, findings: &mut Findings) -> Result<()> {
    let lines = || Ok::<_, anyhow::Error>(BufReader::new(File::open(path)?).lines());
    // Most threads are nobody's here: of tests, of programs that they start.
    let mut kind = None;
    for line in lines()? {
        kind = trace::loaded_filter(&line?);
        if kind.is_some() {
            break;
        }
    }
    let Some(mut kind) = kind else { return Ok(()) };
    let mut has_filter = false;
    for line in lines()? {
        let line = line?;
        if let Some(call) = trace::call(&line) {
            findings.add_call(kind, has_filter, &call);
        }
        // One that loads another becomes of another kind.
        if let Some(loaded) = trace::loaded_filter(&line) {
            findings.add_thread(loaded);
            (kind, has_filter) = (loaded, true);
        }
    }
    Ok(())
}
