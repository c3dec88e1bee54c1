//! A terminal with a program on it: what it shows, and where somebody types.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// For what is waited for. Guests work on an emulated processor before they answer.
const DEADLINE: Duration = Duration::from_secs(90);

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl Default for TerminalSize {
    /// What a terminal has that nobody made larger.
    fn default() -> Self {
        Self { columns: 80, rows: 24 }
    }
}

/// A terminal whose program ends with it.
#[derive(Debug)]
pub struct Terminal {
    program: Child,
    screen: File,
    /// What was written to it since it was last looked at from anew.
    shown: Vec<u8>,
}

impl Terminal {
    /// Starts `command` on a terminal of its own.
    ///
    /// # Errors
    /// The host has no terminal left, or no such program.
    pub fn run(mut command: Command, size: TerminalSize) -> Result<Self> {
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("cannot open a terminal")?;
        grantpt(&screen).and_then(|()| unlockpt(&screen)).context("cannot unlock a terminal")?;
        let name = ptsname(&screen, Vec::new()).context("a terminal has no name")?;
        let end = open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty());
        let end = File::from(end.context("cannot open the program's end of a terminal")?);
        let TerminalSize { columns, rows } = size;
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&end, size).context("cannot set a terminal's size")?;
        let share = || end.try_clone().context("cannot share a terminal");
        command.stdin(share()?).stdout(share()?).stderr(share()?);
        let program = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { program, screen: File::from(screen), shown: Vec::new() })
    }

    /// Types `text`.
    ///
    /// # Errors
    /// The terminal is closed.
    pub fn type_in(&mut self, text: &str) -> Result<()> {
        self.screen.write_all(text.as_bytes()).context("cannot type into the terminal")
    }

    /// What it showed since it was started, or since [`Terminal::forget`].
    pub fn shown(&self) -> &[u8] {
        &self.shown
    }

    /// Looks from anew: what was shown before counts no more.
    pub fn forget(&mut self) {
        self.shown.clear();
    }

    /// Waits until `words` are shown, and answers all that is shown, as text.
    ///
    /// # Errors
    /// They do not come in time, or the program ends before.
    pub fn wait_for(&mut self, words: &str) -> Result<String> {
        let end = Instant::now() + DEADLINE;
        loop {
            let text = String::from_utf8_lossy(&self.shown).into_owned();
            if text.contains(words) {
                return Ok(text);
            }
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{words:?} does not come; the terminal shows {text:?}");
            self.read_within(left).with_context(|| format!("the program has ended; it shows {text:?}"))?;
        }
    }

    /// Takes in what is shown for so long.
    ///
    /// # Errors
    /// The program ends before.
    pub fn watch(&mut self, how_long: Duration) -> Result<()> {
        let end = Instant::now() + how_long;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.read_within(left).context("the program has ended")?;
        }
    }

    /// Takes in all that is shown until the program ends.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn wait_for_end(&mut self) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        // A terminal that nobody is on any more cannot be read.
        while self.read_within(end.saturating_duration_since(Instant::now())).is_ok() {
            ensure!(Instant::now() < end, "{:?} does not end", self.program);
        }
        self.program.wait().context("cannot wait for the program")?;
        Ok(())
    }

    /// Takes in what is shown next, if anything is in that time.
    fn read_within(&mut self, time: Duration) -> Result<()> {
        let timeout = Timespec::try_from(time).context("a deadline")?;
        let mut wanted = [PollFd::new(&self.screen, PollFlags::IN)];
        poll(&mut wanted, Some(&timeout)).context("cannot wait for the terminal")?;
        if wanted[0].revents().is_empty() {
            return Ok(());
        }
        let mut bytes = [0; 4096];
        let count = self.screen.read(&mut bytes).context("nobody is on the terminal")?;
        self.shown.extend_from_slice(&bytes[..count]);
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail only where it has ended and been waited for already.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
