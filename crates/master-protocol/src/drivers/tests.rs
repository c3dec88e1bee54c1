//! Both ends over loopback: with TLS, through masters that end, break the rules or come back.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use vm_model::Lineage;

use super::*;
use crate::codec::encode_frame;
use crate::os_random;
use crate::samples;
use crate::session::{AssignmentAnswer, EndReason, MasterEvent, MasterTerms};
use crate::tls::{CredentialStore, TlsFiles};
use crate::wire::v1::*;
use crate::wire::{List, Text, WorkerId};
use crate::worker_state::{WorkerState, WorkerView};

const PATIENCE: Duration = Duration::from_secs(60);

fn lineage() -> Lineage {
    Lineage::new("master", "e1").expect("a master and its epoch")
}

fn terms() -> MasterTerms {
    MasterTerms { lineage: lineage(), heartbeat: Duration::from_secs(10) }
}

/// A worker's link and the other ends of its channels.
struct Worker {
    state: watch::Sender<Arc<WorkerState>>,
    offers: mpsc::Receiver<OfferedAssignment>,
    status: watch::Receiver<LinkStatus>,
    redial: Arc<Notify>,
    _hello: watch::Sender<Hello>,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Worker {
    fn start(name: &str, master: String, transport: WorkerTransport) -> Self {
        let backoff = BackoffLimits { first: Duration::from_millis(20), longest: Duration::from_millis(100) };
        Self::start_with(name, master, transport, backoff, || 0)
    }

    fn start_with(
        name: &str,
        master: String,
        transport: WorkerTransport,
        backoff: BackoffLimits,
        random: fn() -> u64,
    ) -> Self {
        let hello = Hello { worker: name.parse().expect("a worker's name"), ..samples::hello() };
        Self::greet(hello, master, transport, backoff, random)
    }

    fn greet(
        hello: Hello,
        master: String,
        transport: WorkerTransport,
        backoff: BackoffLimits,
        random: fn() -> u64,
    ) -> Self {
        let (hello_sender, hello) = watch::channel(hello);
        let (state, state_receiver) = watch::channel(Arc::default());
        let (offers_sender, offers) = mpsc::channel(1);
        let (status_sender, status) = watch::channel(LinkStatus::default());
        let redial = Arc::new(Notify::new());
        let link = WorkerLink {
            master,
            transport,
            backoff,
            random,
            hello,
            state: state_receiver,
            offers: offers_sender,
            status: status_sender,
            redial: Arc::clone(&redial),
        };
        let (shutdown, ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            link.run(async {
                let _ = ended.await;
            })
            .await;
        });
        Self { state, offers, status, redial, _hello: hello_sender, shutdown: Some(shutdown), task }
    }

    async fn accept_next(&mut self) -> u64 {
        let (offer, answer) =
            timeout(PATIENCE, self.offers.recv()).await.expect("in time").expect("an offer");
        let accepted =
            Accepted { epoch: Text::cut(""), generation: 0, held: None, outcomes: List::default() };
        answer.send(AssignmentAnswer::Accepted(accepted)).expect("the link waits");
        offer.set.generation.map(vm_model::Generation::get).expect("assignments are numbered")
    }

    async fn problem(&mut self, words: &str) -> String {
        let said = |status: &LinkStatus| match status {
            LinkStatus::Waiting { problem, .. } if problem.contains(words) => Some(problem.clone()),
            _ => None,
        };
        let waiting = self.status.wait_for(|status| said(status).is_some());
        let status = timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never said: {words}"));
        said(&status.expect("it lives")).expect("it was said")
    }

    async fn end(mut self) {
        drop(self.shutdown.take());
        timeout(PATIENCE, &mut self.task).await.expect("in time").expect("no panic");
        assert_eq!(*self.status.borrow(), LinkStatus::Ended);
    }
}

/// A master and the other ends of its channels.
struct Master {
    address: SocketAddr,
    directory: watch::Sender<Arc<Directory>>,
    events: mpsc::Receiver<WorkerEvent>,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Master {
    async fn start(address: &str, transport: MasterTransport, limits: Limits) -> Self {
        let address = address.parse().expect("an address");
        let listener = MasterListener::bind(address, transport, terms(), limits).await.expect("it listens");
        let address = listener.local_address().expect("it has one");
        let (directory, directory_receiver) = watch::channel(Arc::default());
        let (events_sender, events) = mpsc::channel(16);
        let (shutdown, ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            listener
                .run(directory_receiver, events_sender, async {
                    let _ = ended.await;
                })
                .await;
        });
        Self { address, directory, events, shutdown: Some(shutdown), task }
    }

