//! The program with a master: the reference master over TLS, on this host.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use master_protocol::drivers::MasterTransport;
use master_protocol::tls::{CredentialStore, TlsFiles};
use procurator_master::{certificates, control, serve};
use serde_json::{Value, json};
use tiny_guest::TinyGuest;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::bench::{Bench, isolated};

/// The worker's name.
pub(crate) const WORKER: &str = "worker-1";

/// A reference master at work, in this test's network.
pub(crate) struct Master {
    directory: PathBuf,
    pub(crate) address: SocketAddr,
    ending: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn files(directory: &Path, name: &str) -> TlsFiles {
    let file = |suffix: &str| directory.join(format!("tls/{name}.{suffix}"));
    TlsFiles { certificate: file("pem"), key: file("key"), authorities: directory.join("tls/ca.pem") }
}

impl Master {
    /// A master that keeps its things in `directory` and listens on `port`; zero is any.
    pub(crate) fn start(directory: &Path, port: u16) -> Self {
        if !directory.join("tls").exists() {
            let workers = [WORKER.parse().expect("a name")];
            certificates::make(&directory.join("tls"), &["127.0.0.1".to_owned()], &workers).expect("made");
            fs::create_dir_all(directory.join("desired")).expect("made");
        }
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("ip is there").success());
        fs::create_dir_all(directory.join("state")).expect("made");
        let credentials = CredentialStore::open(files(directory, "master")).expect("usable");
        let settings = serve::Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], port)),
            transport: MasterTransport::Tls(Arc::new(credentials)),
            name: Some("m1".to_owned()),
            certified: None,
            heartbeat: Duration::from_millis(200),
            state_dir: directory.join("state"),
            desired: directory.join("desired"),
        };
        let (listening, address) = oneshot::channel();
        let (ending, ended) = oneshot::channel::<()>();
        let thread = spawn(move || {
            runtime()
                .block_on(serve::serve(settings, listening, async { drop(ended.await) }))
                .expect("serves");
        });
        let address = address.blocking_recv().expect("it listens");
        Self { directory: directory.to_owned(), address, ending: Some(ending), thread: Some(thread) }
    }

    pub(crate) fn desire(&self, state: &Value) {
        let file = self.directory.join(format!("desired/{WORKER}.json"));
        fs::write(file.with_extension("new"), state.to_string()).expect("written");
        fs::rename(file.with_extension("new"), file).expect("replaced");
    }

    /// What it knows of a VM, in JSON.
    fn known(&self, vm: &str) -> Option<Value> {
        let question = control::Question::Vms { worker: WORKER.parse().expect("a name"), after: None };
        let answer = runtime().block_on(control::ask(&self.directory.join("state"), &question)).ok()?;
        let answer = serde_json::to_value(answer).ok()?;
        find(&answer, vm).cloned()
    }

    pub(crate) fn end(&mut self) {
        self.ending = None;
        self.thread.take().expect("it runs").join().expect("ends in order");
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.ending = None;
    }
}

