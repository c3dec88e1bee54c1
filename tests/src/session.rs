//! An ssh session that stays open: a shell of the guest on a terminal, asked for one numbered line after the other.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// For a session to be set up, and for one line. Guests work on an emulated processor before they answer.
const DEADLINE: Duration = Duration::from_secs(90);
/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(200);
/// The guest's shell counts. Another shell would begin anew, and have another number.
const QUESTION: &str = "n=$((n + 1)); echo line $n of shell $$\r";

/// A session at work.
#[derive(Debug)]
pub struct Session {
    stop: Arc<AtomicBool>,
    lines: Arc<AtomicU64>,
    asking: JoinHandle<Result<Spoken>>,
}

/// What was said in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// Lines that came back, each from the same shell, with its number.
    pub lines: u64,
    /// The longest time from a question to its answer, the first one left out.
    pub longest_wait: Duration,
}

impl Session {
    /// Opens one with the guest at `address`, whose command line has `sshd`, and keeps it at work.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn with(address: Ipv4Addr) -> Result<Self> {
        let mut terminal = Terminal::of(address)?;
        let shell = terminal.ask(1, None)?;
        let (stop, lines) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(1)));
        let (told, counter) = (Arc::clone(&stop), Arc::clone(&lines));
        let asking = thread::spawn(move || {
            speak(&mut terminal, &shell, &told, &counter).inspect_err(|broken| println!("{broken:#}"))
        });
        Ok(Self { stop, lines, asking })
    }

    /// Lines that have come back.
    pub fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    /// Whether it has ended although nobody has told it to. [`Self::stop`] says why.
    pub fn has_ended(&self) -> bool {
        self.asking.is_finished()
    }

    /// Closes it.
    ///
    /// # Errors
    /// It ended before, or a line did not come or was wrong.
    pub fn stop(self) -> Result<Spoken> {
        self.stop.store(true, Ordering::Relaxed);
        self.asking.join().ok().context("the thread that speaks panicked")?
    }
}

fn speak(terminal: &mut Terminal, shell: &str, stop: &AtomicBool, lines: &AtomicU64) -> Result<Spoken> {
    let mut longest_wait = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        terminal.ask(lines.load(Ordering::Relaxed) + 1, Some(shell))?;
        lines.fetch_add(1, Ordering::Relaxed);
        longest_wait = longest_wait.max(asked.elapsed());
        thread::sleep(PAUSE);
    }
    Ok(Spoken { lines: lines.load(Ordering::Relaxed), longest_wait })
}

/// The client's terminal: what it shows, and where somebody types.
#[derive(Debug)]
struct Terminal {
    client: Child,
    screen: File,
    /// What it showed and nobody looked at yet.
    shown: String,
}

impl Terminal {
    fn of(address: Ipv4Addr) -> Result<Self> {
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("cannot open a terminal")?;
        grantpt(&screen).and_then(|()| unlockpt(&screen)).context("cannot unlock a terminal")?;
        let name = ptsname(&screen, Vec::new()).context("a terminal has no name")?;
        let end = open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty());
        let end = File::from(end.context("cannot open the client's end of a terminal")?);
        let share = || end.try_clone().context("cannot share a terminal");
        // No key of a host is known, and root has no password.
        let client = Command::new("dbclient")
            .args(["-y", "-y", "-t", &format!("root@{address}")])
            .env("HOME", "/tmp")
            .stdin(share()?)
            .stdout(share()?)
            .stderr(share()?)
            .spawn()
            .context("cannot start dbclient")?;
        let mut terminal = Self { client, screen: File::from(screen), shown: String::new() };
        terminal.wait_for("# ").context("no shell answers")?;
        Ok(terminal)
    }

    /// Has the shell write line `number`, which `shell` has to write if that is known, and returns the shell.
    fn ask(&mut self, number: u64, shell: Option<&str>) -> Result<String> {
        self.shown.clear();
        self.screen.write_all(QUESTION.as_bytes()).context("cannot type into the session")?;
        let before = format!("line {number} of shell ");
        self.wait_for(&before)?;
        let from = self.shown.rfind(&before).unwrap_or_default() + before.len();
        let rest = self.shown.split_off(from);
        self.shown = rest;
        self.wait_for("\n")?;
        let answered = self.shown.split_whitespace().next().unwrap_or_default().to_owned();
        ensure!(shell.is_none_or(|shell| shell == answered), "shell {answered} writes line {number}");
        Ok(answered)
    }

    /// Waits until `words` are shown.
    fn wait_for(&mut self, words: &str) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        while !self.shown.contains(words) {
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{words:?} does not come; the session shows {:?}", self.shown);
            let timeout = Timespec::try_from(left).context("a deadline")?;
            let mut wanted = [PollFd::new(&self.screen, PollFlags::IN)];
            poll(&mut wanted, Some(&timeout)).context("cannot wait for the session")?;
            if wanted[0].revents().is_empty() {
                continue;
            }
            let mut bytes = [0; 1024];
            let count = self.screen.read(&mut bytes);
            let count = count.with_context(|| format!("the session has ended; it shows {:?}", self.shown))?;
            self.shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail only where it has ended and been waited for already.
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}
