//! What the two ends do with an other end that is not as it should be: hostile peers of a real host process, and processes
//! that are none before a real worker.

mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use host_process::wire::{
    CallId, Connection, ConnectionError, FromHost, Hello, Message, PACKET_BYTES_MAX, ToHost, VERSIONS,
    Version, Welcome, send_packet,
};
use machine_host::{FoundMachine, MachineHost, StopPolicy};
use rustix::net::{SocketAddrUnix, connect};
use tempfile::TempDir;
use tiny_guest::TinyGuest;
use vm_model::{Command, MachineExit, MachinePhase, MachineStatus, ThreadHealth, VmId};

use support::pretender::{Pretender, new_socket, running, welcome_of_this_process};
use support::{
    anyone, children, descriptors, directory, has_kvm, host, launch, options, phase, sockets, until, within,
};

/// Connects to the one host process in `directory`.
fn dial(directory: &TempDir) -> OwnedFd {
    let socket = new_socket();
    let path = sockets(directory).pop().expect("its socket");
    connect(&socket, &SocketAddrUnix::new(path).expect("a short path")).expect("it listens");
    socket
}

fn hello(versions: &[Version]) -> ToHost<OwnedFd> {
    ToHost::Hello(Hello { versions: versions.to_vec(), build: "test".to_owned(), listener: None })
}

/// The welcome of the host process that `connection` leads to.
async fn welcomed(connection: &Connection) -> Welcome {
    connection.try_send(hello(&VERSIONS)).expect("it is sent");
    match within(connection.receive()).await.expect("an answer") {
        FromHost::Welcome(welcome) => welcome,
        other => panic!("{other:?}"),
    }
}

/// Reads until the host process ends the conversation; the reason it gave, if it did.
async fn refusal(connection: &Connection) -> Option<String> {
    let mut reason = None;
    loop {
        match within(connection.receive()).await {
            Ok(FromHost::Refused { reason: told }) => reason = Some(told),
            Ok(_) => {}
            Err(error) => {
                assert!(error.is_closed(), "{error:?}");
                return reason;
            }
        }
    }
}

