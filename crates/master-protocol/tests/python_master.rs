//! The example master in Python against the worker's side: the page it was written from is enough.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use master_protocol::drivers::{BackoffLimits, LinkStatus, WorkerLink, WorkerTransport};
use master_protocol::session::AssignmentAnswer;
use master_protocol::tls::{CredentialStore, TlsFiles};
use master_protocol::wire::v1::{Accepted, Hello};
use master_protocol::wire::{List, Text};
use master_protocol::{WorkerState, os_random};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);
const DESIRED: &str = r#"{"generation": 5, "vms": [{"id": "web-1", "store_path": "/nix/store/x",
    "hash": "sha256-vZsuiNNAbVoV1qgClBpHhRQ8DSbbp6Lz6NMMLS5CqVY="}]}"#;

/// Ends with the test.
struct Python(Child);

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn issue(directory: &Path, names: &[&str]) {
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    // The certificates below have another subject; one of its own would make them count as self-signed.
    authority.distinguished_name.push(DnType::CommonName, "authority of the test");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = KeyPair::generate().expect("a key");
    let certificate = authority.self_signed(&key).expect("signed").pem();
    std::fs::write(directory.join("ca.pem"), certificate).expect("written");
    let issuer = Issuer::new(authority, key);
    for name in names {
        let params = CertificateParams::new(vec![(*name).to_owned()]).expect("a DNS name");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("signed");
        std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).expect("written");
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).expect("written");
    }
}

/// The master, and what it prints, a message a line.
fn start_master(directory: &Path) -> (Python, mpsc::Receiver<Value>) {
    let path = |name: &str| directory.join(name);
    std::fs::write(path("desired.json"), DESIRED).expect("written");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/master.py");
    let mut child = Command::new("python3")
        .arg(script)
        .arg("0")
        .args([path("desired.json"), path("master.pem"), path("master.key"), path("ca.pem")])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 was there");
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    let (sender, receiver) = mpsc::channel(1000);
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let message = serde_json::from_str(&line).expect("it prints JSON");
            if sender.blocking_send(message).is_err() {
                return;
            }
        }
    });
    (Python(child), receiver)
}

fn credentials(directory: &Path, name: &str) -> Arc<CredentialStore> {
    let path = |end: &str| -> PathBuf { directory.join(format!("{name}.{end}")) };
    let files =
        TlsFiles { certificate: path("pem"), key: path("key"), authorities: directory.join("ca.pem") };
    Arc::new(CredentialStore::open(files).expect("usable"))
}

#[tokio::test]
async fn a_master_that_was_written_from_the_page_is_understood() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("SKIPPED: there is no python3 on PATH: the example master was not tried");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    issue(directory.path(), &["master", "worker-1"]);
    let (_python, mut printed) = start_master(directory.path());
    let mut print = async || timeout(PATIENCE, printed.recv()).await.expect("in time").expect("it lives");
    let port = print().await["port"].as_u64().expect("it says where it listens");

    let hello: Hello = serde_json::from_str(
        r#"{"versions": [1], "worker": "worker-1", "run": "1", "capacity": {"processors": 8, "memory_bytes": 1},
            "engine": {"name": "procurator", "version": "0.1.0"}, "cpu": {"architecture": "x86_64"}}"#,
    )
    .expect("a hello");
    let (_hello, hello) = watch::channel(hello);
    let (_state, state) = watch::channel(Arc::new(WorkerState::default()));
    let (offers, mut offered) = mpsc::channel(1);
    let (status, mut link_status) = watch::channel(LinkStatus::default());
    let link = WorkerLink {
        master: format!("127.0.0.1:{port}"),
        transport: WorkerTransport::Tls {
            credentials: credentials(directory.path(), "worker-1"),
            server_name: "master".to_owned(),
        },
        backoff: BackoffLimits::default(),
        random: os_random,
        hello,
        state,
        offers,
        status,
        redial: Arc::default(),
    };
    let (shutdown, ended) = oneshot::channel::<()>();
    let task = tokio::spawn(link.run(async {
        let _ = ended.await;
    }));

    let offer = timeout(PATIENCE, offered.recv()).await;
    let Ok(Some((offer, answer))) = offer else { panic!("no assignment came: {:?}", link_status.borrow()) };
    assert_eq!((offer.lineage.master(), offer.lineage.epoch()), ("example", "example"));
    assert_eq!(offer.set.vms[0].id.as_str(), "web-1");
    let accepted = Accepted { epoch: Text::default(), generation: 0, held: None, outcomes: List::default() };
    answer.send(AssignmentAnswer::Accepted(accepted)).expect("the link waits");
    let mut seen = Vec::new();
    while !(seen.contains(&"report".to_owned()) && seen.contains(&"accepted".to_owned())) {
        let message = print().await;
        if message["type"] == "accepted" {
            assert_eq!(
                (&message["generation"], &message["epoch"]),
                (&Value::from(5), &Value::from("example"))
            );
        }
        seen.push(message["type"].as_str().expect("a type").to_owned());
    }
    let connected = link_status.wait_for(|status| matches!(status, LinkStatus::Connected { .. }));
    timeout(PATIENCE, connected).await.expect("in time").expect("the link lives");
    drop(shutdown);
    timeout(PATIENCE, task).await.expect("in time").expect("no panic");
    while print().await["type"] != "goodbye" {}
}
