//! The monitor over real sockets, consoles and files, with machine statuses as their thread would tell them.

use std::net::Ipv4Addr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::Path;

use console_log::{ConsoleFileWriter, ConsoleFiles, ConsoleLimits, ConsoleRecorder, FileLimits};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::time::timeout;
use vm_model::{
    MachineExit, MachinePhase, ProbeOutcome, ProbeRole, ProbeSpec, ProbeTiming, Readiness, ResetCounts,
    SYSTEMD_NOTIFY_PORT,
};

use super::*;
use crate::targets::{ConsoleTarget, VsockDirectory};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn probe(id: &str, role: ProbeRole, check: ProbeCheck) -> ProbeSpec {
    let timing = ProbeTiming {
        period: Duration::from_millis(20),
        timeout: Duration::from_millis(500),
        failure_threshold: if check.is_reported_by_guest() {
            NonZeroU32::MIN
        } else {
            ProbeTiming::DEFAULT_FAILURE_THRESHOLD
        },
        ..ProbeTiming::default()
    };
    ProbeSpec { id: id.to_owned(), role, check, timing }
}

fn tcp(port: NonZeroU16) -> ProbeCheck {
    ProbeCheck::Tcp { port }
}

fn running() -> MachineStatus {
    MachineStatus { phase: MachinePhase::Running, ..MachineStatus::booting() }
}

/// A VM and its monitor.
struct Watched {
    status: watch::Sender<MachineStatus>,
    health: watch::Receiver<Health>,
    monitor: HealthMonitor,
}

impl Watched {
    fn begin(probes: Vec<ProbeSpec>, targets: ProbeTargets, beginning: Beginning) -> Self {
        let (status, receiver) = watch::channel(MachineStatus::booting());
        let monitor = HealthMonitor::spawn(MonitorRequest {
            vm: VmId::new("web-1"),
            spec: HealthSpec { probes },
            targets: ProbeTargets { address: Some(Ipv4Addr::LOCALHOST), ..targets },
            status: receiver,
            beginning,
            permits: ProbePermits::new(2),
        })
        .expect("it can listen");
        Self { status, health: monitor.health(), monitor }
    }

    fn phase(&self, phase: MachinePhase) {
        self.status.send_modify(|status| status.phase = phase);
    }

    async fn until(&mut self, what: impl Fn(&Health) -> bool) -> Health {
        let waiting = timeout(PATIENCE, self.health.wait_for(|health| what(health)));
        waiting.await.expect("in time").expect("the monitor goes on").clone()
    }

    async fn until_ready(&mut self) {
        self.until(|health| health.ready == Readiness::Ready).await;
    }

    async fn until_not_ready(&mut self) -> String {
        self.until(|health| health.ready == Readiness::NotReady).await.reason.expect("a reason")
    }
}

async fn listener() -> (TcpListener, NonZeroU16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = NonZeroU16::new(listener.local_addr().expect("its address").port()).expect("a port");
    (listener, port)
}

async fn report(home: &Path, message: &[u8]) {
    let path = home.join(format!("vsock.sock_{SYSTEMD_NOTIFY_PORT}"));
    let mut stream = UnixStream::connect(path).await.expect("somebody listens");
    stream.write_all(message).await.expect("written");
}

fn vsock(home: &TempDir) -> ProbeTargets {
    let directory = VsockDirectory::open(home.path()).expect("open");
    ProbeTargets { vsock: Some(directory), ..ProbeTargets::default() }
}

#[tokio::test]
async fn a_guest_is_ready_while_its_port_answers_and_dead_when_its_life_does_not() {
    let ((ready, ready_port), (live, live_port)) = (listener().await, listener().await);
    let probes = vec![
        probe("web", ProbeRole::Readiness, tcp(ready_port)),
        probe("ssh", ProbeRole::Liveness, tcp(live_port)),
    ];
    let mut vm = Watched::begin(probes, ProbeTargets::default(), Beginning::Launched);
    assert_eq!(
        vm.until_not_ready().await,
        "readiness probe web: no success yet",
        "its machine is being built"
    );
    vm.status.send_replace(running());
    vm.until_ready().await;
    drop(ready);
    let reason = vm.until_not_ready().await;
    assert!(
        reason.starts_with(&format!("readiness probe web: cannot connect to 127.0.0.1:{ready_port}")),
        "{reason}"
    );
    assert_eq!(vm.health.borrow().dead, None);
    drop(live);
    let dead = vm.until(|health| health.dead.is_some()).await;
    assert!(dead.dead.is_some_and(|reason| reason.starts_with("liveness probe ssh: ")));
    vm.phase(MachinePhase::Exited(MachineExit::PoweredOff));
    timeout(PATIENCE, vm.health.wait_for(|_| false)).await.expect("in time").expect_err("it has ended");
}

