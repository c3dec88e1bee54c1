//! Version 1 of the conversation, literally, and round trips over a real socket with real descriptors.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use jail::{Extent, Gap, JailReport, Layer};
use machine_host::{CallFilter, LaunchError, LaunchFailure};
use proptest::prelude::*;
use serde_json::{Value, json};
use vm_model::{
    BootSpec, Bytes, Command, CommandKind, CpuSpec, DiskAccess, DiskFormat, DiskSpec, FailureKind,
    InitialState, MachineCounters, MachineExit, MachinePhase, MachineSpec, MachineStatus, MemoryBacking,
    MemorySpec, Reply, ResetPolicy, SerialMode, ThreadHealth, VmId,
};

use super::*;
use crate::wire::message::{CallId, Hello, Launch, Listener, MachineListing, Welcome};
use crate::wire::packet::{packet_pair, receive_packet, send_packet};
use crate::wire::version::Version;

fn file_with(content: &str) -> OwnedFd {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(content.as_bytes()).expect("it can be written");
    file.into()
}

fn content(file: &OwnedFd) -> String {
    let mut file = File::from(file.try_clone().expect("it can be duplicated"));
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).expect("it is a file");
    file.read_to_string(&mut text).expect("it can be read");
    text
}

fn launch(disks: usize, cmdline: &str) -> ToHost<OwnedFd> {
    let disk = |number: usize| DiskSpec {
        direct_file: None,
        id: format!("disk{number}"),
        file: file_with(&format!("disk {number}")),
        format: DiskFormat::Raw,
        access: DiskAccess::ReadOnly,
        serial: None,
        queue_size: 128,
        options: Default::default(),
    };
    ToHost::Launch(Box::new(Launch {
        call: CallId(7),
        vm: VmId::new("web-1"),
        spec: MachineSpec {
            uuid: uuid::Uuid::from_u128(7),
            cpus: CpuSpec::default(),
            memory: MemorySpec {
                size: Bytes::from_mib(16),
                backing: MemoryBacking::Automatic,
                prefault: false,
            },
            boot: BootSpec { kernel: file_with("kernel"), initrd: None, cmdline: cmdline.to_owned() },
            disks: (0..disks).map(disk).collect(),
            nics: Vec::new(),
            serial: SerialMode::Console,
            rng: true,
            services: Default::default(),
        },
        verified: None,
        initial: InitialState::Running,
        resets: ResetPolicy::EndsMachine,
        console_dir: Some(file_with("console")),
        lock: Some(file_with("lock")),
        notes: "notes".to_owned(),
    }))
}

/// What arrives of `message` at the other end of a socket.
fn across<M: Message>(message: M) -> Result<M, CodecError> {
    let (ours, theirs) = packet_pair().expect("a pair of sockets");
    let outgoing = message.pack()?;
    send_packet(&ours, outgoing.bytes(), &outgoing.descriptors()).expect("it fits");
    M::read(receive_packet(&theirs).expect("it arrives"))
}

fn text(message: impl Message) -> Value {
    serde_json::from_slice(message.pack().expect("it can be packed").bytes()).expect("it is JSON")
}

fn call(id: u64) -> CallId {
    CallId(id)
}

proptest! {
    #[test]
    fn a_launch_arrives_with_each_file_in_its_place(disks in 0_usize..20, length in 0_usize..200_000) {
        let cmdline = "x".repeat(length);
        let ToHost::Launch(arrived) = across(launch(disks, &cmdline))? else {
            return Err(TestCaseError::fail("it is a launch"));
        };
        let Launch { spec, console_dir, lock, .. } = *arrived;
        prop_assert_eq!(content(&spec.boot.kernel), "kernel");
        prop_assert_eq!(spec.boot.cmdline, cmdline);
        prop_assert_eq!(spec.disks.len(), disks);
        for (number, disk) in spec.disks.iter().enumerate() {
            prop_assert_eq!(content(&disk.file), format!("disk {number}"));
        }
        prop_assert_eq!(console_dir.as_ref().map(content), Some("console".to_owned()));
        prop_assert_eq!(lock.as_ref().map(content), Some("lock".to_owned()));
    }

    #[test]
    fn what_is_no_message_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), files in 0_usize..3) {
        let descriptors = || (0..files).map(|_| file_with("x")).collect();
        let packet = Packet { bytes: bytes.clone(), descriptors: descriptors() };
        prop_assert!(<ToHost<OwnedFd>>::read(packet).is_err());
        let packet = Packet { bytes, descriptors: descriptors() };
        prop_assert!(FromHost::read(packet).is_err());
    }
}

