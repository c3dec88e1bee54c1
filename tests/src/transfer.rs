//! A long transfer over TCP with a guest, in both directions at once. Each line that is due is known at either end, so that
//! every byte is checked where it arrives: the guest's end is `/etc/stream` of the test images.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Where the guest listens.
const PORT: u16 = 5000;
/// Lines are sent in pieces of that many. A pause after each leaves the emulated processor to others, too.
const PIECE: u64 = 16;
const PAUSE: Duration = Duration::from_millis(50);
/// For either end to take or to send something.
const DEADLINE: Duration = Duration::from_secs(60);
/// What is behind the check of a line.
const LETTERS: usize = 486;

/// A transfer under way.
#[derive(Debug)]
pub struct Transfer {
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    sending: JoinHandle<Result<u64>>,
    checking: JoinHandle<Result<Transferred>>,
}

/// What was transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// Bytes that arrived here and were right. As many were right at the guest's end.
    pub bytes: u64,
    /// The longest time in which nothing arrived.
    pub longest_gap: Duration,
    /// From the first byte to the last.
    pub took: Duration,
}

impl Transfer {
    /// Begins one with the guest at `address`.
    ///
    /// # Errors
    /// It does not listen (yet).
    pub fn with(address: Ipv4Addr) -> Result<Self> {
        let peer = SocketAddr::from((address, PORT));
        let stream = TcpStream::connect_timeout(&peer, DEADLINE)
            .with_context(|| format!("cannot connect to {peer}"))?;
        stream.set_read_timeout(Some(DEADLINE)).context("cannot set a deadline")?;
        stream.set_write_timeout(Some(DEADLINE)).context("cannot set a deadline")?;
        let receiver = stream.try_clone().context("cannot share the connection")?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let broken = |broken: &anyhow::Error| println!("{broken:#}");
        let sending = thread::spawn(move || send(stream, &told).inspect_err(broken));
        let arrived = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&arrived);
        let checking = thread::spawn(move || check(receiver, &counter).inspect_err(broken));
        Ok(Self { stop, arrived, sending, checking })
    }

    /// Bytes that have arrived here and were right.
    pub fn bytes(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Whether it has ended although nobody has told it to. [`Self::stop`] says why.
    pub fn has_ended(&self) -> bool {
        self.checking.is_finished()
    }

    /// Ends it in order, so that all that was sent has been answered.
    ///
    /// # Errors
    /// It broke, or something that arrived at either end is not what was sent.
    pub fn stop(self) -> Result<Transferred> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sending.join().ok().context("the thread that sends panicked")?;
        let transferred = self.checking.join().ok().context("the thread that checks panicked")??;
        let (sent, each) = (sent?, Lines::new("out", 2).next_line().len() as u64);
        let answered = transferred.bytes / each;
        ensure!(answered == sent, "{answered} of {sent} lines were answered");
        Ok(transferred)
    }
}

fn send(mut stream: TcpStream, stop: &AtomicBool) -> Result<u64> {
    let mut lines = Lines::new("in", 1);
    while !stop.load(Ordering::Relaxed) {
        let piece: String = (0..PIECE).map(|_| lines.next_line()).collect();
        stream.write_all(piece.as_bytes()).context("the transfer broke while sending")?;
        thread::sleep(PAUSE);
    }
    stream.shutdown(Shutdown::Write).context("cannot end the transfer")?;
    Ok(lines.number)
}

fn check(stream: TcpStream, arrived: &AtomicU64) -> Result<Transferred> {
    let mut stream = BufReader::new(stream);
    let mut due = Lines::new("out", 2);
    let begin = Instant::now();
    let (mut last, mut longest_gap) = (begin, Duration::ZERO);
    let mut line = String::new();
    while stream.read_line(&mut line).context("the transfer broke while receiving")? > 0 {
        let due = due.next_line();
        ensure!(line == due, "{due:?} was due, and {line:?} arrived");
        longest_gap = longest_gap.max(last.elapsed());
        last = Instant::now();
        arrived.fetch_add(line.len() as u64, Ordering::Relaxed);
        line.clear();
    }
    Ok(Transferred { bytes: arrived.load(Ordering::Relaxed), longest_gap, took: begin.elapsed() })
}

/// The lines of one direction. Each has a check that follows from all numbers before, and letters that turn.
struct Lines {
    name: &'static str,
    number: u64,
    check: u64,
}

impl Lines {
    fn new(name: &'static str, check: u64) -> Self {
        Self { name, number: 0, check }
    }

    fn next_line(&mut self) -> String {
        self.number += 1;
        self.check = (self.check * 16807 + self.number) % 2_147_483_647;
        let turn = (self.number % 26) as usize;
        let letters: String = ('a'..='z').cycle().skip(turn).take(LETTERS).collect();
        format!("{} {:08} {:010} {letters}\n", self.name, self.number, self.check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_guest() {
        let mut lines = Lines::new("in", 1);
        let first = lines.next_line();
        assert!(first.starts_with("in 00000001 0000016808 bcdef"), "{first}");
        assert!(lines.next_line().starts_with("in 00000002 0282492058 cdefg"));
        let twenty_sixth = (2..26).map(|_| lines.next_line()).last().expect("lines");
        assert!(twenty_sixth.contains(" abcdef"), "{twenty_sixth}");
    }
}
