//! Where the tests work: namespaces, a directory with a store and an assignments file, and the program in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_host::Store;
pub(crate) use test_host::{Artifact, links};
use tiny_guest::TinyGuest;

/// Generous: the machine may be busy with other tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Runs `test` on a thread that has a network and mounts of its own, and so have the programs that it starts.
pub(crate) fn isolated(test: impl FnOnce(Bench) + Send + 'static) {
    test_host::isolated(move || test(Bench::new()));
}

/// A store, an assignments file, a configuration, and where the program keeps its things.
pub(crate) struct Bench {
    folder: TempDir,
    store: Store,
    pub(crate) program: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let store = Store::create(folder.path().join("store"));
        let config = "stop_guests = true\nstop_timeout_seconds = 40\n[network]\nsubnet = '10.78.0.0/24'\n";
        fs::write(folder.path().join("worker.toml"), config).expect("written");
        Self { folder, store, program: env!("CARGO_BIN_EXE_procurator-worker").into() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An assignment of a VM `id` that runs `guest`.
    pub(crate) fn vm(&self, id: &str, guest: &TinyGuest) -> Value {
        let artifact = self.store.add(id, guest, &json!({}));
        json!({ "id": id, "hash": artifact.hash, "store_path": artifact.path })
    }

    /// An artifact that runs `guest` with what `more` says, and with `image` as its `disk.img`.
    pub(crate) fn artifact(&self, name: &str, guest: &TinyGuest, more: &Value, image: &str) -> Artifact {
        let artifact = self.store.add(name, guest, more);
        fs::write(artifact.path.join("disk.img"), image.repeat(512)).expect("written");
        self.store.hashed(artifact.path)
    }

    /// The store path at `path` with its hash as it is now.
    pub(crate) fn hashed(&self, path: PathBuf) -> Artifact {
        self.store.hashed(path)
    }

    /// Gives the program that is started next the configuration `text`.
    pub(crate) fn configure(&self, text: &str) {
        fs::write(self.path("worker.toml"), text).expect("written");
    }

    /// Lets guests go on when the program ends that is started next.
    pub(crate) fn leave_guests(&self) {
        let config = fs::read_to_string(self.path("worker.toml")).expect("read");
        fs::write(self.path("worker.toml"), config.replace("stop_guests = true\n", "")).expect("written");
    }

    /// Stops guests when the program ends that is started next.
    pub(crate) fn stop_guests(&self) {
        let config = fs::read_to_string(self.path("worker.toml")).expect("read");
        fs::write(self.path("worker.toml"), format!("stop_guests = true\n{config}")).expect("written");
    }

    /// Puts `vms` into the assignments file as a whole.
    pub(crate) fn assign(&self, vms: &[Value]) {
        self.assign_text(&json!({ "vms": vms }).to_string());
    }

    pub(crate) fn assign_text(&self, text: &str) {
        fs::write(self.path("vms.new"), text).expect("written");
        fs::rename(self.path("vms.new"), self.path("vms.json")).expect("replaced");
    }

    /// `procurator-worker run` with all of this and its log in a file, to be started.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        let log = File::options().create(true).append(true).open(self.path("log")).expect("opened");
        command.arg("run").stdin(Stdio::null()).stderr(log);
        // Settings of whoever runs the tests are not ours; the way to `nft` is.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        for (flag, name) in [
            ("--config", "worker.toml"),
            ("--assignments", "vms.json"),
            ("--state-dir", "state"),
            ("--runtime-dir", "run"),
            ("--store-root", "store"),
        ] {
            command.arg(flag).arg(self.path(name));
        }
        command
    }

    /// The program at work.
    pub(crate) fn start(&self) -> Daemon<'_> {
        self.start_with(self.command())
    }

    /// The program at work, started with `command`.
    pub(crate) fn start_with(&self, command: Command) -> Daemon<'_> {
        let mut daemon = self.spawn(command);
        self.until("it answers", || {
            assert!(!daemon.has_ended(), "it ended: {}", self.log());
            self.client(&["ls"]).status.success()
        });
        daemon
    }

    /// The program, started with `command`, whatever becomes of it.
    pub(crate) fn spawn(&self, mut command: Command) -> Daemon<'_> {
        Daemon { bench: self, child: command.spawn().expect("started") }
    }

    /// Runs a verb against the program at work.
    pub(crate) fn client(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--runtime-dir").arg(self.path("run")).env_clear();
        command.output().expect("started")
    }

    /// The VMs as `ls --json` tells of them.
    pub(crate) fn vms(&self) -> Vec<Value> {
        let output = self.client(&["ls", "--json"]);
        let vms: Option<Vec<Value>> = serde_json::from_slice(&output.stdout).ok();
        vms.unwrap_or_default()
    }

    /// Each VM's phase, by order of their names.
    pub(crate) fn phases(&self) -> Vec<String> {
        self.vms().iter().map(|vm| format!("{} {}", text(&vm["id"]), text(&vm["phase"]))).collect()
    }

    /// The worker's status.
    pub(crate) fn status(&self) -> Value {
        let output = self.client(&["status", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < DEADLINE, "still not: {what}; the log:\n{}", self.log());
            sleep(Duration::from_millis(20));
        }
    }

    /// How the program ends that is started with this, and what it says.
    pub(crate) fn outcome(&self, mut command: Command) -> (Option<i32>, String) {
        let _ = fs::remove_file(self.path("log"));
        let log = File::create(self.path("log")).expect("created");
        let mut daemon = Daemon { bench: self, child: command.stderr(log).spawn().expect("started") };
        let status = daemon.ended();
        (status.code(), self.log())
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The program at work; killed where a test gives up.
pub(crate) struct Daemon<'a> {
    bench: &'a Bench,
    child: Child,
}

impl Daemon<'_> {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is there");
    }

    /// Whether it is gone.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_some()
    }

    /// Ends it as `kill -9` does, if it has not ended.
    pub(crate) fn kill(&mut self) -> ExitStatus {
        // It may have ended long since.
        let _ = self.child.kill();
        self.child.wait().expect("it is ours")
    }

    /// How it ended.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        self.bench.until("it has ended", || {
            status = self.child.try_wait().expect("it is ours");
            status.is_some()
        });
        status.expect("it was just seen")
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // It may have ended long since.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The host processes of this bench: they write to its log, or to a pipe in its directory of which a worker copies there.
pub(crate) fn host_processes(bench: &Bench) -> Vec<i32> {
    let place = bench.path("");
    let processes = fs::read_dir("/proc").expect("listed").flatten();
    let ids = processes.filter_map(|process| {
        let command = fs::read(process.path().join("cmdline")).ok()?;
        let is_host = command.split(|byte| *byte == 0).any(|word| word == b"vm-host");
        let is_ours = fs::read_link(process.path().join("fd/2")).ok()?.starts_with(&place);
        (is_host && is_ours).then(|| process.file_name().to_str()?.parse().ok())?
    });
    ids.collect()
}

/// Where a test fails, guests may be left that would go on for ever.
impl Drop for Bench {
    fn drop(&mut self) {
        for process in host_processes(self) {
            // It may have ended meanwhile.
            let _ = Pid::from_raw(process).map(|process| kill_process(process, Signal::KILL));
        }
    }
}

/// Has the addresses of this test's own network work: nobody has raised its loopback interface.
pub(crate) fn raise_loopback() {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("package iproute2");
    assert!(up.success());
}

/// The names in `directory`.
pub(crate) fn entries(directory: &Path) -> Vec<String> {
    let listed = fs::read_dir(directory).expect("listed");
    let mut names: Vec<String> =
        listed.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
