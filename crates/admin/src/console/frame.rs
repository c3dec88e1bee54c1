//! Frames: a kind, a length and a content, both ways.
//!
//! ```text
//! ┌──────┬────────────┬───────────────┐
//! │ kind │ length     │ content       │   numbers are big-endian
//! │ u8   │ u16        │ length bytes  │
//! └──────┴────────────┴───────────────┘
//!
//! from the worker                              from the client
//! 1 output         bytes                       1 input    bytes, at most 4096
//! 2 place          boot u32, offset u64        2 resize   columns u16, rows u16
//! 3 missed         bytes u64                   3 ask pen  nothing
//! 4 pen            state u8, who (text)
//! 5 input dropped  bytes u64
//! 6 end            why u8, more of it (text)
//! ```
//!
//! A `place` comes before output that does not follow the output before it. Kinds that are not known are skipped, so that
//! the protocol can grow.

use std::io;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};
use worker::vms::ConsolePosition;

/// The most that is typed in one frame.
pub const MAX_INPUT: usize = 4096;
/// Kind and length.
const HEADER: usize = 3;

/// From the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFrame {
    /// What the guest wrote.
    Output(Vec<u8>),
    /// Where the next output begins.
    Place(ConsolePosition),
    /// So many bytes before the next output are no longer kept: the client was too slow, or came too late.
    Missed(u64),
    /// Whether the client may type.
    Pen(PenState),
    /// So many bytes of input were not taken: the guest reads nothing, or does not run.
    InputDropped(u64),
    /// Nothing follows.
    End(ConsoleEnd),
}

/// Who may type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PenState {
    /// The client.
    Yours,
    /// Somebody else, who is named.
    Held(String),
    /// Somebody else, who has just taken it from the client.
    Stolen(String),
    /// Nobody asked: the client reads.
    ReadOnly,
}

/// Why nothing follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleEnd {
    /// Everything that was asked for was sent.
    Complete,
    /// The VM is gone.
    VmGone,
    /// The worker is ending. The guest may go on.
    WorkerEnding,
    /// Something failed.
    Failed(String),
}

/// From the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientFrame {
    /// What is typed.
    Input(Vec<u8>),
    /// The size of the terminal.
    Resize {
        /// Characters in a line.
        columns: u16,
        /// Lines.
        rows: u16,
    },
    /// The client would like to type: it gets the pen if nobody has it. Answered by a [`ServerFrame::Pen`].
    AskPen,
}

/// What came is no frame of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a console frame of kind {kind} has {length} bytes, which make no sense")]
pub struct FrameError {
    /// The frame's kind.
    pub kind: u8,
    /// The length of its content.
    pub length: usize,
}

/// A frame that travels in one direction.
pub trait WireFrame: Sized {
    /// Its kind and content.
    fn parts(&self) -> (u8, Vec<u8>);

    /// The frame of these parts; `None` where the kind is not known.
    ///
    /// # Errors
    /// The content is not one of that kind.
    fn from_parts(kind: u8, content: &[u8]) -> Result<Option<Self>, FrameError>;

    /// The bytes that travel. Content beyond 65,535 bytes is cut off: no caller makes any.
    fn encoded(&self) -> Vec<u8> {
        let (kind, mut content) = self.parts();
        content.truncate(usize::from(u16::MAX));
        let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
        let mut bytes = Vec::with_capacity(HEADER + content.len());
        bytes.push(kind);
        bytes.extend(length.to_be_bytes());
        bytes.append(&mut content);
        bytes
    }
}

impl WireFrame for ServerFrame {
    fn parts(&self) -> (u8, Vec<u8>) {
        let tagged = |tag: u8, text: &str| [&[tag], text.as_bytes()].concat();
        match self {
            Self::Output(bytes) => (1, bytes.clone()),
            Self::Place(ConsolePosition { boot, offset }) => {
                (2, [&boot.to_be_bytes()[..], &offset.to_be_bytes()].concat())
            }
            Self::Missed(count) => (3, count.to_be_bytes().to_vec()),
            Self::Pen(PenState::ReadOnly) => (4, vec![0]),
            Self::Pen(PenState::Yours) => (4, vec![1]),
            Self::Pen(PenState::Held(who)) => (4, tagged(2, who)),
            Self::Pen(PenState::Stolen(who)) => (4, tagged(3, who)),
            Self::InputDropped(count) => (5, count.to_be_bytes().to_vec()),
            Self::End(ConsoleEnd::Complete) => (6, vec![0]),
            Self::End(ConsoleEnd::VmGone) => (6, vec![1]),
            Self::End(ConsoleEnd::WorkerEnding) => (6, vec![2]),
            Self::End(ConsoleEnd::Failed(why)) => (6, tagged(3, why)),
        }
    }

