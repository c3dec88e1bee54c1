//! A stock guest's sockets: reached from the host, reaching the host, and closed when it starts again.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::thread;

use anyhow::{Context, Result, ensure};
use end_to_end::{
    Assignment, SHORT_DEADLINE, Worker, connect_to_guest, ensure_same, http_get, listen_for_guest, noise,
    until,
};

use crate::environment;

/// Where the guest of the image `everything` gives back what it gets.
const ECHO: u32 = 1024;
/// Where this host listens.
const HOST: u32 = 2000;

#[test]
#[ignore = "full: boots twice"]
fn a_guests_streams_end_with_it_and_new_ones_work() -> Result<()> {
    let environment = environment();
    let image = environment.image("everything")?;
    let worker = Worker::start(&environment)?;
    worker.assign(&[Assignment::of(&image, "sockets")])?;
    let address = worker.wait_until_answering("sockets")?.address()?;
    let mut open = echo_stream(&worker, "sockets")?;
    echoes(&mut open, b"before")?;

    http_get(address, "/cgi-bin/end?reboot")?;
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _ = open.read_to_end(&mut rest);
    ensure!(rest.is_empty(), "{rest:?} came after the guest was gone");
    until("the reset is counted", SHORT_DEADLINE, || {
        ensure!(worker.vm("sockets")?.restarts == 1, "not yet");
        Ok(())
    })?;
    worker.wait_until_answering("sockets")?;
    echoes(&mut echo_stream(&worker, "sockets")?, b"after")?;
    assert!(worker.terminate()?.status.success());
    Ok(())
}

/// Bytes pass both ways over a stream that the host opens, and over one that the guest opens.
pub(crate) fn carry_bytes_both_ways(worker: &Worker, id: &str, address: Ipv4Addr) -> Result<()> {
    let mut stream = echo_stream(worker, id)?;
    echoes(&mut stream, &noise(1, 256 << 10))?;
    drop(stream);

    let listener = listen_for_guest(&worker.vm_directory(id), HOST)?;
    let asking = thread::spawn(move || http_get(address, &format!("/cgi-bin/socket?{HOST}")));
    let (mut stream, _) = listener.accept().context("the guest does not connect")?;
    let mut word = String::new();
    stream.read_to_string(&mut word).context("what the guest says does not end")?;
    ensure!(word == "hello from the guest\n", "the guest says {word:?}");
    stream.write_all(b"hello from the host").context("the guest does not listen")?;
    drop(stream);
    let answer = asking.join().expect("no panic")?;
    ensure!(answer == b"hello from the host", "the guest got {:?}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// The guest may still be on its way to listening.
fn echo_stream(worker: &Worker, id: &str) -> Result<UnixStream> {
    let directory = worker.vm_directory(id);
    until("the guest's port answers", SHORT_DEADLINE, || connect_to_guest(&directory, ECHO))
}

/// More than all buffers on the way hold comes back unchanged; for that it has to be written and read at once.
fn echoes(stream: &mut UnixStream, bytes: &[u8]) -> Result<()> {
    let mut writer = stream.try_clone().context("cannot share a stream")?;
    let mut back = vec![0; bytes.len()];
    thread::scope(|scope| {
        let writing = scope.spawn(move || writer.write_all(bytes));
        stream.read_exact(&mut back).context("not all comes back")?;
        writing.join().expect("no panic").context("not all is taken")
    })?;
    ensure_same(&back, bytes)
}