#[test]
fn descriptors_other_than_those_named_are_refused() {
    let read = |text: Value, files: usize| {
        let descriptors = (0..files).map(|_| file_with("x")).collect();
        let packet = Packet { bytes: text.to_string().into_bytes(), descriptors };
        <ToHost<OwnedFd>>::read(packet).map(drop).map_err(|error| match error {
            CodecError::Descriptors(error) => error,
            error => panic!("{error:?}"),
        })
    };
    let launch = text(launch(2, ""));
    assert_eq!(read(launch.clone(), 5), Ok(()));
    assert_eq!(read(launch.clone(), 4), Err(DescriptorError::OutOfRange { index: 4, count: 4 }));
    assert_eq!(read(launch.clone(), 6), Err(DescriptorError::LeftOver { count: 1 }));
    let mut twice = launch;
    twice["lock"] = json!(0);
    assert_eq!(read(twice, 5), Err(DescriptorError::NamedTwice { index: 0 }));
    assert_eq!(read(json!({"type": "cancel", "call": 1}), 1), Err(DescriptorError::LeftOver { count: 1 }));
    // Of a message nobody knows it is not known either which it names.
    assert_eq!(read(json!({"type": "migrate", "to": 0}), 1), Ok(()));
}

#[test]
fn nothing_but_a_welcome_is_long() {
    let news = |length: usize| FromHost::Refused { reason: "x".repeat(length) };
    let bytes = |message: &FromHost| serde_json::to_vec(message).expect("JSON").len();
    let longest = news(NEWS_BYTES_MAX - bytes(&news(0)));
    assert_eq!(bytes(&longest), NEWS_BYTES_MAX);
    assert_eq!(across(longest.clone()).expect("it is read"), longest);
    let refused = across(news(NEWS_BYTES_MAX)).expect_err("it is too long");
    assert!(
        matches!(refused, CodecError::Payload(PayloadError::TooLong { most: NEWS_BYTES_MAX, .. })),
        "{refused:?}"
    );
    let welcome = Welcome {
        version: Version(1),
        pid: 1,
        start_time: 0,
        build: "x".repeat(2 * NEWS_BYTES_MAX),
        jail: None,
        is_filtered: false,
        filter: None,
        machines: Vec::new(),
    };
    across(FromHost::Welcome(welcome)).expect("it lists what was noted of many machines");
}

#[test]
fn what_a_later_release_adds_is_passed_over() {
    let read = |text: Value| {
        FromHost::read(Packet { bytes: text.to_string().into_bytes(), descriptors: Vec::new() })
    };
    let released = FromHost::Released { vm: VmId::new("a") };
    let more = json!({"type": "released", "vm": "a", "after": {"secs": 1}});
    assert_eq!(read(more).expect("it is known"), released);
    assert_eq!(read(json!({"type": "moved", "vm": "a"})).expect("it is skipped"), FromHost::Unknown);
    assert!(read(json!({"type": "released"})).is_err());
    assert!(read(json!({"vm": "a"})).is_err());
    assert!(FromHost::Unknown.pack().is_err() && ToHost::<OwnedFd>::Unknown.pack().is_err());
}

