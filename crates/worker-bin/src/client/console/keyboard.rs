//! What the user types, and the key that leaves.

use std::future::pending;
use std::io::{ErrorKind, Read, stdin};
use std::thread;

use anyhow::{Context, Result};
use tokio::sync::mpsc;

use crate::cli::EscapeKey;

/// What is read at a time.
const AT_ONCE: usize = 4096;

/// Standard input, read by a thread of its own: a terminal's reads cannot be given up, and files cannot be waited for. The
/// thread ends with the process.
pub(super) struct Keyboard {
    typed: Option<mpsc::Receiver<Vec<u8>>>,
    escape: EscapeKey,
    is_terminal: bool,
}

/// What comes from the keyboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    Bytes(Vec<u8>),
    /// The key that leaves.
    Leave,
    /// A file or a pipe has ended, or a terminal was closed.
    End,
}

impl Keyboard {
    /// None at all: nothing ever comes from it.
    pub(super) fn absent() -> Self {
        Self { typed: None, escape: EscapeKey(None), is_terminal: true }
    }

    /// Reads from now on. The key that leaves is one only on a terminal.
    pub(super) fn start(escape: EscapeKey, is_terminal: bool) -> Result<Self> {
        let (sender, typed) = mpsc::channel(4);
        let read = move || {
            let mut bytes = [0; AT_ONCE];
            loop {
                match stdin().read(&mut bytes) {
                    Ok(0) => return,
                    Ok(count) if sender.blocking_send(bytes[..count].to_vec()).is_err() => return,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // A terminal that hung up.
                    Err(_) => return,
                }
            }
        };
        thread::Builder::new().name("keyboard".to_owned()).spawn(read).context("cannot start a thread")?;
        let escape = if is_terminal { escape } else { EscapeKey(None) };
        Ok(Self { typed: Some(typed), escape, is_terminal })
    }

    /// Whether a person types, as far as can be known.
    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// What comes next; nothing after the end. Cancel-safe.
    pub(super) async fn next(&mut self) -> Vec<Typed> {
        let Some(typed) = &mut self.typed else { return pending().await };
        match typed.recv().await {
            Some(bytes) => split(bytes, self.escape),
            None => {
                self.typed = None;
                vec![Typed::End]
            }
        }
    }

    /// Returns when the user leaves; what is typed before is dropped. Cancel-safe.
    pub(super) async fn left(&mut self) {
        loop {
            let typed = self.next().await;
            let hung_up = self.is_terminal && typed.contains(&Typed::End);
            if hung_up || typed.contains(&Typed::Leave) {
                return;
            }
        }
    }
}

/// `bytes` up to the key that leaves.
fn split(mut bytes: Vec<u8>, escape: EscapeKey) -> Vec<Typed> {
    let found = escape.0.and_then(|key| bytes.iter().position(|byte| *byte == key));
    bytes.truncate(found.unwrap_or(bytes.len()));
    let typed = (!bytes.is_empty()).then_some(Typed::Bytes(bytes));
    typed.into_iter().chain(found.map(|_| Typed::Leave)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_before_the_key_that_leaves_is_sent() {
        let key = EscapeKey(Some(0x1d));
        let bytes = |text: &[u8]| Typed::Bytes(text.to_vec());
        assert_eq!(split(b"ls\n".to_vec(), key), [bytes(b"ls\n")]);
        assert_eq!(split(b"ls\x1dmore".to_vec(), key), [bytes(b"ls"), Typed::Leave]);
        assert_eq!(split(b"\x1d".to_vec(), key), [Typed::Leave]);
        assert_eq!(split(b"\x1d".to_vec(), EscapeKey(None)), [bytes(b"\x1d")]);
    }
}
