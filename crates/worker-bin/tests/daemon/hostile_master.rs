//! A master that breaks the rules of the protocol: it is told why the connection ends, and nothing else follows. VMs go on,
//! the worker stays small and answers.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tiny_guest::TinyGuest;

use crate::bench::{Bench, DEADLINE, Daemon, isolated};

const MEBIBYTE: usize = 1 << 20;
/// What a frame holds at most.
const FRAME_MOST: usize = 4 * MEBIBYTE;
/// What a hostile master may cost the worker at most: a frame, what is made of it, and what the allocator keeps.
const COST_MOST_KIB: u64 = 48 << 10;
/// Its heartbeat is short: three of them without a message end a connection.
const WELCOME: &str = r#"{"type":"welcome","version":1,"heartbeat_ms":400,"master":"m1","epoch":"e1"}"#;

/// A master of this host, without certificates, that does as a test says.
pub(crate) struct FakeMaster(TcpListener);

impl FakeMaster {
    /// Listens, and makes the program follow it that is started next.
    pub(crate) fn of(bench: &Bench) -> Self {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("ip is there").success());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("set");
        let address = listener.local_addr().expect("it has one");
        let config = fs::read_to_string(bench.path("worker.toml")).expect("read");
        let table = format!("[master]\naddress = '{address}'\nworker = 'worker-1'\n");
        bench.configure(&format!("{config}\n{table}"));
        Self(listener)
    }

    /// The worker's next connection, on which the master says `bytes`.
    pub(crate) fn say(&self, bench: &Bench, bytes: &[u8]) -> TcpStream {
        let mut dialled = None;
        bench.until("the worker dials", || {
            dialled = match self.0.accept() {
                Ok((stream, _)) => Some(stream),
                Err(problem) if problem.kind() == ErrorKind::WouldBlock => None,
                Err(problem) => panic!("{problem}"),
            };
            dialled.is_some()
        });
        let mut stream = dialled.expect("it was just seen");
        stream.set_nonblocking(false).expect("set");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        stream.set_write_timeout(Some(DEADLINE)).expect("set");
        stream.write_all(bytes).expect("the worker reads");
        stream
    }
}

