//! What a worker does with descriptors that a host process which was broken into sends it: none may stay open, none may be
//! waited for, and the connection is over.

mod support;

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, OwnedFd};

use host_process::wire::{Connection, PACKET_DESCRIPTORS_MAX, ToHost, packet_pair, send_packet};
use machine_host::MachineHost;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use support::pretender::{Pretender, running, welcome_of_this_process};
use support::{anyone, directory, host, options, within};

/// A message as a process sends it, in which nothing names a descriptor.
const MESSAGE: &[u8] = br#"{"type":"released","vm":"other"}"#;
/// All of a packet whose message is said to be in its first descriptor.
const IN_A_FILE: &[u8] = b"file";
/// The seals of such a file.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

fn file_in_memory(text: &[u8], seals: SealFlags) -> OwnedFd {
    let file = memfd_create("test", MemfdFlags::ALLOW_SEALING).expect("a file in memory");
    rustix::io::write(&file, text).expect("written");
    fcntl_add_seals(&file, seals).expect("sealed");
    file
}

/// Descriptors of every kind that is no message.
fn wrong_kinds() -> Vec<(&'static str, OwnedFd)> {
    vec![
        ("a pipe that nobody writes to", io::pipe().expect("a pipe").0.into()),
        ("a device", File::open("/dev/zero").expect("it is there").into()),
        ("a directory", File::open("/").expect("it is there").into()),
        ("a socket", packet_pair().expect("sockets").0),
        ("an eventfd", eventfd(0, EventfdFlags::empty()).expect("an eventfd")),
        ("a file on a disk", support::file_with(MESSAGE)),
        ("a file that can change", file_in_memory(MESSAGE, SealFlags::SEAL)),
        ("a file without a message", file_in_memory(b"{}", SEALS)),
        ("an empty file", file_in_memory(b"", SEALS)),
    ]
}

/// A pipe whose reading end tells when nobody has the other one open any more.
fn witness() -> (PipeReader, PipeWriter) {
    io::pipe().expect("a pipe")
}

/// Sends a packet with `wrong` among its descriptors, and holds the worker to what it has to do: the connection ends, and
/// whatever came is closed.
async fn is_refused(what: &str, connection: Connection, bytes: &[u8], mut wrong: Vec<OwnedFd>) {
    let (mut reader, writer) = witness();
    wrong.push(writer.into());
    let descriptors: Vec<_> = wrong.iter().map(AsFd::as_fd).collect();
    send_packet(connection.socket(), bytes, &descriptors).expect("it is sent");
    drop(wrong);
    loop {
        match within(connection.receive::<ToHost<OwnedFd>>()).await {
            // What the worker had to say before it read this.
            Ok(_) => {}
            Err(error) => {
                assert!(error.is_closed(), "{what}: {error:?}");
                break;
            }
        }
    }
    drop(connection);
    let told = within(tokio::task::spawn_blocking(move || reader.read(&mut [0]))).await;
    assert_eq!(told.expect("no panic").expect("it can be read"), 0, "{what}: nobody has it open");
}

#[tokio::test]
async fn no_descriptor_that_a_process_sends_stays_open_in_the_worker() {
    let directory = directory();
    let pretender = Pretender::new(&directory);
    let host = host(options(&directory));
    let welcome = || welcome_of_this_process(Some(running()));
    let (adoption, connection) = tokio::join!(within(host.adopt(anyone())), pretender.welcome(welcome()));
    let machine = adoption.machines.into_iter().next().expect("it is adopted").handle;
    is_refused("one that nothing names", connection, MESSAGE, Vec::new()).await;
    // Each time the worker comes back, as to a process whose connection broke.
    let many = PACKET_DESCRIPTORS_MAX - 1;
    let many = (0..many).map(|_| eventfd(0, EventfdFlags::empty()).expect("an eventfd")).collect();
    is_refused("as many as the kernel passes", pretender.welcome(welcome()).await, MESSAGE, many).await;
    let connection = pretender.welcome(welcome()).await;
    let own = connection.socket().try_clone().expect("duplicated");
    is_refused("the connection itself", connection, MESSAGE, vec![own]).await;
    let connection = pretender.welcome(welcome()).await;
    is_refused("the other end of a pipe", connection, IN_A_FILE, Vec::new()).await;
    for (what, descriptor) in wrong_kinds() {
        is_refused(what, pretender.welcome(welcome()).await, IN_A_FILE, vec![descriptor]).await;
    }
    // A message in a file that is one, with more than it names.
    let connection = pretender.welcome(welcome()).await;
    is_refused("one too many", connection, IN_A_FILE, vec![file_in_memory(MESSAGE, SEALS)]).await;
    let _last = pretender.welcome(welcome()).await;
    assert!(machine.status().borrow().phase.exit().is_none(), "the machine goes on");
    host.leave();
}