    fn from_parts(kind: u8, content: &[u8]) -> Result<Option<Self>, FrameError> {
        let wrong = FrameError { kind, length: content.len() };
        let frame = match kind {
            1 => Self::Output(content.to_vec()),
            2 => {
                let (boot, offset) = content.split_first_chunk::<4>().ok_or(wrong)?;
                let boot = u32::from_be_bytes(*boot);
                Self::Place(ConsolePosition { boot, offset: number(offset).ok_or(wrong)? })
            }
            3 => Self::Missed(number(content).ok_or(wrong)?),
            4 => Self::Pen(match content.split_first().ok_or(wrong)? {
                (0, _) => PenState::ReadOnly,
                (1, _) => PenState::Yours,
                (2, who) => PenState::Held(text(who)),
                (3, who) => PenState::Stolen(text(who)),
                _ => return Err(wrong),
            }),
            5 => Self::InputDropped(number(content).ok_or(wrong)?),
            6 => Self::End(match content.split_first().ok_or(wrong)? {
                (0, _) => ConsoleEnd::Complete,
                (1, _) => ConsoleEnd::VmGone,
                (2, _) => ConsoleEnd::WorkerEnding,
                (3, why) => ConsoleEnd::Failed(text(why)),
                _ => return Err(wrong),
            }),
            _ => return Ok(None),
        };
        Ok(Some(frame))
    }
}

impl WireFrame for ClientFrame {
    fn parts(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Input(bytes) => (1, bytes.clone()),
            Self::Resize { columns, rows } => (2, [columns.to_be_bytes(), rows.to_be_bytes()].concat()),
            Self::AskPen => (3, Vec::new()),
        }
    }

    fn from_parts(kind: u8, content: &[u8]) -> Result<Option<Self>, FrameError> {
        let wrong = FrameError { kind, length: content.len() };
        match (kind, content) {
            (1, bytes) if bytes.len() <= MAX_INPUT => Ok(Some(Self::Input(bytes.to_vec()))),
            (2, &[c0, c1, r0, r1]) => Ok(Some(Self::Resize {
                columns: u16::from_be_bytes([c0, c1]),
                rows: u16::from_be_bytes([r0, r1]),
            })),
            (3, []) => Ok(Some(Self::AskPen)),
            (1..=3, _) => Err(wrong),
            (_, _) => Ok(None),
        }
    }
}

fn number(content: &[u8]) -> Option<u64> {
    content.try_into().ok().map(u64::from_be_bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads frames one by one. It holds one frame and what was read beyond it at most.
#[derive(Debug)]
pub struct FrameReader<R> {
    from: R,
    bytes: Vec<u8>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `from`.
    pub fn new(from: R) -> Self {
        Self { from, bytes: Vec::new() }
    }

    /// The next frame of a kind that is known; `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// Reading fails, it ends within a frame, or what comes is no frame.
    pub async fn next<F: WireFrame>(&mut self) -> io::Result<Option<F>> {
        loop {
            while let Some((kind, content)) = self.take_frame() {
                let frame = F::from_parts(kind, &content);
                if let Some(frame) =
                    frame.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
                {
                    return Ok(Some(frame));
                }
            }
            if self.from.read_buf(&mut self.bytes).await? == 0 {
                return if self.bytes.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let [kind, high, low, rest @ ..] = self.bytes.as_slice() else { return None };
        let content = rest.get(..usize::from(u16::from_be_bytes([*high, *low])))?.to_vec();
        let kind = *kind;
        self.bytes.drain(..HEADER + content.len());
        Some((kind, content))
    }
}

#[cfg(test)]
mod tests;