/// `text` as a frame.
pub(crate) fn frame(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("it is short");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

/// A frame of `length` bytes of which only the beginning is there.
fn beginning(length: u32, there: usize) -> Vec<u8> {
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(br#"{"type":"assignment","epoch":""#);
    bytes.resize(there, b'x');
    bytes
}

/// All that the worker says until it closes.
fn last_words(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    // What the master has sent and nobody has read makes an end a reset.
    let _ = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

/// Sends a byte of `bytes` whenever the worker has been silent for `pause`; returns all that it says until it closes.
fn trickle(stream: &mut TcpStream, bytes: &[u8], pause: Duration) -> String {
    stream.set_read_timeout(Some(pause)).expect("set");
    let (mut said, mut chunk, mut rest) = (Vec::new(), [0; 4096], bytes.chunks(1));
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => said.extend_from_slice(&chunk[..count]),
            Err(problem) if matches!(problem.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let byte = rest.next().expect("it is given up before all bytes have come");
                if stream.write_all(byte).is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// One VM that runs because the assignments file says so, and the worker's size before anybody speaks to it.
struct Untouched<'a> {
    bench: &'a Bench,
    daemon: Daemon<'a>,
    started_at: Value,
    size: u64,
}

impl<'a> Untouched<'a> {
    fn start(bench: &'a Bench) -> Self {
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        let daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let started_at = bench.vms()[0]["started_at"].clone();
        let size = resident_kib(&daemon);
        Self { bench, daemon, started_at, size }
    }

    /// The worker has ended the connection for a reason with these words, and that is all.
    fn ended_with(&self, words: &str) {
        let problem = || self.bench.status()["master"]["problem"].as_str().unwrap_or_default().to_owned();
        let mut last = String::new();
        self.bench.until(&format!("it ended with {words:?}"), || {
            // While it dials, nothing is wrong.
            last = Some(problem()).filter(|problem| !problem.is_empty()).unwrap_or(std::mem::take(&mut last));
            last.contains(words)
        });
        self.check();
    }

    fn check(&self) {
        assert_eq!(self.bench.phases(), ["a running"]);
        assert_eq!(self.bench.vms()[0]["started_at"], self.started_at, "it was started again");
        let size = resident_kib(&self.daemon);
        assert!(size < self.size + COST_MOST_KIB, "{} KiB before, {size} KiB now", self.size);
    }
}

fn resident_kib(daemon: &Daemon<'_>) -> u64 {
    let path = format!("/proc/{}/status", daemon.pid().as_raw_nonzero());
    let status = fs::read_to_string(path).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has a size");
    line.split_whitespace().next().and_then(|figure| figure.parse().ok()).expect("a figure")
}

#[test]
fn bytes_that_are_no_frames_end_the_connection_and_nothing_else() {
    isolated(|bench| {
        let master = FakeMaster::of(&bench);
        let untouched = Untouched::start(&bench);
        let noise: Vec<u8> = (0..997_u32).map(|number| (number * number % 251).to_le_bytes()[0]).collect();
        let noise = [&997_u32.to_be_bytes()[..], &noise].concat();
        for (bytes, words) in [
            (u32::MAX.to_be_bytes().to_vec(), "a frame of 4294967295 bytes"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "a frame of 1213486160 bytes"),
            (vec![0; 64], "a frame of 0 bytes"),
            (noise, "is no JSON object"),
        ] {
            let mut stream = master.say(&bench, &bytes);
            let said = last_words(&mut stream);
            assert!(said.contains(r#""hello""#) && said.contains("malformed"), "{said}");
            drop(stream);
            untouched.ended_with(words);
        }
    });
}

#[test]
fn messages_that_cannot_be_meant_end_the_connection_and_nothing_else() {
    isolated(|bench| {
        let master = FakeMaster::of(&bench);
        let untouched = Untouched::start(&bench);
        let deep = format!(r#"{{"type":"ping","nonce":{}1{}}}"#, "[".repeat(65), "]".repeat(65));
        let negative = r#"{"type":"assignment","epoch":"e1","generation":-1,"vms":[]}"#;
        let fast = WELCOME.replace("400", "1");
        for (messages, words) in [
            (vec![WELCOME, WELCOME], r#""welcome" came"#),
            (vec![WELCOME, &deep], "nested more than"),
            (vec![WELCOME, negative], "integer `-1`"),
            (vec![&*fast], "heartbeat_ms"),
        ] {
            let bytes: Vec<u8> = messages.into_iter().flat_map(frame).collect();
            let mut stream = master.say(&bench, &bytes);
            let said = last_words(&mut stream);
            assert!(said.contains(r#""goodbye""#), "{said}");
            drop(stream);
            untouched.ended_with(words);
        }
    });
}

#[test]
fn a_master_that_stalls_is_given_up() {
    isolated(|bench| {
        let master = FakeMaster::of(&bench);
        let untouched = Untouched::start(&bench);
        let most = u32::try_from(FRAME_MOST).expect("it fits");
        // Nearly a whole frame of the longest, and then silence.
        let half = [frame(WELCOME), beginning(most, FRAME_MOST - 1)].concat();
        let mut stream = master.say(&bench, &half);
        let said = last_words(&mut stream);
        assert!(said.contains("timed_out") && said.contains("nothing was heard for 1.2s"), "{said}");
        drop(stream);
        untouched.ended_with("nothing was heard for 1.2s");
        // Bytes are no message: who sends one now and then is as silent.
        let mut stream = master.say(&bench, &frame(WELCOME));
        let said = trickle(&mut stream, &beginning(most, 1000), Duration::from_millis(100));
        assert!(said.contains("nothing was heard for 1.2s"), "{said}");
        drop(stream);
        untouched.ended_with("nothing was heard for 1.2s");
    });
}

#[test]
fn a_greeting_of_a_byte_a_second_is_not_waited_for() {
    isolated(|bench| {
        let master = FakeMaster::of(&bench);
        let untouched = Untouched::start(&bench);
        let mut stream = master.say(&bench, &[]);
        let said = trickle(&mut stream, &frame(WELCOME), Duration::from_secs(1));
        assert!(said.contains("timed_out"), "{said}");
        drop(stream);
        untouched.ended_with(r#"no "welcome" came within 10s"#);
    });
}

#[test]
fn a_flood_costs_a_bounded_amount_and_the_worker_answers_meanwhile() {
    const FLOOD: usize = 64;
    isolated(|bench| {
        let master = FakeMaster::of(&bench);
        let untouched = Untouched::start(&bench);
        let mut stream = master.say(&bench, &frame(WELCOME));
        // Of a type that nobody knows, and so to be skipped: each is nearly as long as can be.
        let text = format!(r#"{{"type":"news","text":"{}"}}"#, "x".repeat(FRAME_MOST - 64));
        let long = frame(&text);
        let many = frame(r#"{"type":"ping","nonce":1}"#).repeat(10_000);
        for _ in 0..FLOOD {
            stream.write_all(&long).and_then(|()| stream.write_all(&many)).expect("the worker reads");
            untouched.check();
        }
        assert_eq!(bench.status()["master"]["state"], "connected", "{}", bench.status());
        drop(stream);
        untouched.check();
    });
}