    async fn plain() -> Self {
        Self::start("127.0.0.1:0", MasterTransport::Plain(PlainTcp::Loopback), Limits::default()).await
    }

    fn assign(&self, worker: &str, generation: u64) {
        let set = samples::assignment_set(generation, &["web-1"]);
        let assignment = Assignment::new(&lineage(), vm_model::Generation::new(generation), &set);
        let worker: WorkerId = worker.parse().expect("a worker's name");
        let directory = BTreeMap::from([(worker, Arc::new(assignment.expect("JSON")))]);
        self.directory.send_replace(Arc::new(directory));
    }

    async fn event(&mut self) -> WorkerEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("in time").expect("the master lives")
    }

    /// The first event that `is_it` finds.
    async fn until<T>(&mut self, mut is_it: impl FnMut(&WorkerEvent) -> Option<T>) -> T {
        loop {
            let event = self.event().await;
            if let Some(found) = is_it(&event) {
                return found;
            }
        }
    }

    async fn end(mut self) {
        drop(self.shutdown.take());
        self.events.close();
        timeout(PATIENCE, &mut self.task).await.expect("in time").expect("no panic");
    }
}

fn left(event: &WorkerEvent) -> Option<EndReason> {
    match &event.news {
        WorkerNews::Left(reason) => Some(reason.clone()),
        WorkerNews::Said(_) | WorkerNews::Elsewhere { .. } => None,
    }
}

fn said(event: &WorkerEvent) -> Option<MasterEvent> {
    match &event.news {
        WorkerNews::Said(event) => Some(event.clone()),
        WorkerNews::Left(_) | WorkerNews::Elsewhere { .. } => None,
    }
}

fn plain() -> WorkerTransport {
    WorkerTransport::Plain(PlainTcp::Loopback)
}

#[tokio::test]
async fn assignments_go_down_and_reports_come_up() {
    let mut master = Master::plain().await;
    master.assign("worker-1", 7);
    let mut worker = Worker::start("worker-1", master.address.to_string(), plain());
    let event = master.event().await;
    assert!(matches!(said(&event), Some(MasterEvent::Hello(_))), "{event:?}");
    assert_eq!(worker.accept_next().await, 7);
    let mut view = WorkerView::default();
    let accepted = master
        .until(|event| match said(event) {
            Some(MasterEvent::Accepted(accepted)) => Some(accepted),
            Some(MasterEvent::Report(report)) => {
                assert!(view.apply(*report));
                None
            }
            _ => None,
        })
        .await;
    assert_eq!((accepted.epoch.as_str(), accepted.generation), ("e1", 7));
    let vm = samples::vm_report("web-1");
    worker.state.send_modify(|state| {
        Arc::make_mut(state).vms.insert(vm.vm.clone(), vm.clone());
    });
    master
        .until(|event| {
            if let Some(MasterEvent::Report(report)) = said(event) {
                assert!(view.apply(*report));
            }
            view.state.vms.contains_key(&vm.vm).then_some(())
        })
        .await;
    master.assign("worker-1", 8);
    assert_eq!(worker.accept_next().await, 8);
    worker.end().await;
    let reason = master.until(left).await;
    assert!(matches!(reason, EndReason::PeerLeft { code: GoodbyeCode::ShuttingDown, .. }), "{reason}");
    master.end().await;
}

#[tokio::test]
async fn a_worker_comes_back_to_a_master_that_was_away() {
    let mut master = Master::plain().await;
    let mut worker = Worker::start("worker-1", master.address.to_string(), plain());
    master.event().await;
    let address = master.address.to_string();
    master.end().await;
    worker.problem("ShuttingDown").await;
    worker.problem("cannot connect to the master at 127.0.0.1").await;
    let mut master =
        Master::start(&address, MasterTransport::Plain(PlainTcp::Loopback), Limits::default()).await;
    master.assign("worker-1", 9);
    assert_eq!(worker.accept_next().await, 9);
    assert!(matches!(said(&master.event().await), Some(MasterEvent::Hello(_))));
    let report = master
        .until(|event| match said(event) {
            Some(MasterEvent::Report(report)) => Some(report),
            _ => None,
        })
        .await;
    assert!(report.full && report.sequence == 1, "it begins anew");
    worker.end().await;
    master.end().await;
}

