//! An ssh session that stays open: a shell of the guest on a terminal, asked for one numbered line after the other.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{Terminal, TerminalSize};

/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(200);
/// For the rest of a line of which the beginning is there.
const AT_ONCE: Duration = Duration::from_millis(20);
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
        let mut terminal = connect(address)?;
        let shell = ask(&mut terminal, 1, None)?;
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
        ask(terminal, lines.load(Ordering::Relaxed) + 1, Some(shell))?;
        lines.fetch_add(1, Ordering::Relaxed);
        longest_wait = longest_wait.max(asked.elapsed());
        thread::sleep(PAUSE);
    }
    Ok(Spoken { lines: lines.load(Ordering::Relaxed), longest_wait })
}

/// Connects with the guest at `address`, whose shell answers.
fn connect(address: Ipv4Addr) -> Result<Terminal> {
    let mut client = Command::new("dbclient");
    // No key of a host is known, and root has no password.
    client.args(["-y", "-y", "-t", &format!("root@{address}")]).env("HOME", "/tmp");
    let mut terminal = Terminal::run(client, TerminalSize::default())?;
    terminal.wait_for("# ").context("no shell answers")?;
    Ok(terminal)
}

/// Has the shell write line `number`, which `shell` has to write if that is known, and returns the shell.
fn ask(terminal: &mut Terminal, number: u64, shell: Option<&str>) -> Result<String> {
    terminal.forget();
    terminal.type_in(QUESTION)?;
    let before = format!("line {number} of shell ");
    terminal.wait_for(&before)?;
    // The question is shown too, with what stands for the number.
    let answered = loop {
        let shown = terminal.wait_for("\n")?;
        let (_, rest) = shown.rsplit_once(&before).context("what was shown is gone")?;
        if let Some((answer, _)) = rest.split_once('\n') {
            break answer.trim().to_owned();
        }
        terminal.watch(AT_ONCE)?;
    };
    ensure!(shell.is_none_or(|shell| shell == answered), "shell {answered} writes line {number}");
    Ok(answered)
}