#[test]
fn messages_to_a_host_are_those_of_version_1() {
    let vm = || VmId::new("web-1");
    let listener =
        Listener { socket: file_with(""), directory: Some(file_with("")), name: "a.sock".to_owned() };
    let hello = Hello { versions: vec![Version(1)], build: "b".to_owned(), listener: Some(listener) };
    let jailed = Listener { socket: file_with(""), directory: None, name: "a.sock".to_owned() };
    let jailed = Hello { versions: vec![Version(1)], build: "b".to_owned(), listener: Some(jailed) };
    let bare = Hello { versions: vec![Version(1)], build: "b".to_owned(), listener: None };
    let within = Duration::from_millis(1500);
    let messages = [
        (
            ToHost::Hello(hello),
            json!({"type": "hello", "versions": [1], "build": "b",
                "listener": {"socket": 0, "directory": 1, "name": "a.sock"}}),
        ),
        (
            ToHost::Hello(jailed),
            json!({"type": "hello", "versions": [1], "build": "b", "listener": {"socket": 0, "name": "a.sock"}}),
        ),
        (ToHost::Hello(bare), json!({"type": "hello", "versions": [1], "build": "b"})),
        (
            ToHost::Call { call: call(1), vm: vm(), command: Command::Pause { within } },
            json!({"type": "call", "call": 1, "vm": "web-1",
                "command": {"command": "pause", "within": {"secs": 1, "nanos": 500_000_000}}}),
        ),
        (ToHost::Cancel { call: call(2) }, json!({"type": "cancel", "call": 2})),
        (ToHost::Counters { call: call(3), vm: vm() }, json!({"type": "counters", "call": 3, "vm": "web-1"})),
        (ToHost::Forget { vm: vm() }, json!({"type": "forget", "vm": "web-1"})),
        (
            ToHost::ShutDown { patience: Duration::from_secs(30) },
            json!({"type": "shut_down", "patience": {"secs": 30, "nanos": 0}}),
        ),
    ];
    for (message, expected) in messages {
        assert_eq!(text(message), expected);
    }
    let mut launch = text(launch(1, "quiet"));
    assert_eq!(launch["spec"]["boot"], json!({"kernel": 0, "initrd": null, "cmdline": "quiet"}));
    assert_eq!(launch["spec"]["disks"][0]["file"], json!(1));
    launch.as_object_mut().expect("an object").remove("spec");
    let expected = json!({"type": "launch", "call": 7, "vm": "web-1", "initial": "running",
        "resets": "ends_machine", "console_dir": 2, "lock": 3, "notes": "notes"});
    assert_eq!(launch, expected);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a message of each kind")]
fn messages_from_a_host_are_those_of_version_1() {
    let vm = || VmId::new("web-1");
    let phase = MachinePhase::Exited(MachineExit::PoweredOff);
    let status = || MachineStatus { phase: phase.clone(), ..MachineStatus::booting() };
    let (health, counters) = (ThreadHealth::Turning, Some(Box::default()));
    let listing = MachineListing {
        vm: vm(),
        status: status(),
        counters,
        health,
        notes: "n".to_owned(),
        launched_ago: Duration::from_secs(2),
        released: true,
        launching: false,
    };
    let status_text = serde_json::to_value(status()).expect("statuses serialise");
    let (build, machines) = ("b".to_owned(), vec![listing]);
    let gap = Gap { layer: Layer::Landlock, problem: "p".to_owned(), extent: Extent::Additions };
    let jail = JailReport { user: Some(7), gaps: vec![gap] };
    let welcome = Welcome {
        version: Version(1),
        pid: 12,
        start_time: 34,
        build,
        jail: Some(jail),
        is_filtered: true,
        filter: Some(CallFilter::Trap),
        machines,
    };
    let source = LaunchFailure::Build { kind: FailureKind::Artifact, reason: "r".to_owned() };
    let failure = LaunchError::Machine { vm: vm(), source };
    let counters = MachineCounters::default();
    let counters_text = serde_json::to_value(&counters).expect("counters serialise");
    let denied = Reply::Denied { phase: MachinePhase::Stopping };
    let messages = [
        (
            FromHost::Welcome(welcome),
            json!({"type": "welcome", "version": 1, "pid": 12, "start_time": 34, "build": "b", "is_filtered": true, "filter": "trap",
                "jail": {"user": 7, "gaps": [{"layer": "landlock", "problem": "p", "extent": "additions"}]}, "machines": [
                {"vm": "web-1", "status": status_text, "counters": counters_text, "health": "turning",
                    "notes": "n", "launched_ago": {"secs": 2, "nanos": 0}, "released": true}]}),
        ),
        (FromHost::Launched { call: call(1), failure: None }, json!({"type": "launched", "call": 1})),
        (
            FromHost::Launched { call: call(1), failure: Some(failure) },
            json!({"type": "launched", "call": 1, "failure": {"machine": {"vm": "web-1",
                "source": {"build": {"kind": "artifact", "reason": "r"}}}}}),
        ),
        (
            FromHost::Reply { call: call(2), reply: denied },
            json!({"type": "reply", "call": 2, "reply": {"reply": "denied", "phase": "stopping"}}),
        ),
        (FromHost::NotTaken { call: call(3) }, json!({"type": "not_taken", "call": 3})),
        (
            FromHost::Counters { call: call(4), counters },
            json!({"type": "counters", "call": 4, "counters": counters_text}),
        ),
        (
            FromHost::Status { vm: vm(), status: status(), counters: None },
            json!({"type": "status", "vm": "web-1", "status": status_text}),
        ),
        (
            FromHost::Status { vm: vm(), status: status(), counters: Some(Box::default()) },
            json!({"type": "status", "vm": "web-1", "status": status_text, "counters": counters_text}),
        ),
        (
            FromHost::Health { vm: vm(), health: ThreadHealth::Hung },
            json!({"type": "health", "vm": "web-1", "health": "hung"}),
        ),
        (FromHost::Released { vm: vm() }, json!({"type": "released", "vm": "web-1"})),
        (FromHost::Refused { reason: "r".to_owned() }, json!({"type": "refused", "reason": "r"})),
    ];
    messages.into_iter().for_each(|(message, expected)| is_written(message, &expected));
}

/// The message has this form, and arrives as it was.
fn is_written(message: FromHost, expected: &serde_json::Value) {
    assert_eq!(text(message.clone()), *expected);
    assert_eq!(across(message.clone()).expect("it arrives"), message);
}

#[test]
fn every_command_travels() {
    // Long enough for a file of its own.
    let bytes = vec![b'x'; 60_000];
    let within = Duration::from_secs(1);
    let commands = [
        Command::WriteConsole { bytes },
        Command::SetBalloon { size: Bytes::from_mib(64) },
        Command::DumpVcpus { within },
        Command::Kill,
    ];
    for command in commands {
        assert!(CommandKind::ALL.contains(&command.kind()));
        let message = ToHost::Call { call: call(1), vm: VmId::new("a"), command: command.clone() };
        let ToHost::Call { command: arrived, .. } = across(message).expect("it arrives") else {
            panic!("it is a call");
        };
        assert_eq!(arrived, command);
    }
}

#[test]
fn a_machine_with_too_many_files_is_not_sent() {
    assert!(matches!(
        launch(260, "").pack(),
        Err(CodecError::Payload(PayloadError::TooManyDescriptors { .. }))
    ));
    let outgoing = launch(240, "").pack().expect("it fits");
    assert_eq!(outgoing.descriptors().len(), 243);
    assert!(outgoing.descriptors().iter().all(|descriptor| descriptor.as_fd().try_clone_to_owned().is_ok()));
}
