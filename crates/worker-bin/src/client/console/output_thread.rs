//! Where a console's output goes: standard output, a file, and notes for the user on standard error, in one order.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write, stderr, stdout};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::printable::printable;

/// How long the last output may take when a session ends: a terminal may be stopped.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// A thread that writes, so that a terminal that is stopped, or a pipe that nobody reads, holds up nothing else.
pub(in crate::client) struct OutputThread {
    written: Option<mpsc::Sender<Piece>>,
    outcome: oneshot::Receiver<io::Result<()>>,
}

enum Piece {
    OfGuest(Vec<u8>),
    Note(String),
}

impl OutputThread {
    /// Opens the file, if there is to be one, and starts the thread.
    pub(in crate::client) fn open(log: Option<&Path>) -> Result<Self> {
        let open = |path: &Path| {
            let opened = File::options().append(true).create(true).mode(0o600).open(path);
            opened.with_context(|| format!("cannot write to {}", path.display()))
        };
        let log = log.map(open).transpose()?;
        let (written, pieces) = mpsc::channel(8);
        let (done, outcome) = oneshot::channel();
        let write = move || {
            // Nobody may wait for it any more.
            let _ = done.send(write_all(pieces, log));
        };
        thread::Builder::new()
            .name("console-output".to_owned())
            .spawn(write)
            .context("cannot start a thread")?;
        Ok(Self { written: Some(written), outcome })
    }

    /// Returns when there is room for a piece; also when nobody takes any more, which [`OutputThread::finish`] then tells.
    /// Cancel-safe.
    pub(in crate::client) async fn has_room(&self) {
        if let Some(written) = &self.written {
            let _ = written.reserve().await;
        }
    }

    /// Whether nobody reads any more, or writing failed.
    pub(in crate::client) fn is_closed(&self) -> bool {
        self.written.as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    /// Writes what the guest wrote.
    pub(in crate::client) async fn write(&self, bytes: Vec<u8>) {
        self.put(Piece::OfGuest(bytes)).await;
    }

    /// Tells the user something on a line of its own.
    pub(in crate::client) async fn note(&self, text: &str) {
        self.put(Piece::Note(text.to_owned())).await;
    }

    async fn put(&self, piece: Piece) {
        if let Some(written) = &self.written {
            // Where it is gone, `finish` tells why.
            let _ = written.send(piece).await;
        }
    }

    /// Has the rest written, for a moment.
    ///
    /// # Errors
    /// Something could not be written.
    pub(in crate::client) async fn finish(mut self) -> Result<()> {
        self.written = None;
        match timeout(LAST_OUTPUT, &mut self.outcome).await {
            Ok(Ok(Err(error))) if error.kind() != ErrorKind::BrokenPipe => {
                Err(error).context("cannot write the console's output")
            }
            // Who reads has seen enough, or does not read.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

fn write_all(mut pieces: mpsc::Receiver<Piece>, mut log: Option<File>) -> io::Result<()> {
    let line_end = if stdout().is_terminal() { "\r\n" } else { "\n" };
    let mut at_line_start = true;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::OfGuest(bytes) => {
                let mut out = stdout().lock();
                out.write_all(&bytes)?;
                out.flush()?;
                if let Some(log) = &mut log {
                    log.write_all(&bytes)?;
                }
                at_line_start = bytes.last().is_none_or(|byte| *byte == b'\n');
            }
            Piece::Note(text) => {
                let before = if at_line_start || line_end == "\n" { "" } else { line_end };
                at_line_start = true;
                let line = format!("{before}procurator-worker: {}{line_end}", printable(&text));
                // Nobody need hear it.
                let _ = stderr().write_all(line.as_bytes());
            }
        }
    }
    Ok(())
}
