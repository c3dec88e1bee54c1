//! A running worker, asked by its command line, whoever started it.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::network::converse;
use crate::observed::{read_list, read_one};
use crate::{BOOT_DEADLINE, Never, ObservedVm, http_get, ping, until};

/// For stopping every guest by its power button, and one that does not listen after that.
pub(crate) const TERMINATION_DEADLINE: Duration = Duration::from_secs(90);
/// How long a client verb may take, in seconds.
const VERB_SECONDS: &str = "30";

/// Asks the worker that has a runtime directory.
#[derive(Clone, Debug)]
pub struct Client {
    program: PathBuf,
    runtime: PathBuf,
}

impl Client {
    /// One that runs `program` and asks the worker at `runtime`.
    pub fn new(program: &Path, runtime: PathBuf) -> Self {
        Self { program: program.to_owned(), runtime }
    }

    /// The program, which learns from its environment where the worker is: what a user types follows.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("PROCURATOR_RUNTIME_DIR", &self.runtime);
        command
    }

    /// How the worker itself is: what `status --json` prints.
    ///
    /// # Errors
    /// It does not answer, or not in its form.
    pub fn status(&self) -> Result<Value> {
        let printed = self.ask(&["status", "--json"])?;
        serde_json::from_str(&printed).with_context(|| format!("`status --json` printed: {printed}"))
    }

    /// What the worker's socket answers to a request for `path`, with no program to be started for it.
    ///
    /// # Errors
    /// It does not answer, or with another status than 200.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let socket = self.runtime.join("worker.sock");
        let stream = UnixStream::connect(&socket)
            .with_context(|| format!("cannot connect to {}", socket.display()))?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        converse(stream, request.as_bytes()).with_context(|| format!("{path} of {}", socket.display()))
    }

    /// What `ls` prints for people.
    ///
    /// # Errors
    /// It does not answer.
    pub fn list(&self) -> Result<String> {
        self.ask(&["ls"])
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

    /// The identity of a VM, by which its guest's system and its ssh clients know it.
    ///
    /// # Errors
    /// The worker does not answer, or does not know the VM.
    pub fn uuid_of(&self, id: &str) -> Result<String> {
        let printed = self.ask(&["inspect", id, "--json"])?;
        let vm: Value =
            serde_json::from_str(&printed).with_context(|| format!("inspect printed: {printed}"))?;
        Ok(vm["uuid"].as_str().context("it has no identity")?.to_owned())
    }

    /// What `ls --removed` prints for people: VMs that can come back.
    ///
    /// # Errors
    /// It does not answer.
    pub fn list_removed(&self) -> Result<String> {
        self.ask(&["ls", "--removed"])
    }

    /// What a guest has written to its console.
    ///
    /// # Errors
    /// It does not answer, or does not know the VM.
    pub fn console_of(&self, id: &str) -> Result<String> {
        self.ask(&["logs", id])
    }

    /// What a VM wrote to its console in the boot before the newest.
    ///
    /// # Errors
    /// There was none, or the worker does not answer.
    pub fn console_before(&self, id: &str) -> Result<String> {
        self.ask(&["logs", id, "--boot", "-1"])
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

    /// Runs one of the worker's client verbs. A worker that does not answer must not hang its test.
    ///
    /// # Errors
    /// The verb failed; the error has what it printed.
    pub fn ask(&self, verb: &[&str]) -> Result<String> {
        let output = Command::new("busybox")
            .args(["timeout", VERB_SECONDS])
            .arg(&self.program)
            .args(verb)
            .arg("--runtime-dir")
            .arg(&self.runtime)
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("`{}` ended with {}: {}", verb.join(" "), output.status, errors.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