/// The object that speaks of VM `name`.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(members) if members.get("vm").is_some_and(|vm| vm == name) => Some(value),
        Value::Object(members) => members.values().find_map(|value| find(value, name)),
        Value::Array(items) => items.iter().find_map(|value| find(value, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// Makes the program's configuration name `master`.
pub(crate) fn follow(bench: &Bench, master: &Master) {
    let TlsFiles { certificate, key, authorities } = files(&master.directory, WORKER);
    let table = format!(
        "[master]\naddress = '{}'\ncertificate = '{}'\nkey = '{}'\nauthorities = '{}'\n",
        master.address,
        certificate.display(),
        key.display(),
        authorities.display()
    );
    let config = fs::read_to_string(bench.path("worker.toml")).expect("read");
    fs::write(bench.path("worker.toml"), format!("{config}\n{table}")).expect("written");
}

#[test]
fn a_master_assigns_changes_and_removes_and_hears_of_it() {
    isolated(|bench| {
        let guest = TinyGuest::power_button();
        let (a, b) = (bench.vm("a", &guest), bench.vm("b", &guest));
        let mut master = Master::start(&bench.path("master"), 0);
        follow(&bench, &master);
        bench.assign(&[]);
        let _daemon = bench.start();
        master.desire(&json!({ "vms": [a, b] }));
        bench.until("both run", || bench.phases() == ["a running", "b running"]);
        bench.until("the master knows", || {
            master.known("b").is_some_and(|vm| vm["phase"] == "running" && vm["addresses"][0].is_object())
        });
        assert_eq!(bench.status()["owners"]["a"], "master");
        assert_eq!(
            master.known("b").expect("known")["source"],
            "master",
            "it hears whose word its VMs follow"
        );

        // It goes, and comes back with something else; meanwhile nothing happens.
        let port = master.address.port();
        master.end();
        bench.until("the loss is seen", || bench.status()["master"]["state"] == "waiting");
        assert_eq!(bench.phases(), ["a running", "b running"]);
        let mut paused = a.clone();
        paused["desired"] = "paused".into();
        let mut master = Master::start(&master.directory, port);
        master.desire(&json!({ "vms": [paused] }));
        bench.until("it is followed", || bench.phases() == ["a paused"]);
        bench.until("the master knows", || {
            master.known("a").is_some_and(|vm| vm["phase"] == "paused") && master.known("b").is_none()
        });

        // An empty file is no word.
        master.desire(&json!({ "vms": [] }));
        bench.until("it is held", || bench.status()["held"].is_object());
        assert_eq!(bench.phases(), ["a paused"]);
        master.desire(&json!({ "vms": [], "allow_removals": true }));
        bench.until("it is gone", || bench.phases().is_empty());
        master.end();
    });
}

#[test]
fn a_master_that_was_rebuilt_waits_to_be_accepted() {
    isolated(|bench| {
        let (a, b) = (bench.vm("a", &TinyGuest::power_button()), bench.vm("b", &TinyGuest::power_button()));
        let mut master = Master::start(&bench.path("master"), 0);
        follow(&bench, &master);
        bench.assign(&[]);
        let _daemon = bench.start();
        master.desire(&json!({ "vms": [a] }));
        bench.until("it runs", || bench.phases() == ["a running"]);
        let port = master.address.port();
        master.end();
        // Its numbers are lost.
        fs::remove_dir_all(bench.path("master/state")).expect("removed");
        let mut master = Master::start(&bench.path("master"), port);
        master.desire(&json!({ "vms": [b] }));
        bench.until("it waits", || bench.status()["sources"]["master"]["held"]["waits_for"] == "lineage");
        assert_eq!(bench.phases(), ["a running"]);
        let shown = bench.client(&["accept-master", "--dry-run"]);
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains("remove a") && shown.contains("create b"), "{shown}");
        assert_eq!(bench.phases(), ["a running"], "it was only shown");
        assert!(bench.client(&["accept-master"]).status.success());
        bench.until("it is followed", || bench.phases() == ["b running"]);
        master.end();
    });
}

#[test]
fn another_authority_is_not_spoken_with() {
    isolated(|bench| {
        let a = bench.vm("a", &TinyGuest::power_button());
        let mut right = Master::start(&bench.path("master"), 0);
        follow(&bench, &right);
        let port = right.address.port();
        right.end();
        let mut wrong = Master::start(&bench.path("other"), port);
        wrong.desire(&json!({ "vms": [a] }));
        bench.assign(&[]);
        let _daemon = bench.start();
        bench.until("it is refused", || {
            let problem = bench.status()["master"]["problem"].as_str().unwrap_or_default().to_owned();
            problem.contains("authorit") || problem.contains("ca.pem")
        });
        assert!(bench.phases().is_empty());
        wrong.end();
    });
}

#[test]
fn a_key_that_does_not_fit_keeps_no_worker_from_starting() {
    isolated(|bench| {
        let mut master = Master::start(&bench.path("master"), 0);
        master.desire(&json!({ "vms": [bench.vm("a", &TinyGuest::power_button())] }));
        follow(&bench, &master);
        let key = files(&master.directory, WORKER).key;
        let right = fs::read(&key).expect("read");
        fs::copy(files(&master.directory, "master").key, &key).expect("another key");
        bench.assign(&[]);
        let daemon = bench.start();
        bench.until("it is told", || {
            let problem = bench.status()["master"]["problem"].as_str().unwrap_or_default().to_owned();
            problem.contains("does not belong to the certificate")
        });
        fs::write(&key, right).expect("written");
        // It is dialled at once, however long the wait has become.
        daemon.signal(rustix::process::Signal::HUP);
        bench.until("it is followed", || bench.phases() == ["a running"]);
        master.end();
    });
}
