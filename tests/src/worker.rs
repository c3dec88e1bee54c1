//! The worker as a process: started, assigned to, asked, and ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::assignment::file_of;
use crate::observed::{read_list, read_one};
use crate::{
    Assignment, BOOT_DEADLINE, Environment, Never, ObservedVm, SHORT_DEADLINE, http_get, ping, until,
};

/// For stopping every guest by its power button, and one that does not listen after that.
const TERMINATION_DEADLINE: Duration = Duration::from_secs(90);
/// How long a client verb may take, in seconds.
const VERB_SECONDS: &str = "30";
/// Lines of the worker's log and of each console that a failed test prints.
const SHOWN_LINES: usize = 60;

/// A running `procurator-worker run`, with directories of its own. It never outlives its owner. Dropped without having
/// been terminated, as where a test fails, it prints its log and its guests' consoles first.
#[derive(Debug)]
pub struct Worker {
    program: PathBuf,
    folder: TempDir,
    child: Child,
    ended: bool,
}

/// How a worker ended that was told to.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// How long it took.
    pub after: Duration,
    /// What it left in its directories.
    pub folder: TempDir,
}

impl Ended {
    /// What the worker's log says of one VM, a line each.
    ///
    /// # Errors
    /// There is no log.
    pub fn log_of(&self, id: &str) -> Result<Vec<String>> {
        let log = self.folder.path().join("worker.log");
        let text = fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
        let id = format!("\"{id}\"");
        Ok(text.lines().filter(|line| line.contains(&id)).map(str::to_owned).collect())
    }
}

impl Worker {
    /// Starts a worker that has nothing to do yet and waits until it answers.
    ///
    /// # Errors
    /// It does not start or does not answer.
    pub fn start(environment: &Environment) -> Result<Self> {
        Self::start_with(environment, "")
    }

    /// As [`Worker::start`], with `settings` as its configuration file.
    ///
    /// # Errors
    /// It does not start or does not answer.
    pub fn start_with(environment: &Environment, settings: &str) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("procurator-")
            .tempdir()
            .context("cannot create a directory for the worker")?;
        write_atomically(&folder.path().join("assignments.json"), &file_of(&[]))?;
        let configuration = folder.path().join("worker.toml");
        fs::write(&configuration, settings).context("cannot write its configuration")?;
        let log = fs::File::create(folder.path().join("worker.log")).context("cannot create its log")?;
        let errors = log.try_clone().context("cannot share its log")?;
        let child = Command::new(&environment.worker)
            .arg("run")
            .arg("--config")
            .arg(configuration)
            .arg("--assignments")
            .arg(folder.path().join("assignments.json"))
            .arg("--state-dir")
            .arg(folder.path().join("state"))
            .arg("--runtime-dir")
            .arg(folder.path().join("run"))
            .args(["--store-root", "/nix/store", "--log-format", "json"])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {}", environment.worker.display()))?;
        let mut worker = Self { program: environment.worker.clone(), folder, child, ended: false };
        until("the worker answers", SHORT_DEADLINE, || {
            if let Some(status) = worker.child.try_wait().context("cannot ask for its status")? {
                bail!(Never(format!("it has ended with {status}")));
            }
            worker.vms()
        })?;
        Ok(worker)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where everything is that belongs to one VM.
    pub fn vm_directory(&self, id: &str) -> PathBuf {
        self.folder.path().join("state/vms").join(id)
    }

