//! The bytes of an archive as they come from a cache, for a thread that reads them. A connection that breaks is made again and
//! goes on where it broke.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::CONTENT_RANGE;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::cache::HttpPlace;
use crate::http::{HttpClient, HttpError, LONGEST_SILENCE};

/// Pieces that wait for the thread that reads.
const DEPTH: usize = 16;
/// How often a connection is made again without a byte more.
const MOST_TRIES: u32 = 5;
/// What has to come a second on average, once a download has had [`GRACE`]: one that trickles would hold up all that waits for it.
const LEAST_RATE: u64 = 1024;
const GRACE: Duration = Duration::from_secs(60);
/// How long the first of these waits; each next one twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// What an archive is read from. Reading blocks: it belongs on a thread that may.
pub(crate) enum ArchiveReader {
    File(File),
    Pieces { pieces: mpsc::Receiver<Piece>, current: Bytes, has_ended: bool },
}

/// A part of a download.
pub(crate) enum Piece {
    Data(Bytes),
    /// All has come.
    End,
    Failed(HttpError),
}

/// Whether a fetch is given up: `true` is sent, or its sender is gone.
pub(crate) type GivenUp = watch::Receiver<bool>;

/// Whether `signal` says so.
pub(crate) fn is_given_up(signal: &GivenUp) -> bool {
    signal.has_changed().is_err() || *signal.borrow()
}

impl ArchiveReader {
    /// The file at `path`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self::File)
    }

    /// What lies at `place` from byte `from` on, in all `size` bytes where that is known. Belongs on a runtime. Ends when this
    /// is dropped or the fetch is given up, which is an error to who reads.
    pub(crate) fn download(
        client: Arc<HttpClient>,
        place: HttpPlace,
        (from, size): (u64, Option<u64>),
        mut given_up: GivenUp,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(DEPTH);
        let (received, begun) = (from, Instant::now());
        let download = Download { client, place, size, from, received, begun, sender };
        tokio::spawn(async move {
            // The download is dropped where the fetch is given up: nothing of it is of use then.
            tokio::select! {
                () = download.run() => {}
                _ = given_up.wait_for(|given_up| *given_up) => {}
            }
        });
        Self::Pieces { pieces, current: Bytes::new(), has_ended: false }
    }
}

impl Read for ArchiveReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (pieces, current, has_ended) = match self {
            Self::File(file) => return file.read(buffer),
            Self::Pieces { pieces, current, has_ended } => (pieces, current, has_ended),
        };
        while current.is_empty() && !*has_ended {
            match pieces.blocking_recv() {
                Some(Piece::Data(piece)) => *current = piece,
                Some(Piece::End) => *has_ended = true,
                Some(Piece::Failed(failure)) => return Err(io::Error::other(failure)),
                None => {
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the fetch was given up"));
                }
            }
        }
        let count = current.len().min(buffer.len());
        buffer[..count].copy_from_slice(&current.split_to(count));
        Ok(count)
    }
}

struct Download {
    client: Arc<HttpClient>,
    place: HttpPlace,
    size: Option<u64>,
    /// Where it began.
    from: u64,
    /// How far it is, counted from the archive's beginning.
    received: u64,
    begun: Instant,
    sender: mpsc::Sender<Piece>,
}

/// The reader is gone: what was read was enough.
struct Unwanted;

impl Download {
    async fn run(mut self) {
        let (mut tries, mut received) = (0, self.from);
        // All of it was there already.
        if self.size == Some(self.from) {
            let _ = self.sender.send(Piece::End).await;
            return;
        }
        loop {
            let failure = match self.stream().await {
                Ok(Ok(())) => {
                    let _ = self.sender.send(Piece::End).await;
                    return;
                }
                Ok(Err(failure)) => failure,
                Err(Unwanted) => return,
            };
            // Whoever sends a little each time is given as long as that takes.
            tries = if self.received > received { 1 } else { tries + 1 };
            received = self.received;
            if tries >= MOST_TRIES || !is_worth_another_try(&failure) {
                let _ = self.sender.send(Piece::Failed(failure)).await;
                return;
            }
            tracing::info!(url = %self.place, received, error = %failure, "a download goes on where it broke");
            sleep(FIRST_WAIT * 2_u32.pow(tries)).await;
        }
    }

    /// Passes on what comes, from where the last connection ended to the end.
    async fn stream(&mut self) -> Result<Result<(), HttpError>, Unwanted> {
        let mut answer = match self.client.get(&self.place, self.received).await {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(error)),
        };
        // A server that knows nothing of ranges sends what is there already once more.
        let mut known = match answer.response.status() {
            StatusCode::OK => self.received,
            StatusCode::PARTIAL_CONTENT if begins_at(&answer.response, self.received) => 0,
            other => return Ok(Err(HttpError::Status(other.as_u16()))),
        };
        loop {
            let frame = match timeout(LONGEST_SILENCE, answer.response.body_mut().frame()).await {
                Err(_) => return Ok(Err(HttpError::Silent(LONGEST_SILENCE))),
                Ok(None) => break,
                Ok(Some(Err(error))) => return Ok(Err(HttpError::Answer(error))),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(mut data) = frame.into_data() else { continue };
            let again = usize::try_from(known).unwrap_or(usize::MAX).min(data.len());
            known -= again as u64;
            let data = data.split_off(again);
            self.received += data.len() as u64;
            if is_too_slow(self.received - self.from, self.begun.elapsed()) {
                return Ok(Err(HttpError::Slow { least: LEAST_RATE, over: self.begun.elapsed() }));
            }
            if !data.is_empty() && self.sender.send(Piece::Data(data)).await.is_err() {
                return Err(Unwanted);
            }
        }
        self.client.keep(answer);
        Ok(match self.size {
            Some(size) if self.received < size => {
                Err(HttpError::Connection(io::Error::from(io::ErrorKind::UnexpectedEof)))
            }
            _ => Ok(()),
        })
    }
}

/// Whether the same request could go better. What a server says plainly it will say again.
fn is_worth_another_try(failure: &HttpError) -> bool {
    match failure {
        HttpError::Connection(_) | HttpError::Answer(_) | HttpError::Silent(_) => true,
        HttpError::Status(status) => matches!(status, 408 | 429 | 500..=599),
        HttpError::Slow { .. }
        | HttpError::Redirection(_)
        | HttpError::TooLong(_)
        | HttpError::Authorities { .. }
        | HttpError::NoDirectory(_)
        | HttpError::File(_)
        | HttpError::Request(_) => false,
    }
}

/// Whether `received` bytes are too few after `elapsed`.
fn is_too_slow(received: u64, elapsed: Duration) -> bool {
    elapsed > GRACE && received < LEAST_RATE.saturating_mul(elapsed.as_secs())
}

/// Whether a partial answer begins at byte `from` (RFC 9110 §14.4).
fn begins_at<B>(response: &hyper::Response<B>, from: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let start = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next());
    start.is_some_and(|start| start.parse() == Ok(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_given_up_after_a_while_and_a_slow_line_is_not() {
        assert!(!is_too_slow(0, Duration::from_secs(59)));
        assert!(is_too_slow(60, Duration::from_secs(61)));
        assert!(!is_too_slow(2 << 20, Duration::from_secs(1000)));
        assert!(is_too_slow(1000 << 10, Duration::from_secs(1001)));
    }
}