#[tokio::test]
async fn systemd_tells_that_it_is_ready_and_what_it_does() {
    let home = TempDir::new().expect("a directory");
    let probes = vec![probe("systemd", ProbeRole::Readiness, ProbeCheck::Systemd { unit: None })];
    let mut vm = Watched::begin(probes, vsock(&home), Beginning::Launched);
    vm.status.send_replace(running());
    report(home.path(), b"STATUS=Mounting \x1b[1m/srv").await;
    let mounting = vm.until(|health| health.status_text.is_some()).await;
    assert_eq!(mounting.status_text.as_deref(), Some("Mounting \\u{1b}[1m/srv"));
    report(home.path(), b"READY=1\nX_SYSTEMD_HOSTNAME=web").await;
    vm.until_ready().await;
    let hostname = vm.health.borrow().systemd.as_ref().and_then(|report| report.hostname.clone());
    assert_eq!(hostname.as_deref(), Some("web"));
    report(home.path(), b"X_SYSTEMD_SHUTDOWN=reboot").await;
    assert_eq!(vm.until_not_ready().await, "readiness probe systemd: the guest shuts down (reboot)");
    // The reset that follows.
    vm.status.send_modify(|status| {
        (status.phase, status.resets) = (MachinePhase::Booting, ResetCounts { by_guest: 1, by_button: 0 });
    });
    let fresh = vm.until(|health| health.systemd.is_none()).await;
    assert_eq!((fresh.ready, fresh.status_text), (Readiness::NotReady, None));
    vm.phase(MachinePhase::Running);
    report(home.path(), b"READY=1").await;
    vm.until_ready().await;
    vm.monitor.stop().await;
    assert_eq!(std::fs::read_dir(home.path()).expect("its entries").count(), 0, "the socket is gone");
}

#[tokio::test]
async fn a_guest_that_goes_on_under_another_worker_stays_ready() {
    let home = TempDir::new().expect("a directory");
    let probes = || vec![probe("systemd", ProbeRole::Readiness, ProbeCheck::Systemd { unit: None })];
    let mut before = Watched::begin(probes(), vsock(&home), Beginning::Launched);
    before.status.send_replace(running());
    report(home.path(), b"READY=1").await;
    before.until_ready().await;
    let known = before.health.borrow().clone();
    before.monitor.stop().await;

    let mut after = Watched::begin(probes(), vsock(&home), Beginning::Adopted(Some(Box::new(known.clone()))));
    after.status.send_replace(running());
    after.until_ready().await;
    after.monitor.stop().await;

    let reset_meanwhile = Health { boot: 7, ..known };
    for known in [None, Some(Box::new(reset_meanwhile))] {
        let mut unheard = Watched::begin(probes(), vsock(&home), Beginning::Adopted(known));
        unheard.status.send_replace(running());
        let unknown = |health: &Health| health.ready == Readiness::Unknown && health.reason.is_some();
        let reason = unheard.until(unknown).await.reason;
        assert!(reason.is_some_and(|reason| reason.contains("no worker listened")));
        report(home.path(), b"READY=1").await;
        unheard.until_ready().await;
        unheard.monitor.stop().await;
    }
}

#[tokio::test]
async fn a_text_on_the_console_counts_for_one_boot() {
    let (recorder, mut writer) = ConsoleRecorder::new(ConsoleLimits::default());
    let marker = ProbeCheck::Console { marker: "login:".to_owned() };
    let targets = ProbeTargets { console: Some(ConsoleTarget::Memory(recorder)), ..ProbeTargets::default() };
    let mut vm =
        Watched::begin(vec![probe("boot", ProbeRole::Readiness, marker)], targets, Beginning::Launched);
    vm.status.send_replace(running());
    writer.write(b"Debian\r\nweb log");
    vm.until(|health| {
        health.reason.as_deref().is_some_and(|reason| reason.contains("has not stood on the console"))
    })
    .await;
    writer.write(b"in: ");
    vm.until_ready().await;
    let console_start = writer.begin_boot();
    vm.status.send_modify(|status| {
        status.resets.by_button = 1;
        status.console_start = console_start;
    });
    vm.until_not_ready().await;
    writer.write(b"web login: ");
    vm.until_ready().await;
}

