//! The program itself with two workers' links over TLS: told, drained, killed and started again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use master_protocol::drivers::{BackoffLimits, LinkStatus, OfferedAssignment, WorkerLink, WorkerTransport};
use master_protocol::session::AssignmentAnswer;
use master_protocol::tls::{CredentialStore, TlsFiles};
use master_protocol::wire::v1::{Accepted, Hello};
use master_protocol::wire::{List, Text};
use master_protocol::{WorkerState, os_random};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use vm_model::{AssignmentSet, DesiredState, Generation};

const PATIENCE: Duration = Duration::from_secs(60);
const HASH: &str = "sha256-vZsuiNNAbVoV1qgClBpHhRQ8DSbbp6Lz6NMMLS5CqVY=";

/// A master with certificates, and where all of it lies.
struct Master {
    directory: TempDir,
    port: u16,
    child: Child,
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_procurator-master"))
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it has one").port()
}

impl Master {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let certificates = directory.path().join("tls");
        let made = program()
            .arg("certificates")
            .arg(&certificates)
            .args(["--master", "master", "--worker", "worker-1", "--worker", "worker-2"])
            .output()
            .expect("it runs");
        assert!(made.status.success(), "{made:?}");
        fs::create_dir(directory.path().join("desired")).expect("made");
        let port = free_port();
        let child = run(directory.path(), port);
        Self { directory, port, child }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn restart(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        self.child = run(self.directory.path(), self.port);
    }