/// The clock stands still but for waits, so that minutes pass at once.
#[tokio::test(start_paused = true)]
async fn a_master_that_is_away_for_minutes_is_dialled_less_and_less_and_then_resumed() {
    let reserved = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = reserved.local_addr().expect("it has one").to_string();
    drop(reserved);
    let limits = BackoffLimits::default();
    let mut worker = Worker::start_with("worker-1", address.clone(), plain(), limits, os_random);
    let mut waits = Vec::new();
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(600) {
        let is_waiting = |status: &LinkStatus| matches!(status, LinkStatus::Waiting { .. });
        worker.status.wait_for(is_waiting).await.expect("it lives");
        let since = tokio::time::Instant::now();
        worker.status.wait_for(|status| !is_waiting(status)).await.expect("it lives");
        waits.push(since.elapsed());
    }
    for (dial, wait) in waits.iter().enumerate() {
        let whole = Duration::from_secs(1 << dial.min(6)).min(limits.longest);
        // The clock counts whole milliseconds.
        let range = whole / 2..=whole + Duration::from_millis(2);
        assert!(range.contains(wait), "wait {dial}: {wait:?} is not in {range:?}");
    }
    let capped = &waits[6..];
    assert!(capped.len() >= 8 && capped.windows(2).any(|pair| pair[0] != pair[1]), "no jitter: {capped:?}");

    // It waits once more when the master comes back.
    let is_waiting = |status: &LinkStatus| matches!(status, LinkStatus::Waiting { .. });
    worker.status.wait_for(is_waiting).await.expect("it lives");
    let mut master =
        Master::start(&address, MasterTransport::Plain(PlainTcp::Loopback), Limits::default()).await;
    master.assign("worker-1", 9);
    tokio::time::advance(limits.longest).await;
    // From here on there is traffic, which takes real time.
    tokio::time::resume();
    assert_eq!(worker.accept_next().await, 9);
    assert!(matches!(said(&master.event().await), Some(MasterEvent::Hello(_))));
    worker.end().await;
    master.end().await;
}

#[tokio::test]
async fn the_newer_connection_of_a_worker_takes_the_place_of_the_older() {
    let mut master = Master::plain().await;
    let mut first = Worker::start("worker-1", master.address.to_string(), plain());
    let older = master.event().await.connection;
    let second = Worker::start("worker-1", master.address.to_string(), plain());
    first.problem("Replaced").await;
    let (connection, reason) = master.until(|event| Some((event.connection, left(event)?))).await;
    assert_eq!((connection, reason), (older, EndReason::Replaced));
    drop((first, second));
}

#[tokio::test]
async fn nobody_who_decides_refuses_and_a_dropped_verdict_too() {
    let mut master = Master::plain().await;
    master.assign("worker-1", 7);
    let mut worker = Worker::start("worker-1", master.address.to_string(), plain());
    let (_, answer) = timeout(PATIENCE, worker.offers.recv()).await.expect("in time").expect("an offer");
    drop(answer);
    let refused = |event: &WorkerEvent| match said(event) {
        Some(MasterEvent::Refused(refused)) => Some((refused.generation, refused.code)),
        _ => None,
    };
    assert_eq!(master.until(refused).await, (7, RefusalCode::ShuttingDown));
    worker.offers.close();
    master.assign("worker-1", 8);
    assert_eq!(master.until(refused).await, (8, RefusalCode::ShuttingDown));
    worker.end().await;
}

/// Says `bytes` to a master, and returns what it answers until it closes.
async fn answer_of_master(master: &Master, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(master.address).await.expect("it listens");
    stream.write_all(bytes).await.expect("it reads");
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time").expect("an orderly end");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_master_says_why_it_closes() {
    let mut master = Master::plain().await;
    let long = answer_of_master(&master, &u32::MAX.to_be_bytes()).await;
    assert!(long.contains("a frame of 4294967295 bytes; accepted are 1 to 4194304"), "{long}");
    let early =
        answer_of_master(&master, &encode_frame(&WorkerMessage::Ping(Ping::default())).expect("JSON")).await;
    assert!(early.contains("out_of_order"), "{early}");
    let mut bytes = encode_frame(&WorkerMessage::Hello(Box::new(samples::hello()))).expect("JSON");
    bytes.extend([0, 0, 0, 9]);
    bytes.extend(b"{\"type\":7");
    let broken = answer_of_master(&master, &bytes).await;
    assert!(broken.contains("\"welcome\"") || broken.contains("malformed"), "{broken}");
    let reason = master.until(left).await;
    assert!(matches!(reason, EndReason::Message(_)), "{reason}");
    master.end().await;
}