#[tokio::test]
async fn a_text_in_console_files_counts_unless_it_is_of_an_earlier_guest() {
    let home = TempDir::new().expect("a directory");
    let files = home.path().join("console");
    std::fs::create_dir(&files).expect("made");
    let writer = ConsoleFileWriter::start(FileLimits::default()).expect("its thread starts");
    let write = |text: &[u8]| {
        let (recorder, mut console) = ConsoleRecorder::new(ConsoleLimits::default());
        let directory = std::fs::File::open(&files).expect("open").into();
        let kept = writer.register(&VmId::new("web-1"), &recorder, directory);
        console.write(text);
        kept.flush(PATIENCE).expect("written");
    };
    write(b"old login: ");
    let newest = || ConsoleFiles::open(&files).and_then(|files| files.newest()).expect("listed");
    let after = newest();
    assert!(after.is_some());
    let marker = ProbeCheck::Console { marker: "login:".to_owned() };
    let console = Some(ConsoleTarget::Files { directory: files.clone(), after });
    let targets = ProbeTargets { console, ..ProbeTargets::default() };
    let mut vm =
        Watched::begin(vec![probe("boot", ProbeRole::Readiness, marker)], targets, Beginning::Launched);
    vm.status.send_replace(running());
    vm.until(|health| {
        health.reason.as_deref().is_some_and(|reason| reason.contains("has not stood on the console"))
    })
    .await;
    write(b"new login: ");
    vm.until_ready().await;
}

#[tokio::test]
async fn a_vsock_port_is_asked_through_the_device() {
    let home = TempDir::new().expect("a directory");
    let device = UnixListener::bind(home.path().join("vsock.sock")).expect("listening");
    let (accepts, accepted) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = device.accept().await {
            let mut line = [0; "CONNECT 22\n".len()];
            let _ = stream.read_exact(&mut line).await;
            if *accepted.borrow() && line == *b"CONNECT 22\n" {
                let _ = stream.write_all(b"OK 1\n").await;
            }
        }
    });
    let probes = vec![probe("ssh", ProbeRole::Readiness, ProbeCheck::Vsock { port: 22 })];
    let mut vm = Watched::begin(probes, vsock(&home), Beginning::Launched);
    vm.status.send_replace(running());
    let refused = vm.until(|health| health.probes.iter().any(|probe| probe.problem.is_some())).await;
    assert_eq!(refused.probes[0].problem.as_deref(), Some("the guest refused a connection to vsock port 22"));
    accepts.send_replace(true);
    vm.until_ready().await;
}

#[tokio::test]
async fn a_paused_guest_is_not_asked() {
    let (listener, port) = listener().await;
    let probes = vec![probe("web", ProbeRole::Readiness, tcp(port))];
    let mut vm = Watched::begin(probes, ProbeTargets::default(), Beginning::Launched);
    vm.status.send_replace(running());
    vm.until_ready().await;
    vm.phase(MachinePhase::Paused);
    // The monitor takes up the pause before it can publish what follows it.
    drop(listener);
    let connections = async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let again = TcpListener::bind((Ipv4Addr::LOCALHOST, port.get())).await.expect("the port is free");
        timeout(Duration::from_millis(300), again.accept()).await
    };
    assert!(connections.await.is_err(), "nobody asks");
    let health = vm.health.borrow().clone();
    assert_eq!((health.ready, health.probes[0].outcome), (Readiness::Ready, ProbeOutcome::Passing));
    vm.phase(MachinePhase::Running);
    assert!(vm.until_not_ready().await.contains("cannot connect"));
}

#[tokio::test]
async fn many_monitors_share_their_permits() {
    let (listener, port) = listener().await;
    let permits = ProbePermits::new(3);
    let (status, receiver) = watch::channel(running());
    let monitors: Vec<HealthMonitor> = (0..20)
        .map(|number| {
            HealthMonitor::spawn(MonitorRequest {
                vm: VmId::new(&format!("vm-{number}")),
                spec: HealthSpec { probes: vec![probe("web", ProbeRole::Readiness, tcp(port))] },
                targets: ProbeTargets { address: Some(Ipv4Addr::LOCALHOST), ..ProbeTargets::default() },
                status: receiver.clone(),
                beginning: Beginning::Launched,
                permits: permits.clone(),
            })
            .expect("it begins")
        })
        .collect();
    for monitor in &monitors {
        let mut health = monitor.health();
        let ready = timeout(PATIENCE, health.wait_for(|health| health.ready == Readiness::Ready)).await;
        ready.expect("in time").expect("it goes on");
    }
    drop((monitors, status, listener));
}
