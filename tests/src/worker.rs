//! The worker as a process: started, assigned to and ended. It is asked as a [`Client`].

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::assignment::file_of;
use crate::client::TERMINATION_DEADLINE;
use crate::place::{Place, write_atomically};
use crate::{Assignment, Client, Environment, Never, SHORT_DEADLINE, until};

/// Lines of the worker's log and of each console that a failed test prints.
const SHOWN_LINES: usize = 60;

/// A running `procurator-worker run`. It never outlives its owner. Dropped without having been ended, as where a test
/// fails, it prints its log and its guests' consoles first.
#[derive(Debug)]
pub struct Worker {
    client: Client,
    place: Arc<Place>,
    child: Child,
    ended: bool,
}

/// What becomes of guests when a worker ends.
#[derive(Clone, Copy, Debug)]
enum Guests {
    Stop,
    Leave,
}

/// How a worker ended that was told to.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// How long it took.
    pub after: Duration,
    /// What it left behind.
    pub place: Arc<Place>,
}

impl Ended {
    /// What the worker's log says of one VM, a line each.
    ///
    /// # Errors
    /// There is no log.
    pub fn log_of(&self, id: &str) -> Result<Vec<String>> {
        let log = self.place.log();
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
        Self::start_at(environment, &Arc::new(Place::new(settings)?))
    }

    /// Starts one at a place where another one may have been, and waits until it answers.
    ///
    /// # Errors
    /// It does not start or does not answer.
    pub fn start_at(environment: &Environment, place: &Arc<Place>) -> Result<Self> {
        Self::start_to(environment, place, Guests::Stop)
    }

    /// As [`Worker::start_at`], one that lets guests go on when it ends. Another has to come after it.
    ///
    /// # Errors
    /// It does not start or does not answer.
    pub fn start_leaving(environment: &Environment, place: &Arc<Place>) -> Result<Self> {
        Self::start_to(environment, place, Guests::Leave)
    }

    fn start_to(environment: &Environment, place: &Arc<Place>, guests: Guests) -> Result<Self> {
        let log = fs::File::options().append(true).create(true).open(place.log());
        let log = log.with_context(|| format!("cannot open {}", place.log().display()))?;
        let errors = log.try_clone().context("cannot share its log")?;
        let child = Command::new(&environment.worker)
            .arg("run")
            .arg("--config")
            .arg(place.configuration())
            .arg("--assignments")
            .arg(place.assignments())
            .arg("--state-dir")
            .arg(place.state())
            .arg("--runtime-dir")
            .arg(place.runtime())
            .args(["--store-root", "/nix/store", "--log-format", "json", "--store-root"])
            .arg(place.images())
            .args(match guests {
                Guests::Stop => &["--stop-guests"][..],
                Guests::Leave => &[],
            })
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {}", environment.worker.display()))?;
        let mut worker = Self {
            client: Client::new(&environment.worker, place.runtime()),
            place: Arc::clone(place),
            child,
            ended: false,
        };
        until("the worker answers", SHORT_DEADLINE, || {
            if let Some(status) = worker.child.try_wait().context("cannot ask for its status")? {
                bail!(Never(format!("it has ended with {status}")));
            }
            worker.vms()
        })?;
        Ok(worker)
    }

    /// It, asked by the program of another environment.
    pub fn asked_by(&self, environment: &Environment) -> Client {
        Client::new(&environment.worker, self.place.runtime())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where everything is that belongs to one VM.
    pub fn vm_directory(&self, id: &str) -> PathBuf {
        self.place.state().join("vms").join(id)
    }

    /// Writes a new set of assignments, as one step. An empty one is meant: it says that VMs may be removed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn assign(&self, assignments: &[Assignment]) -> Result<()> {
        self.write_assignments(&file_of(assignments))
    }

    /// Puts `text` into the file of assignments, as one step.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_assignments(&self, text: &str) -> Result<()> {
        write_atomically(&self.place.assignments(), text)
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
        Ok(Ended { status, after: start.elapsed(), place: Arc::clone(&self.place) })
    }

    /// Ends it by SIGKILL. Its guests go on.
    ///
    /// # Errors
    /// It is gone already.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("cannot kill the worker")?;
        self.child.wait().context("cannot wait for the worker")?;
        self.ended = true;
        Ok(())
    }

    fn print_what_happened(&self) {
        let log = fs::read(self.place.log()).unwrap_or_default();
        print_end("the worker's log", &String::from_utf8_lossy(&log));
        for vm in self.vms().unwrap_or_default() {
            println!("{}", vm.state());
            let console = self.console_of(&vm.id).unwrap_or_else(|error| format!("({error:#})"));
            print_end(&format!("the console of {}", vm.id), &console);
        }
    }
}

/// What can be asked of any worker.
impl Deref for Worker {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
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

/// Prints the last lines of what tells of a failed test.
pub(crate) fn print_end(title: &str, text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    println!("── {title}");
    for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
        println!("{line}");
    }
    println!("──");
}
