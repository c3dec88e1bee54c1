//! The reference master as a process: started with certificates, told by files what should run, killed and rebuilt. It is
//! asked by its own command line.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::assignment::{Assignment, file_of};
use crate::place::write_atomically;
use crate::worker::print_end;
use crate::{Environment, Never, SHORT_DEADLINE, until};

/// Both ends are on one host.
const HOST: &str = "127.0.0.1";
/// What its certificate calls the worker.
const WORKER: &str = "worker-1";
/// How long a client verb may take, in seconds.
const VERB_SECONDS: &str = "30";

/// Where masters of one authority keep their files, and the port at which the worker expects one. It all goes when this
/// value does.
#[derive(Debug)]
pub struct MasterPlace {
    program: PathBuf,
    folder: TempDir,
    port: u16,
}

/// A running `procurator-master run`. It is killed when dropped; one that was not killed before prints its log.
#[derive(Debug)]
pub struct Master<'place> {
    place: &'place MasterPlace,
    name: String,
    child: Child,
    killed: bool,
}

impl MasterPlace {
    /// Makes certificates of a master and of one worker, by `procurator-master certificates`.
    ///
    /// # Errors
    /// The host has no room, or the program fails.
    pub fn new(environment: &Environment) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("procurator-master-")
            .tempdir()
            .context("cannot create a directory for the master")?;
        // Free a moment ago; nobody else takes ports of a host on which one test runs at a time.
        let listener = TcpListener::bind((HOST, 0)).context("there is no free port")?;
        let port = listener.local_addr().context("a listener has no address")?.port();
        let place = Self { program: environment.master.clone(), folder, port };
        let directory = place.folder.path().join("tls");
        let directory = directory.to_string_lossy();
        place.ask(&["certificates", &directory, "--master", HOST, "--worker", WORKER])?;
        Ok(place)
    }

    /// The table of `worker.toml` by which a worker follows the master that listens here. Keys outside of tables go before
    /// it.
    pub fn worker_settings(&self) -> String {
        let mut table = format!("[master]\naddress = '{HOST}:{}'\n", self.port);
        for (key, file) in [
            ("certificate", format!("{WORKER}.pem")),
            ("key", format!("{WORKER}.key")),
            ("authorities", "ca.pem".to_owned()),
        ] {
            table.push_str(&format!("{key} = '{}'\n", self.tls(&file).display()));
        }
        table
    }

    /// Starts the master `name`, with the numbers and the desired states that it had here before.
    ///
    /// # Errors
    /// It does not start, or does not answer.
    pub fn start(&self, name: &str) -> Result<Master<'_>> {
        let state = self.directory(name, "state")?;
        let desired = self.directory(name, "desired")?;
        let log = self.path(name, "log");
        let errors = File::options().append(true).create(true).open(&log);
        let child = Command::new(&self.program)
            .arg("--state-dir")
            .arg(state)
            .args(["run", "--name", name, "--heartbeat", "1"])
            .args(["--listen", &format!("{HOST}:{}", self.port)])
            .arg("--desired")
            .arg(desired)
            .arg("--cert")
            .arg(self.tls("master.pem"))
            .arg("--key")
            .arg(self.tls("master.key"))
            .arg("--ca")
            .arg(self.tls("ca.pem"))
            .stdin(Stdio::null())
            .stderr(errors.with_context(|| format!("cannot open {}", log.display()))?)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let mut master = Master { place: self, name: name.to_owned(), child, killed: false };
        until(&format!("master {name} answers"), SHORT_DEADLINE, || {
            if let Some(status) = master.child.try_wait().context("cannot ask for its status")? {
                bail!(Never(format!("it has ended with {status}")));
            }
            master.ask(&["workers"])
        })?;
        Ok(master)
    }

    /// Takes its numbers from the master `name`, which does not run: when it is started again it begins another epoch.
    ///
    /// # Errors
    /// There are none.
    pub fn lose_state(&self, name: &str) -> Result<()> {
        let state = self.path(name, "state");
        fs::remove_dir_all(&state).with_context(|| format!("cannot remove {}", state.display()))
    }

    /// Puts a new desired state of the worker before the master `name`, whether it runs or not.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn desire(&self, name: &str, assignments: &[Assignment]) -> Result<()> {
        self.write_desired(name, &file_of(assignments))
    }

    /// As [`MasterPlace::desire`], with the file's text.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_desired(&self, name: &str, text: &str) -> Result<()> {
        write_atomically(&self.directory(name, "desired")?.join(format!("{WORKER}.json")), text)
    }

    /// A directory of the master `name`, which is made where it is not there.
    fn directory(&self, name: &str, directory: &str) -> Result<PathBuf> {
        let path = self.path(name, directory);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }

    fn path(&self, name: &str, file: &str) -> PathBuf {
        self.folder.path().join(name).join(file)
    }

    fn tls(&self, file: &str) -> PathBuf {
        self.folder.path().join("tls").join(file)
    }

    /// Runs the program with `words`. One that hangs must not hang its test.
    fn ask(&self, words: &[&str]) -> Result<String> {
        let output = Command::new("busybox")
            .args(["timeout", VERB_SECONDS])
            .arg(&self.program)
            .args(words)
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`{}` ended with {}: {}",
            words.join(" "),
            output.status,
            errors.trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Master<'_> {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Puts a new desired state of the worker before it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn desire(&self, assignments: &[Assignment]) -> Result<()> {
        self.place.desire(&self.name, assignments)
    }

    /// Runs one of its client verbs.
    ///
    /// # Errors
    /// The verb failed; the error has what it printed.
    pub fn ask(&self, verb: &[&str]) -> Result<String> {
        let state = self.place.path(&self.name, "state");
        let state = state.to_string_lossy();
        self.place.ask(&[&["--state-dir", &*state], verb].concat())
    }

    /// What it knows of the worker: what `ls --json` prints of it.
    ///
    /// # Errors
    /// It does not answer, or has not heard of it.
    pub fn worker(&self) -> Result<Value> {
        let printed = self.ask(&["ls", "--json"])?;
        let workers: Vec<Value> =
            serde_json::from_str(&printed).with_context(|| format!("`ls --json` printed: {printed}"))?;
        workers.into_iter().find(|worker| worker["worker"] == WORKER).context("it has not heard of it")
    }

    /// What it knows of a VM of the worker.
    ///
    /// # Errors
    /// It does not answer, or has not heard of it.
    pub fn vm(&self, id: &str) -> Result<Value> {
        let worker = self.worker()?;
        let vms = worker["vms"].as_array().context("the worker has no VMs")?;
        let vm = vms.iter().find(|vm| vm["vm"] == id);
        vm.cloned().with_context(|| format!("the master knows no {id}"))
    }

    /// Ends it by SIGKILL.
    ///
    /// # Errors
    /// It is gone already.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("cannot kill the master")?;
        self.child.wait().context("cannot wait for the master")?;
        self.killed = true;
        Ok(())
    }
}

impl Drop for Master<'_> {
    fn drop(&mut self) {
        if self.killed {
            return;
        }
        // Both fail only where it has ended and been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = fs::read(self.place.path(&self.name, "log")).unwrap_or_default();
        print_end(&format!("the log of master {}", self.name), &String::from_utf8_lossy(&log));
    }
}
