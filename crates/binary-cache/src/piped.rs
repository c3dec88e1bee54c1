//! Decompressing on a thread of its own: what hashes and writes an archive runs beside it.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// How much is handed over at once.
const PIECE: usize = 256 << 10;
/// Pieces that wait, at most.
const DEPTH: usize = 8;

/// What comes from the thread that reads: a piece, or why no more comes. Its end is the end of what was read.
type Piece = io::Result<Vec<u8>>;

/// Has `produce` pass on, on a thread of its own, what `consume` reads here; what `consume` makes of it. Both have ended when
/// this returns: where `consume` leaves something unread, after the read that `produce` was in.
pub(crate) fn piped<T>(
    produce: impl FnOnce(&mut PieceSender) + Send,
    consume: impl FnOnce(PieceReader) -> T,
) -> io::Result<T> {
    let (sender, pieces) = sync_channel(DEPTH);
    thread::scope(|scope| {
        let mut sender = PieceSender(sender);
        let producer = thread::Builder::new().name("decompress".to_owned());
        let producer = producer.spawn_scoped(scope, move || produce(&mut sender))?;
        let made = consume(PieceReader { pieces, current: Vec::new(), read: 0 });
        match producer.join() {
            Ok(()) => Ok(made),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// What pieces are passed on by.
pub(crate) struct PieceSender(SyncSender<Piece>);

impl PieceSender {
    /// Passes on all that `source` has, or why it has no more; `count` is told how much that is so far.
    pub(crate) fn pass_on(&mut self, mut source: impl Read, mut count: impl FnMut(u64)) {
        let mut total = 0;
        loop {
            let mut piece = vec![0; PIECE];
            let filled = fill(&mut source, &mut piece);
            let (length, failure) = match filled {
                Ok(length) => (length, None),
                Err((length, error)) => (length, Some(error)),
            };
            total += length as u64;
            count(total);
            piece.truncate(length);
            let is_wanted = length == 0 || self.0.send(Ok(piece)).is_ok();
            if let Some(error) = failure {
                self.fail(error);
                return;
            }
            if length == 0 || !is_wanted {
                return;
            }
        }
    }

    /// Passes on why nothing comes.
    pub(crate) fn fail(&mut self, error: io::Error) {
        // Who reads no longer needs no reason.
        let _ = self.0.send(Err(error));
    }
}

/// Reads until `piece` is full or there is no more; how much that was.
fn fill(source: &mut impl Read, piece: &mut [u8]) -> Result<usize, (usize, io::Error)> {
    let mut filled = 0;
    while filled < piece.len() {
        match source.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((filled, error)),
        }
    }
    Ok(filled)
}

/// What was passed on, to be read.
pub(crate) struct PieceReader {
    pieces: Receiver<Piece>,
    current: Vec<u8>,
    read: usize,
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.current.len() {
            match self.pieces.recv() {
                Ok(piece) => (self.current, self.read) = (piece?, 0),
                Err(_) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len() - self.read);
        buffer[..count].copy_from_slice(&self.current[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_comes_in_order_and_then_the_end_or_the_fault() {
        let data: Vec<u8> = (0..3_000_001_u32).map(|number| number.to_le_bytes()[1]).collect();
        let read_all = |mut reader: PieceReader| {
            let mut all = Vec::new();
            let ended = reader.read_to_end(&mut all);
            (all, ended.map(drop))
        };
        let (all, ended) = piped(|sender| sender.pass_on(&data[..], |_| {}), read_all).expect("a thread");
        assert!(all == data && ended.is_ok());
        let mut counted = 0;
        let faulty = (&data[..]).chain(Faulty);
        let piped = piped(|sender| sender.pass_on(faulty, |count| counted = count), read_all);
        let (all, ended) = piped.expect("a thread");
        assert!(all == data && counted == data.len() as u64);
        assert_eq!(ended.expect_err("it breaks").kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn who_reads_no_more_is_sent_no_more() {
        let first = piped(
            |sender| sender.pass_on(io::repeat(7), |_| {}),
            |mut reader| {
                let mut first = [0; 3];
                reader.read_exact(&mut first).map(|()| first)
            },
        );
        assert_eq!(first.expect("a thread").expect("read"), [7; 3]);
    }

    struct Faulty;

    impl Read for Faulty {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
}