#[tokio::test]
async fn strangers_that_say_nothing_take_no_place_of_others_for_long() {
    let limits = Limits { connections: 8, greeting: 1, greeting_per_address: 1, strangers: 1 };
    let mut master = Master::start("127.0.0.1:0", MasterTransport::Plain(PlainTcp::Loopback), limits).await;
    let silent = TcpStream::connect(master.address).await.expect("it listens");
    let mut worker = Worker::start("worker-1", master.address.to_string(), plain());
    worker.problem("").await;
    drop(silent);
    assert!(matches!(said(&master.event().await), Some(MasterEvent::Hello(_))));
    worker.end().await;
    master.end().await;
}

#[tokio::test]
async fn a_worker_says_why_it_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("it listens");
    let address = listener.local_addr().expect("it has one").to_string();
    let mut worker = Worker::start("worker-1", address, plain());
    let mut spoken = Vec::new();
    for bytes in [vec![0; 4], [&[0, 0, 0, 2][..], b"[]"].concat()] {
        let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.expect("in time").expect("a worker");
        stream.write_all(&bytes).await.expect("it reads");
        let mut said = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("in time").expect("an orderly end");
        spoken.push(String::from_utf8_lossy(&said).into_owned());
    }
    assert!(spoken.iter().all(|said| said.contains("\"hello\"") && said.contains("malformed")), "{spoken:?}");
    worker.problem("is no JSON object").await;
    worker.end().await;
}

