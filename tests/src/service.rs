//! The worker as a service that systemd runs, installed as packages do it.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::assignment::file_of;
use crate::place::write_atomically;
use crate::{Assignment, Client, Environment, SHORT_DEADLINE, until};

/// Where the shipped unit and the default configuration have everything.
const CONFIGURATION: &str = "/etc/procurator";
const STATE: &str = "/var/lib/procurator";
const RUNTIME: &str = "/run/procurator";

/// `procurator-worker.service`. Nothing happens to it where a test ends before it was stopped.
#[derive(Debug)]
pub struct Service {
    client: Client,
}

/// A unit of systemd.
#[derive(Clone, Copy, Debug)]
pub struct Unit(pub &'static str);

impl Unit {
    /// Does `verb` to it (`start`, `stop`, `restart`), and waits until that is done.
    ///
    /// # Errors
    /// systemd says so.
    pub fn systemctl(self, verb: &str) -> Result<()> {
        systemctl(&[verb, self.0]).map(drop)
    }

    /// A property of it.
    ///
    /// # Errors
    /// systemd does not say.
    pub fn property(self, name: &str) -> Result<String> {
        let shown = systemctl(&["show", "--value", "--property", name, self.0])?;
        Ok(shown.trim().to_owned())
    }
}

impl Service {
    /// The unit.
    pub const UNIT: Unit = Unit("procurator-worker.service");

    /// Starts it with `settings` beside the file of assignments, and nothing to do.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(environment: &Environment, settings: &str) -> Result<Self> {
        let service = Self { client: Client::new(&environment.worker, RUNTIME.into()) };
        fs::create_dir_all(CONFIGURATION).context("cannot create the directory of the configuration")?;
        service.assign(&[])?;
        service.configure(settings)?;
        Self::UNIT.systemctl("start").or_else(|problem| {
            let journal = Self::journal()?;
            Err(problem.context(format!("the service does not start; it logged:\n{journal}")))
        })?;
        Ok(service)
    }

    /// The one that runs.
    pub fn running(environment: &Environment) -> Self {
        Self { client: Client::new(&environment.worker, RUNTIME.into()) }
    }

    /// Writes its configuration; it is read at the next start.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(&self, settings: &str) -> Result<()> {
        let text = format!("assignments = '{}'\n{settings}\n", Self::assignments().display());
        write_atomically(&Path::new(CONFIGURATION).join("worker.toml"), &text)
    }

    /// Writes a new set of assignments, as one step.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn assign(&self, assignments: &[Assignment]) -> Result<()> {
        write_atomically(&Self::assignments(), &file_of(assignments))
    }

    /// Its process.
    ///
    /// # Errors
    /// It has none.
    pub fn pid(&self) -> Result<i32> {
        let pid = Self::UNIT.property("MainPID")?.parse().context("no process id")?;
        ensure!(pid > 0, "the worker does not run");
        Ok(pid)
    }

    /// Waits until another process than `before` runs it and answers.
    ///
    /// # Errors
    /// None does.
    pub fn wait_until_restarted(&self, before: i32) -> Result<()> {
        until("systemd starts it again", SHORT_DEADLINE, || {
            ensure!(self.pid()? != before, "it is still the process {before}");
            self.vms()
        })?;
        Ok(())
    }

    /// What it and its VMs' processes logged.
    ///
    /// # Errors
    /// There is no journal.
    pub fn journal() -> Result<String> {
        output_of(
            Command::new("journalctl")
                .args(["--no-pager", "--output=short-monotonic", "--unit"])
                .arg(Self::UNIT.0),
        )
    }

    /// All that a guest wrote to its console, of whichever boot.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn kept_console(id: &str) -> Result<String> {
        let directory = Self::vm_directory(id).join("console");
        let entries = fs::read_dir(&directory);
        let mut console = String::new();
        for entry in entries.with_context(|| format!("cannot list {}", directory.display()))? {
            let path = entry.with_context(|| format!("cannot list {}", directory.display()))?.path();
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            console.push_str(&String::from_utf8_lossy(&bytes));
        }
        Ok(console)
    }

    /// Where everything is that belongs to one VM.
    pub fn vm_directory(id: &str) -> PathBuf {
        Path::new(STATE).join("vms").join(id)
    }

    fn assignments() -> PathBuf {
        Path::new(CONFIGURATION).join("vms.json")
    }
}

/// What can be asked of any worker.
impl Deref for Service {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// The scopes of host processes, by name.
///
/// # Errors
/// systemd does not say.
pub fn scopes() -> Result<BTreeSet<String>> {
    let list = systemctl(&["list-units", "--all", "--plain", "--no-legend", "procurator-vm-*.scope"])?;
    Ok(list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

fn systemctl(words: &[&str]) -> Result<String> {
    output_of(Command::new("systemctl").args(words))
}

fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {}", output.status, errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
