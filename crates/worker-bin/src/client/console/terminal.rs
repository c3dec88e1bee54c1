//! The user's terminal: raw while a console is attached, and as it was before in every end that a process can see.

use std::io::{stdin, stdout};

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A terminal in raw mode. Dropping it, also while a panic unwinds, restores what was before.
pub(super) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Has the terminal on standard input pass on every key.
    pub(super) fn enter() -> Result<Self> {
        let before = tcgetattr(stdin()).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).context("cannot make the terminal raw")?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that hung up needs no settings. Nothing is waited for: its output may be stopped.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// The terminal's columns and rows, where there is one and it has a size.
pub(super) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdout()).or_else(|_| tcgetwinsize(stdin())).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Signals that end a session in order, and the one that tells of another size.
pub(super) struct Interruption {
    terminate: Signal,
    hang_up: Signal,
    interrupt: Signal,
    quit: Signal,
    resized: Signal,
}

impl Interruption {
    /// Takes them from now on.
    pub(super) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            resized: listen(SignalKind::window_change())?,
        })
    }

    /// The name of the next signal that ends the session. Cancel-safe.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hang_up.recv() => "SIGHUP",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }

    /// The same, or `None` when the terminal has another size. Cancel-safe.
    pub(super) async fn next_or_resize(&mut self) -> Option<&'static str> {
        let Self { terminate, hang_up, interrupt, quit, resized } = self;
        tokio::select! {
            _ = terminate.recv() => Some("SIGTERM"),
            _ = hang_up.recv() => Some("SIGHUP"),
            _ = interrupt.recv() => Some("SIGINT"),
            _ = quit.recv() => Some("SIGQUIT"),
            _ = resized.recv() => None,
        }
    }
}