#[tokio::test]
async fn a_master_that_reads_nothing_costs_a_bounded_amount_and_no_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("it listens");
    let address = listener.local_addr().expect("it has one").to_string();
    let worker = Worker::start("worker-1", address, plain());
    let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.expect("in time").expect("a worker");
    let welcome = Welcome { heartbeat_ms: 200, ..samples::welcome() };
    stream.write_all(&encode_frame(&MasterMessage::Welcome(welcome)).expect("JSON")).await.expect("written");
    let mut vm = samples::vm_report("web-1");
    let mut status = worker.status.clone();
    let until_it_ends = status.wait_for(|status| matches!(status, LinkStatus::Waiting { .. }));
    // Publishing never waits; the link gives the master up because it takes nothing.
    let publish = async {
        loop {
            vm.restarts += 1;
            let vms = (0..2000).map(|number| {
                let id = vm_model::VmId::new(&format!("vm-{number}"));
                (id.clone(), VmReport { vm: id, ..vm.clone() })
            });
            worker.state.send_replace(Arc::new(WorkerState { vms: vms.collect(), ..WorkerState::default() }));
            let ping = encode_frame(&MasterMessage::Ping(Ping { nonce: vm.restarts })).expect("JSON");
            if stream.write_all(&ping).await.is_err() {
                pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reason = tokio::select! {
        status = timeout(PATIENCE, until_it_ends) => format!("{:?}", status.expect("in time").expect("it lives")),
        () = publish => unreachable!("it goes on for ever"),
    };
    assert!(reason.contains("could not be sent for 600ms"), "{reason}");
    worker.end().await;
}

#[tokio::test]
async fn plain_tcp_stays_on_the_host() {
    let mut worker = Worker::start("worker-1", "192.0.2.1:7000".to_owned(), plain());
    let said = worker.problem("is on another host").await;
    assert!(said.contains(PLAIN_TCP_WORDS), "{said}");
    worker.end().await;
    let address = "0.0.0.0:0".parse().expect("an address");
    let transport = MasterTransport::Plain(PlainTcp::Loopback);
    let refused = MasterListener::bind(address, transport, terms(), Limits::default()).await;
    assert!(matches!(refused, Err(ListenError::NotLoopback { .. })), "{refused:?}");
}

/// Certificates of one authority.
pub(super) struct Certificates {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed").pem();
        std::fs::write(directory.path().join("ca.pem"), certificate).expect("written");
        Self { directory, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, name: &str) -> Arc<CredentialStore> {
        let path = |end: &str| self.directory.path().join(format!("{name}.{end}"));
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a DNS name");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        std::fs::write(path("pem"), certificate.pem()).expect("written");
        std::fs::write(path("key"), key.serialize_pem()).expect("written");
        let authorities = self.directory.path().join("ca.pem");
        let files = TlsFiles { certificate: path("pem"), key: path("key"), authorities };
        Arc::new(CredentialStore::open(files).expect("usable"))
    }
}

#[tokio::test]
async fn a_worker_is_who_its_certificate_says() {
    let certificates = Certificates::new();
    let transport = MasterTransport::Tls(certificates.issue("master.example.org"));
    let mut master = Master::start("127.0.0.1:0", transport, Limits::default()).await;
    master.assign("worker-1", 3);
    let with = |name: &str| WorkerTransport::Tls {
        credentials: certificates.issue(name),
        server_name: "master.example.org".to_owned(),
    };
    let mut worker = Worker::start("worker-1", master.address.to_string(), with("worker-1"));
    assert_eq!(worker.accept_next().await, 3);
    assert_eq!(master.event().await.worker.as_str(), "worker-1");
    let mut liar = Worker::start("worker-1", master.address.to_string(), with("worker-2"));
    let said = liar.problem("WrongIdentity").await;
    assert!(said.contains("calls itself worker-1; its certificate is of worker-2"), "{said}");
    let stranger = WorkerTransport::Tls {
        credentials: Certificates::new().issue("worker-1"),
        server_name: "master.example.org".to_owned(),
    };
    let mut stranger = Worker::start("worker-1", master.address.to_string(), stranger);
    let said = stranger.problem("the other end shows").await;
    assert!(said.contains("is not by the key of the authority of that name in"), "{said}");
    let mut plain = Worker::start("worker-1", master.address.to_string(), plain());
    plain.problem("").await;
    assert!(matches!(*worker.status.borrow(), LinkStatus::Connected { .. }), "none of them disturbed it");
    for worker in [worker, liar, stranger, plain] {
        worker.end().await;
    }
    master.end().await;
}

#[tokio::test]
async fn of_two_hosts_with_one_name_the_first_stays_and_the_master_hears_of_both() {
    let mut master = Master::plain().await;
    master.assign("worker-1", 3);
    let mut first = Worker::start("worker-1", master.address.to_string(), plain());
    assert_eq!(first.accept_next().await, 3);
    let other = Hello {
        worker: "worker-1".parse().expect("a worker's name"),
        host: Some(Text::cut("another")),
        ..samples::hello()
    };
    // It waits for longer than the test does, unless somebody has it dial.
    let backoff = BackoffLimits { first: PATIENCE * 10, longest: PATIENCE * 10 };
    let mut second = Worker::greet(other, master.address.to_string(), plain(), backoff, || u64::MAX);
    let said = second.problem("ElsewhereConnected").await;
    assert!(said.contains("worker worker-1 is connected from 127.0.0.1:"), "{said}");
    let (connected, refused) = master
        .until(|event| match &event.news {
            WorkerNews::Elsewhere { connected } => Some((*connected, event.address)),
            WorkerNews::Said(_) | WorkerNews::Left(_) => None,
        })
        .await;
    assert_ne!(connected, refused);
    assert!(matches!(*first.status.borrow(), LinkStatus::Connected { .. }), "it was not disturbed");
    first.end().await;
    master.until(left).await;
    second.redial.notify_one();
    assert_eq!(second.accept_next().await, 3, "there is one of the name by now");
    second.end().await;
    master.end().await;
}

#[tokio::test]
async fn without_tls_names_that_mean_nothing_are_few_and_told_why() {
    let limits = Limits { strangers: 1, ..Limits::default() };
    let mut master = Master::start("127.0.0.1:0", MasterTransport::Plain(PlainTcp::Loopback), limits).await;
    let address = master.address.to_string();
    let first = Worker::start("made-up-1", address.clone(), plain());
    assert_eq!(master.event().await.worker.as_str(), "made-up-1");
    let mut second = Worker::start("made-up-2", address.clone(), plain());
    let said = second.problem("TooBusy").await;
    assert!(said.contains("nothing for a worker made-up-2 to run"), "{said}");
    master.assign("worker-1", 3);
    let mut listed = Worker::start("worker-1", address, plain());
    assert_eq!(listed.accept_next().await, 3);
    for worker in [first, second, listed] {
        worker.end().await;
    }
    master.end().await;
}
