//! Frames over a stream of bytes, one of them on its way out at a time.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::{Instant, timeout_at};

use crate::codec::{FrameDecoder, FrameError};

/// What is read at once.
const CHUNK: usize = 32 << 10;

/// A connection of either kind.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A stream cut into frames.
pub(super) struct FramedStream {
    reader: ReadHalf<Box<dyn Duplex>>,
    writer: WriteHalf<Box<dyn Duplex>>,
    decoder: FrameDecoder,
    chunk: Box<[u8]>,
    outgoing: Outgoing,
}

enum Outgoing {
    Nothing,
    Bytes { bytes: Vec<u8>, written: usize },
    Flush,
}

/// What has happened on a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More bytes came.
    Received,
    /// The frames that were being sent are with the host.
    Sent,
    /// Some of them are.
    Sending,
    /// The other end sends no more.
    Ended,
}

impl FramedStream {
    pub(super) fn new(stream: impl Duplex + 'static) -> Self {
        let (reader, writer) = split(Box::new(stream) as Box<dyn Duplex>);
        let chunk = vec![0; CHUNK].into_boxed_slice();
        Self { reader, writer, decoder: FrameDecoder::new(), chunk, outgoing: Outgoing::Nothing }
    }

    /// Whether the frames before are with the host.
    pub(super) fn can_send(&self) -> bool {
        matches!(self.outgoing, Outgoing::Nothing)
    }

    /// Begins to send `bytes`, which are whole frames. Only where it can.
    pub(super) fn send(&mut self, bytes: Vec<u8>) {
        self.outgoing = Outgoing::Bytes { bytes, written: 0 };
    }

    /// The next whole frame that has come.
    pub(super) fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameError> {
        self.decoder.next_frame()
    }

    /// Reads, where `reading`, and writes what is to be written; returns at the first success. Cancel-safe.
    pub(super) async fn progress(&mut self, reading: bool) -> io::Result<Progress> {
        let is_sending = !self.can_send();
        // Both arms are cancel-safe: reading and writing once are, and so is flushing.
        tokio::select! {
            count = self.reader.read(&mut self.chunk), if reading => {
                let count = match count {
                    // The other end was killed, or its host: without TLS the same is an end like any other.
                    Err(problem) if problem.kind() == io::ErrorKind::UnexpectedEof => 0,
                    count => count?,
                };
                self.decoder.feed(self.chunk.get(..count).unwrap_or_default());
                Ok(if count == 0 { Progress::Ended } else { Progress::Received })
            }
            sent = write_some(&mut self.writer, &mut self.outgoing), if is_sending => sent,
            else => std::future::pending().await,
        }
    }

    /// Sends what is being sent, until `deadline` at most. Reads nothing. What cannot be sent is given up.
    pub(super) async fn sent_until(&mut self, deadline: Instant) -> io::Result<()> {
        let sending = async {
            while !self.can_send() {
                write_some(&mut self.writer, &mut self.outgoing).await?;
            }
            Ok(())
        };
        // It can go on where it was interrupted.
        let sent = timeout_at(deadline, sending).await.unwrap_or(Ok(()));
        if sent.is_err() {
            self.outgoing = Outgoing::Nothing;
        }
        sent
    }

    /// Sends what is being sent, says that nothing follows, and waits until the other end has heard it: closing a socket
    /// with unread bytes in it would take back what the other end has not read yet. Needs a deadline.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        while !self.can_send() {
            write_some(&mut self.writer, &mut self.outgoing).await?;
        }
        self.writer.shutdown().await?;
        while self.reader.read(&mut self.chunk).await? > 0 {}
        Ok(())
    }
}

async fn write_some(
    writer: &mut WriteHalf<Box<dyn Duplex>>,
    outgoing: &mut Outgoing,
) -> io::Result<Progress> {
    match outgoing {
        Outgoing::Nothing => Ok(Progress::Sent),
        Outgoing::Bytes { bytes, written } => {
            let count = writer.write(bytes.get(*written..).unwrap_or_default()).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            *written += count;
            if *written >= bytes.len() {
                *outgoing = Outgoing::Flush;
            }
            Ok(Progress::Sending)
        }
        Outgoing::Flush => {
            writer.flush().await?;
            *outgoing = Outgoing::Nothing;
            Ok(Progress::Sent)
        }
    }
}