    /// Replaces a worker's file, as editors do.
    fn desire(&self, worker: &str, vms: &[&str]) {
        let entry =
            |vm: &&str| format!(r#"{{"id": "{vm}", "hash": "{HASH}", "store_path": "/nix/store/x"}}"#);
        let entries: Vec<String> = vms.iter().map(entry).collect();
        let new = self.path("desired/.new");
        fs::write(&new, format!(r#"{{"vms": [{}]}}"#, entries.join(","))).expect("written");
        fs::rename(new, self.path(&format!("desired/{worker}.json"))).expect("renamed");
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = program();
        command.arg("--state-dir").arg(self.path("state")).args(arguments).output().expect("it runs")
    }

    /// What `workers --json` says, once it satisfies `is_it`.
    fn workers(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.ask(&["workers", "--json"]);
            if let Ok(said) = serde_json::from_slice::<Value>(&output.stdout)
                && is_it(&said)
            {
                return said;
            }
            assert!(Instant::now() < deadline, "{output:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn run(directory: &Path, port: u16) -> Child {
    let path = |name: &str| directory.join(name);
    program()
        .arg("--state-dir")
        .arg(path("state"))
        .args(["run", "--heartbeat", "1", "--listen", &format!("127.0.0.1:{port}")])
        .arg("--desired")
        .arg(path("desired"))
        .arg("--cert")
        .arg(path("tls/master.pem"))
        .arg("--key")
        .arg(path("tls/master.key"))
        .arg("--ca")
        .arg(path("tls/ca.pem"))
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs")
}

/// A worker's link, and what it was offered.
struct Worker {
    offers: mpsc::Receiver<OfferedAssignment>,
    state: watch::Sender<Arc<WorkerState>>,
    _hello: watch::Sender<Hello>,
}

impl Worker {
    fn start(master: &Master, name: &str) -> Self {
        let file = |end: &str| master.path(&format!("tls/{name}.{end}"));
        let files =
            TlsFiles { certificate: file("pem"), key: file("key"), authorities: master.path("tls/ca.pem") };
        let hello = serde_json::from_str(&format!(
            r#"{{"versions": [1], "worker": "{name}", "run": "1", "engine": {{"name": "test", "version": "1"}},
                "capacity": {{"processors": 8, "memory_bytes": 1073741824}}, "cpu": {{"architecture": "x86_64"}}}}"#
        ));
        let (hello_sender, hello) = watch::channel(hello.expect("a hello"));
        let (state, state_receiver) = watch::channel(Arc::default());
        let (offers_sender, offers) = mpsc::channel(1);
        let link = WorkerLink {
            master: format!("127.0.0.1:{}", master.port),
            transport: WorkerTransport::Tls {
                credentials: Arc::new(CredentialStore::open(files).expect("usable")),
                server_name: "master".to_owned(),
            },
            backoff: BackoffLimits { first: Duration::from_millis(50), longest: Duration::from_millis(200) },
            random: os_random,
            hello,
            state: state_receiver,
            offers: offers_sender,
            status: watch::channel(LinkStatus::default()).0,
        };
        tokio::spawn(link.run(std::future::pending()));
        Self { offers, state, _hello: hello_sender }
    }

    /// The next assignment: its epoch and number, and its VMs by name and whether they are to run. It is accepted.
    async fn told(&mut self) -> (String, u64, Vec<(String, bool)>) {
        let (offer, answer) =
            timeout(PATIENCE, self.offers.recv()).await.expect("in time").expect("an offer");
        let accepted =
            Accepted { epoch: Text::default(), generation: 0, held: None, outcomes: List::default() };
        // The connection may have ended meanwhile.
        let _ = answer.send(AssignmentAnswer::Accepted(accepted));
        let AssignmentSet { generation, vms, .. } = offer.set;
        let vms = vms.iter().map(|vm| (vm.id.to_string(), vm.desired == DesiredState::Running));
        (offer.lineage.epoch().to_owned(), generation.map(Generation::get).unwrap_or_default(), vms.collect())
    }
}

fn vms(names: &[(&str, bool)]) -> Vec<(String, bool)> {
    names.iter().map(|(name, runs)| ((*name).to_owned(), *runs)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_are_told_drained_and_told_again_by_a_master_that_was_killed() {
    let mut master = Master::new();
    master.desire("worker-1", &["web-1"]);
    master.desire("worker-2", &["db"]);
    let (mut first, mut second) = (Worker::start(&master, "worker-1"), Worker::start(&master, "worker-2"));
    let (epoch, generation, told) = first.told().await;
    assert_eq!((generation, told), (1, vms(&[("web-1", true)])));
    assert_eq!(second.told().await, (epoch.clone(), 1, vms(&[("db", true)])));
    master.desire("worker-1", &["web-1", "web-2"]);
    assert_eq!(first.told().await, (epoch.clone(), 2, vms(&[("web-1", true), ("web-2", true)])));

    assert!(master.ask(&["drain", "worker-1"]).status.success());
    assert_eq!(first.told().await, (epoch.clone(), 3, vms(&[("web-1", false), ("web-2", false)])));
    master.desire("worker-1", &["web-2", "web-3"]);
    assert_eq!(first.told().await, (epoch.clone(), 4, vms(&[("web-2", false)])), "nothing new while drained");

    // Numbers, epoch and drains outlive the master.
    master.restart();
    let (epoch_after, generation, told) = first.told().await;
    assert_eq!((epoch_after, generation, told), (epoch.clone(), 4, vms(&[("web-2", false)])));
    assert!(master.ask(&["undrain", "worker-1"]).status.success());
    assert_eq!(first.told().await, (epoch, 5, vms(&[("web-2", true), ("web-3", true)])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_workers_report_is_shown() {
    let master = Master::new();
    master.desire("worker-1", &["web-1"]);
    let mut worker = Worker::start(&master, "worker-1");
    worker.told().await;
    let report =
        r#"{"vm": "web-1", "phase": "running", "image": "/nix/store/x", "hash": "h", "generation": 1}"#;
    let report: master_protocol::wire::v1::VmReport = serde_json::from_str(report).expect("a report");
    worker.state.send_modify(|state| {
        let state = Arc::make_mut(state);
        state.node.applied_generation = Some(1);
        state.vms.insert(report.vm.clone(), report);
    });
    let said = master.workers(|said| said[0]["vm_counts"][0]["count"] == 1 && !said[0]["answer"].is_null());
    assert_eq!(said[0]["vm_counts"][0]["phase"], "running");
    assert!(said[0].get("vms").is_none(), "counts only");
    let listed: Value = serde_json::from_slice(&master.ask(&["ls", "--json"]).stdout).expect("JSON");
    assert_eq!(
        (&listed[0]["worker"], &listed[0]["vms"][0]["phase"]),
        (&"worker-1".into(), &"running".into())
    );
    assert_eq!((&said[0]["worker"], &said[0]["assigned_generation"]), (&"worker-1".into(), &1.into()));
    assert_eq!((&said[0]["node"]["applied_generation"], &said[0]["drained"]), (&1.into(), &false.into()));
    let table = String::from_utf8(master.ask(&["ls"]).stdout).expect("text");
    assert!(table.lines().nth(1).is_some_and(|line| line.starts_with("worker-1  web-1  running")), "{table}");
    let table = String::from_utf8(master.ask(&["workers"]).stdout).expect("text");
    assert!(table.lines().nth(1).is_some_and(|line| line.starts_with("worker-1")), "{table}");
    drop(worker);
    let unknown = master.ask(&["drain", "worker-9"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("worker-9 has no file"), "{unknown:?}");
}

#[test]
fn a_master_that_does_not_run_and_one_that_runs_twice_are_told_apart() {
    let directory = tempfile::tempdir().expect("a directory");
    let asked = program().arg("--state-dir").arg(directory.path()).arg("workers").output().expect("it runs");
    assert_eq!(asked.status.code(), Some(69));
    let master = Master::new();
    master.workers(Value::is_array);
    let mut second = program();
    second.arg("--state-dir").arg(master.path("state")).args(["run", "--listen", "127.0.0.1:0", "--desired"]);
    let second = second.arg(master.path("desired")).output().expect("it runs");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("does another master run with this state?"), "{said}");
    let mut open = program();
    open.arg("--state-dir").arg(directory.path()).args(["run", "--listen", "0.0.0.0:0", "--desired"]);
    let open = open.arg(master.path("desired")).output().expect("it runs");
    let said = String::from_utf8_lossy(&open.stderr).into_owned();
    assert!(!open.status.success() && said.contains("unencrypted-and-unauthenticated"), "{said}");
}