    /// Writes a new set of assignments, as one step.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn assign(&self, assignments: &[Assignment]) -> Result<()> {
        write_atomically(&self.folder.path().join("assignments.json"), &file_of(assignments))
    }

    /// Every VM it knows.
    ///
    /// # Errors
    /// It does not answer, or not in its form.
    pub fn vms(&self) -> Result<Vec<ObservedVm>> {
        read_list(&self.ask(&["ls", "--json"])?)
    }

    /// One VM.
    ///
    /// # Errors
    /// It does not answer, or does not know it.
    pub fn vm(&self, id: &str) -> Result<ObservedVm> {
        read_one(&self.ask(&["inspect", id, "--json"])?)
    }

    /// What a guest has written to its console.
    ///
    /// # Errors
    /// It does not answer, or does not know the VM.
    pub fn console_of(&self, id: &str) -> Result<String> {
        self.ask(&["logs", id])
    }

    /// The VM once it is in that phase.
    ///
    /// # Errors
    /// It is not in time, or has failed for good; the error says where it is.
    pub fn wait_for_phase(&self, id: &str, phase: &str) -> Result<ObservedVm> {
        until(&format!("{id} is {phase}"), BOOT_DEADLINE, || {
            let vm = self.vm(id)?;
            ensure!(vm.phase != "failed" || phase == "failed", Never(vm.state()));
            ensure!(vm.phase == phase, "{}", vm.state());
            Ok(vm)
        })
    }

    /// The VM once it runs and its guest answers a ping and serves its page.
    ///
    /// # Errors
    /// It does not in time, or has failed for good.
    pub fn wait_until_answering(&self, id: &str) -> Result<ObservedVm> {
        let vm = self.wait_for_phase(id, "running")?;
        let address = vm.address()?;
        until(&format!("{id} answers at {address}"), BOOT_DEADLINE, || {
            ping(address)?;
            let page = http_get(address, "/")?;
            let page = String::from_utf8_lossy(&page);
            ensure!(page.contains(&address.to_string()), "its page is {page:?}");
            Ok(())
        })?;
        self.vm(id)
    }

    /// Waits until it no longer knows a VM.
    ///
    /// # Errors
    /// It still does after the deadline.
    pub fn wait_until_gone(&self, id: &str) -> Result<()> {
        until(&format!("{id} is gone"), TERMINATION_DEADLINE, || {
            let vms = self.vms()?;
            match vms.iter().find(|vm| vm.id == id) {
                Some(vm) => bail!("{}", vm.state()),
                None => Ok(()),
            }
        })
    }

    /// Ends it by SIGTERM and waits for that.
    ///
    /// # Errors
    /// It has not ended in time.
    pub fn terminate(mut self) -> Result<Ended> {
        let start = Instant::now();
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).context("cannot signal the worker")?;
        let status = until("the worker ends", TERMINATION_DEADLINE, || {
            self.child.try_wait().context("cannot ask for its status")?.context("it still runs")
        })?;
        self.ended = true;
        let empty = TempDir::new().context("cannot create a directory")?;
        let folder = std::mem::replace(&mut self.folder, empty);
        Ok(Ended { status, after: start.elapsed(), folder })
    }

    /// Runs one of the worker's client verbs. A worker that does not answer must not hang its test.
    fn ask(&self, verb: &[&str]) -> Result<String> {
        let output = Command::new("busybox")
            .args(["timeout", VERB_SECONDS])
            .arg(&self.program)
            .args(verb)
            .arg("--runtime-dir")
            .arg(self.folder.path().join("run"))
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("`{}` ended with {}: {}", verb.join(" "), output.status, errors.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn print_what_happened(&self) {
        let log = fs::read(self.folder.path().join("worker.log")).unwrap_or_default();
        print_end("the worker's log", &String::from_utf8_lossy(&log));
        for vm in self.vms().unwrap_or_default() {
            println!("{}", vm.state());
            let console = self.console_of(&vm.id).unwrap_or_else(|error| format!("({error:#})"));
            print_end(&format!("the console of {}", vm.id), &console);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.print_what_happened();
        // What it leaves when killed would stand in the way of the next test, so it is asked first.
        let asked = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let ended = until("the worker ends", TERMINATION_DEADLINE, || {
            self.child.try_wait().context("cannot ask for its status")?.context("it still runs")
        });
        if asked.is_err() || ended.is_err() {
            // Both fail only where it has ended and been waited for already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn print_end(title: &str, text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    println!("── {title}");
    for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
        println!("{line}");
    }
    println!("──");
}

/// A reader sees the old content or the new one.
fn write_atomically(path: &Path, text: &str) -> Result<()> {
    let next = path.with_extension("next");
    fs::write(&next, text).with_context(|| format!("cannot write {}", next.display()))?;
    fs::rename(&next, path).with_context(|| format!("cannot replace {}", path.display()))
}