#[tokio::test]
async fn a_hostile_peer_costs_a_host_process_nothing() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let machine = launch(&host, "vm", &TinyGuest::spin()).await;
    let pid = *children().first().expect("its process");
    let before = descriptors(pid);
    let connect = || Connection::new(dial(&directory)).expect("it can be watched");
    let raw = |connection: &Connection, bytes: &[u8], files: usize| {
        let files: Vec<_> = (0..files).map(|_| support::file_with(b"x")).collect();
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        send_packet(connection.socket(), bytes, &files).expect("it is sent");
    };
    type Hostility = (&'static str, &'static str, usize);
    let first_words: [Hostility; 6] = [
        ("no JSON", "\u{0}\u{1}garbage", 0),
        ("no hello", r#"{"type":"forget","vm":"vm"}"#, 0),
        ("no common version", r#"{"type":"hello","versions":[99],"build":"b"}"#, 0),
        ("files nobody names", r#"{"type":"hello","versions":[1],"build":"b"}"#, 3),
        ("a file that is none", "file", 1),
        ("no file", "file", 0),
    ];
    for (what, words, files) in first_words {
        let peer = connect();
        raw(&peer, words.as_bytes(), files);
        assert!(refusal(&peer).await.is_some(), "{what}");
    }
    let later_words: [Hostility; 5] = [
        ("a second hello", r#"{"type":"hello","versions":[1],"build":"b"}"#, 0),
        ("files nobody names", r#"{"type":"cancel","call":1}"#, 200),
        ("a field that is missing", r#"{"type":"cancel"}"#, 0),
        ("a VM with an impossible name", r#"{"type":"forget","vm":"../.."}"#, 0),
        (
            "a command nobody knows",
            r#"{"type":"call","call":1,"vm":"vm","command":{"command":"explode"}}"#,
            0,
        ),
    ];
    for (what, words, files) in later_words {
        let peer = connect();
        welcomed(&peer).await;
        raw(&peer, words.as_bytes(), files);
        assert!(refusal(&peer).await.is_some(), "{what}");
    }
    // What is not known is passed over, and what is not there is said.
    let peer = connect();
    assert_eq!(welcomed(&peer).await.machines.len(), 1);
    raw(&peer, br#"{"type":"migrate","vm":"vm"}"#, 2);
    let (call, vm) = (CallId(1), VmId::new("other"));
    peer.try_send(ToHost::Counters { call, vm }).expect("it is sent");
    assert_eq!(within(peer.receive::<FromHost>()).await.expect("an answer"), FromHost::NotTaken { call });
    drop(peer);
    // A message that is too long is lost, and the connection with it.
    let peer = connect();
    welcomed(&peer).await;
    let long = vec![b'x'; PACKET_BYTES_MAX + 1];
    rustix::net::send(peer.socket(), &long, rustix::net::SendFlags::empty()).expect("the kernel takes it");
    assert!(refusal(&peer).await.is_some());

    until("nothing is left of them", || descriptors(pid) == before).await;
    within(machine.pause()).await.expect("the machine's own worker was not concerned");
    assert_eq!(within(host.shut_down(Duration::from_secs(20))).await.remaining, []);
}

#[tokio::test]
async fn a_flood_ends_with_its_connection() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let machine = launch(&host, "vm", &TinyGuest::spin()).await;
    let pid = *children().first().expect("its process");
    let before = descriptors(pid);
    // More than there are seats for: those that are too many are told so.
    let peers: Vec<_> =
        (0..8).map(|_| Connection::new(dial(&directory)).expect("it can be watched")).collect();
    let mut refused = 0;
    for peer in &peers {
        let answer = match peer.try_send(hello(&VERSIONS)) {
            Ok(()) => within(peer.receive()).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(FromHost::Welcome(_)) => {}
            Ok(FromHost::Refused { .. }) | Err(ConnectionError::Packet(_)) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 5, "the machine's worker has one of four seats");
    drop(peers);
    until("their seats are free", || descriptors(pid) == before).await;
    // One that asks and does not read is disconnected, when nothing more can be sent to it.
    let deaf = Connection::new(dial(&directory)).expect("it can be watched");
    welcomed(&deaf).await;
    let mut call = 0;
    within(async {
        loop {
            call += 1;
            let request = ToHost::Counters { call: CallId(call), vm: VmId::new("vm") };
            let packed = request.pack().expect("it fits");
            if deaf.send(&packed).await.is_err() {
                break;
            }
        }
    })
    .await;
    within(machine.pause()).await.expect("it pauses");
    within(machine.resume()).await.expect("it goes on");
    assert_eq!(within(host.shut_down(Duration::from_secs(20))).await.remaining, []);
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_again() {
    let directory = directory();
    let pretender = Pretender::new(&directory);
    let host = host(options(&directory));
    let (adoption, connection) = tokio::join!(
        within(host.adopt(anyone())),
        pretender.welcome(welcome_of_this_process(Some(running())))
    );
    let machine = adoption.machines.into_iter().next().expect("it is adopted").handle;
    let mut health = machine.health();
    // A command that is under way stays so: nobody knows whether it was carried out.
    let pausing = tokio::spawn({
        let machine = machine.clone();
        async move { machine.pause().await }
    });
    let call = within(connection.receive::<ToHost<OwnedFd>>()).await.expect("a call");
    assert!(matches!(call, ToHost::Call { command: Command::Pause { .. }, .. }), "{call:?}");
    drop(connection);
    within(health.wait_for(|&health| health == ThreadHealth::Hung)).await.expect("it is told");
    let paused = MachineStatus { phase: MachinePhase::Paused, ..running() };
    let connection = pretender.welcome(welcome_of_this_process(Some(paused))).await;
    within(health.wait_for(|&health| health == ThreadHealth::Turning)).await.expect("it is told");
    phase(&machine, MachinePhase::Paused).await;
    assert!(!pausing.is_finished());
    pausing.abort();

    // One more, after which the process does not know the machine any more.
    drop(connection);
    let connection = pretender.welcome(welcome_of_this_process(None)).await;
    let exit = within(machine.exited()).await;
    assert!(matches!(&exit, MachineExit::HostLost(text) if text.contains("does not know it")), "{exit:?}");
    within(machine.released()).await;
    drop(connection);
    // Nothing was done to the process, which is this one.
    host.leave();
}

#[tokio::test]
async fn a_process_that_always_has_something_to_say_leaves_others_their_turn() {
    const MESSAGES: u64 = 100;
    let directory = directory();
    let pretender = Pretender::new(&directory);
    let host = host(options(&directory));
    let (adoption, connection) = tokio::join!(
        within(host.adopt(anyone())),
        pretender.welcome(welcome_of_this_process(Some(running())))
    );
    let machine = adoption.machines.into_iter().next().expect("it is adopted").handle;
    let mut status = machine.status();
    status.mark_unchanged();
    // All of it is there before anybody reads.
    for message in 1..=MESSAGES {
        let status = MachineStatus { console_start: message, ..running() };
        let told = FromHost::Status { vm: VmId::new("vm"), status, counters: None };
        connection.try_send(told).expect("there is room");
    }
    let mut turns = 0;
    while status.borrow_and_update().console_start < MESSAGES {
        within(status.changed()).await.expect("it goes on");
        turns += 1;
    }
    assert_eq!(turns, MESSAGES, "this task runs after each of them");
    host.leave();
}

#[tokio::test]
async fn what_is_no_host_process_of_ours_is_left_alone() {
    let wrong_pid = Welcome { pid: 1, ..welcome_of_this_process(Some(running())) };
    let wrong_start = Welcome { start_time: 1, ..welcome_of_this_process(Some(running())) };
    let wrong_version = Welcome { version: Version(99), ..welcome_of_this_process(None) };
    let answers = [
        (Some(FromHost::Welcome(wrong_pid)), "it says that it is process 1"),
        (Some(FromHost::Welcome(wrong_start)), "it says that it started at 1"),
        (Some(FromHost::Welcome(wrong_version)), "it speaks version Version(99)"),
        (Some(FromHost::Refused { reason: "too old".to_owned() }), "it refuses: too old"),
        (Some(FromHost::Released { vm: VmId::new("vm") }), "no welcome"),
        (None, "did not answer within"),
    ];
    for (answer, expected) in answers {
        let directory = directory();
        let pretender = Pretender::new(&directory);
        let host = host(options(&directory));
        let answering = async {
            let connection = pretender.accept().await;
            if let Some(answer) = answer {
                connection.try_send(answer).expect("it is sent");
            }
            connection
        };
        let (adoption, _connection) = tokio::join!(within(host.adopt(anyone())), answering);
        let [stranger] = &adoption.strangers[..] else { panic!("{adoption:?}") };
        assert!(stranger.problem.contains(expected), "{stranger:?}");
        assert!(stranger.place.ends_with("pretender.sock"));
        assert!(adoption.machines.is_empty());
        assert_eq!(sockets(&directory).len(), 1, "it is still there");
    }
}

#[tokio::test]
async fn a_process_that_answers_late_is_taken_over_all_the_same() {
    let directory = directory();
    let pretender = Pretender::new(&directory);
    let host = host(options(&directory));
    let (adoption, silence) = tokio::join!(within(host.adopt(anyone())), pretender.accept());
    let [stranger] = &adoption.strangers[..] else { panic!("{adoption:?}") };
    assert_eq!(stranger.pid, Some(std::process::id()));
    assert_eq!(adoption.machines.len(), 0);
    drop(silence);
    let welcome = welcome_of_this_process(Some(running()));
    let (late, _connection) = tokio::join!(within(host.adopt_late()), pretender.welcome(welcome));
    assert_eq!(late.strangers, []);
    let [machine] = &late.machines[..] else { panic!("{late:?}") };
    assert_eq!((machine.notes.as_str(), machine.pid), ("notes", std::process::id()));
    phase(&machine.handle, MachinePhase::Running).await;
    assert_eq!(host.counts().hosted, 1);
    // Nobody is left to be asked.
    let nothing = tokio::time::timeout(Duration::from_millis(100), host.adopt_late()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    host.leave();
}

#[tokio::test]
async fn of_two_machines_of_a_name_the_recognized_one_is_taken_over() {
    let directory = directory();
    let (old, new) = (Pretender::named(&directory, "old"), Pretender::named(&directory, "new"));
    let host = host(options(&directory));
    let noted = |notes: &str| {
        let mut welcome = welcome_of_this_process(Some(running()));
        welcome.machines[0].notes = notes.to_owned();
        welcome
    };
    let recognize = std::sync::Arc::new(|found: &FoundMachine<'_>| match found.notes {
        "new" => Ok(()),
        other => Err(format!("it is {other}")),
    });
    // The wrong one answers first.
    let answering = async {
        let one = old.welcome(noted("old")).await;
        (one, new.welcome(noted("new")).await)
    };
    let (adoption, _connections) = tokio::join!(within(host.adopt(recognize)), answering);
    let [machine] = &adoption.machines[..] else { panic!("{adoption:?}") };
    assert_eq!(machine.notes, "new");
    let [stranger] = &adoption.strangers[..] else { panic!("{adoption:?}") };
    assert_eq!(stranger.problem, "it is old");
    assert!(stranger.place.ends_with("old.sock"), "{stranger:?}");
    host.leave();
}

#[tokio::test]
async fn a_launch_that_nobody_waits_for_any_more_is_no_machine() {
    let directory = directory();
    let pretender = Pretender::new(&directory);
    let host = host(options(&directory));
    let mut welcome = welcome_of_this_process(Some(MachineStatus::booting()));
    welcome.machines[0].launching = true;
    let (adoption, connection) = tokio::join!(within(host.adopt(anyone())), pretender.welcome(welcome));
    assert!(adoption.machines.is_empty() && adoption.strangers.is_empty(), "{adoption:?}");
    assert_eq!(host.counts().hosted, 0, "its name is free");
    let end = within(connection.receive::<ToHost<OwnedFd>>()).await.expect_err("it is left");
    assert!(end.is_closed(), "{end:?}");
}

#[tokio::test]
async fn a_machines_end_carries_its_last_counters() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let machine = launch(&host, "vm", &TinyGuest::power_button()).await;
    assert!(machine.counters().vcpus.is_empty(), "nobody has asked for any yet");
    let onlooker = Connection::new(dial(&directory)).expect("it can be watched");
    let before = welcomed(&onlooker).await.machines.remove(0).counters.expect("it counts");
    // It writes to its console and to a register once more before it ends.
    machine.press_power_button().await.expect("it is pressed");
    assert_eq!(within(machine.exited()).await, MachineExit::PoweredOff);
    let last = machine.counters();
    assert!(last.vcpus[0].exits > before.vcpus[0].exits, "{before:?}, then {last:?}");
    within(machine.released()).await;
    let kept = welcomed(&Connection::new(dial(&directory)).expect("it can be watched")).await;
    assert_eq!(kept.machines[0].counters.as_deref(), Some(&last), "they are the last ones");
    drop((machine, onlooker));
    until("the process ends", || children().is_empty()).await;
}

#[tokio::test]
async fn a_worker_that_is_gone_and_came_back_finds_what_happened() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let first = host(options(&directory));
    let machine = launch(&first, "vm", &TinyGuest::power_button()).await;
    drop((machine, first));
    // Nobody looks while the guest ends.
    let peer = Connection::new(dial(&directory)).expect("it can be watched");
    welcomed(&peer).await;
    let command = Command::RequestShutdown;
    peer.try_send(ToHost::Call { call: CallId(1), vm: VmId::new("vm"), command }).expect("it is sent");
    within(async {
        loop {
            let told: FromHost = peer.receive().await.expect("it goes on");
            if matches!(told, FromHost::Released { .. }) {
                break;
            }
        }
    })
    .await;
    drop(peer);
    let second = host(options(&directory));
    let adoption = within(second.adopt(anyone())).await;
    let machine = &adoption.machines.first().expect("its end is kept").handle;
    assert_eq!(within(machine.exited()).await, MachineExit::PoweredOff);
    within(machine.released()).await;
    assert!(machine.counters().memory_size.get() > 0, "the last counters are kept, too");
    let report = within(machine.stop(StopPolicy::KILL)).await.expect("it has");
    assert_eq!(report.exit, MachineExit::PoweredOff);
    drop(adoption);
    until("the process ends", || sockets(&directory).is_empty()).await;
}
