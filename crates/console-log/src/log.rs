//! A byte log of bounded size that keeps its beginning and its end. Pure.
//!
//! ```text
//! written:  0 ......... head limit ................... total - tail ......... total
//! kept:     [  the head  )          (  omitted  )      [      the tail        )
//! ```

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// How much of a console is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsoleLimits {
    /// Bytes kept from the beginning.
    pub head: usize,
    /// Bytes kept of what came last, after the head is full.
    pub tail: usize,
}

impl Default for ConsoleLimits {
    /// 1 MiB each. Memory is taken as output arrives.
    fn default() -> Self {
        Self { head: 1 << 20, tail: 1 << 20 }
    }
}

/// Everything that is kept of a console at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleSnapshot {
    /// Bytes written in all.
    pub total: u64,
    /// The first bytes.
    pub head: Vec<u8>,
    /// Bytes between head and tail that were dropped.
    pub omitted: u64,
    /// The latest bytes.
    pub tail: Vec<u8>,
}

/// A piece of a console's output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleChunk {
    /// Where the piece begins, counted from the first byte ever written.
    pub offset: u64,
    /// Bytes between the requested offset and this piece that are no longer kept.
    pub missed: u64,
    /// The piece; empty where nothing lies at or after the requested offset.
    pub bytes: Vec<u8>,
}

impl ConsoleChunk {
    /// The offset to read on from.
    pub fn next_offset(&self) -> u64 {
        self.offset.saturating_add(self.bytes.len() as u64)
    }
}

#[derive(Debug)]
pub(crate) struct ConsoleLog {
    limits: ConsoleLimits,
    total: u64,
    head: Vec<u8>,
    tail: VecDeque<u8>,
}

impl ConsoleLog {
    pub(crate) fn new(limits: ConsoleLimits) -> Self {
        Self { limits, total: 0, head: Vec::new(), tail: VecDeque::new() }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        let to_head = bytes.len().min(self.limits.head - self.head.len());
        let (first, rest) = bytes.split_at(to_head);
        if !first.is_empty() {
            let wanted =
                grown_capacity(self.head.capacity(), self.head.len() + first.len(), self.limits.head);
            self.head.reserve_exact(wanted - self.head.len());
            self.head.extend_from_slice(first);
        }
        // Of a write longer than the whole tail only the end can stay.
        let rest = &rest[rest.len().saturating_sub(self.limits.tail)..];
        if !rest.is_empty() {
            let surplus = (self.tail.len() + rest.len()).saturating_sub(self.limits.tail);
            self.tail.drain(..surplus);
            let wanted = grown_capacity(self.tail.capacity(), self.tail.len() + rest.len(), self.limits.tail);
            self.tail.reserve_exact(wanted - self.tail.len());
            self.tail.extend(rest);
        }
    }

    pub(crate) fn snapshot(&self) -> ConsoleSnapshot {
        ConsoleSnapshot {
            total: self.total,
            head: self.head.clone(),
            omitted: self.tail_start() - self.head.len() as u64,
            tail: self.tail.iter().copied().collect(),
        }
    }

    /// At most `limit` bytes from `offset` on, or from where the log has bytes again.
    pub(crate) fn read_from(&self, offset: u64, limit: usize) -> ConsoleChunk {
        let mut bytes = Vec::new();
        let begin = self.copy_from(offset, limit, &mut bytes);
        ConsoleChunk { offset: begin, missed: begin - offset, bytes }
    }

    /// As [`ConsoleLog::read_from`], into `bytes`, whose content is replaced. Answers where they begin.
    pub(crate) fn copy_from(&self, offset: u64, limit: usize, bytes: &mut Vec<u8>) -> u64 {
        bytes.clear();
        if offset < self.head.len() as u64 {
            let kept = from(&self.head, usize::try_from(offset).unwrap_or(usize::MAX));
            bytes.extend_from_slice(&kept[..kept.len().min(limit)]);
            return offset;
        }
        let begin = offset.max(self.tail_start());
        let skipped = usize::try_from(begin - self.tail_start()).unwrap_or(usize::MAX);
        let (front, back) = self.tail.as_slices();
        let pieces = [from(front, skipped), from(back, skipped.saturating_sub(front.len()))];
        for piece in pieces {
            bytes.extend_from_slice(&piece[..piece.len().min(limit - bytes.len())]);
        }
        begin
    }

    /// The latest bytes, at most `limit`, without a gap in them.
    pub(crate) fn latest(&self, limit: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let from_tail = limit.min(self.tail.len());
        if self.tail_start() == self.head.len() as u64 {
            let from_head = (limit - from_tail).min(self.head.len());
            bytes.extend_from_slice(&self.head[self.head.len() - from_head..]);
        }
        bytes.extend(self.tail.range(self.tail.len() - from_tail..));
        bytes
    }

    fn tail_start(&self) -> u64 {
        self.total - self.tail.len() as u64
    }
}

/// `bytes` without the first `count`.
fn from(bytes: &[u8], count: usize) -> &[u8] {
    bytes.get(count..).unwrap_or_default()
}

/// Doubles `capacity` until `needed` fits, but never beyond `limit`, so that a full log takes what it was
/// allowed and no more. `needed` is at most `limit`.
fn grown_capacity(capacity: usize, needed: usize, limit: usize) -> usize {
    if needed <= capacity { capacity } else { capacity.saturating_mul(2).max(needed).max(256).min(limit) }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn log_of(limits: ConsoleLimits, writes: &[Vec<u8>]) -> (ConsoleLog, Vec<u8>) {
        let mut log = ConsoleLog::new(limits);
        for write in writes {
            log.append(write);
        }
        (log, writes.concat())
    }

    proptest! {
        #[test]
        fn keeps_what_a_naive_log_would(
            head in 0..20usize,
            tail in 0..20usize,
            writes in vec(vec(any::<u8>(), 0..30), 0..12),
            offset in 0..400u64,
            limit in 0..40usize,
        ) {
            let (log, all) = log_of(ConsoleLimits { head, tail }, &writes);
            let kept_head = &all[..all.len().min(head)];
            let after_head = &all[kept_head.len()..];
            let kept_tail = &after_head[after_head.len().saturating_sub(tail)..];
            let omitted = after_head.len() - kept_tail.len();
            prop_assert_eq!(log.snapshot(), ConsoleSnapshot {
                total: all.len() as u64,
                head: kept_head.to_vec(),
                omitted: omitted as u64,
                tail: kept_tail.to_vec(),
            });

            let chunk = log.read_from(offset, limit);
            prop_assert!(chunk.bytes.len() <= limit);
            prop_assert_eq!(chunk.offset, offset + chunk.missed);
            let begin = usize::try_from(chunk.offset).expect("small");
            if !chunk.bytes.is_empty() {
                prop_assert_eq!(&chunk.bytes[..], &all[begin..begin + chunk.bytes.len()]);
            }
            let is_kept = |at: u64| {
                let at = usize::try_from(at).expect("small");
                at < kept_head.len() || (at >= all.len() - kept_tail.len() && at < all.len())
            };
            prop_assert!((offset..chunk.offset).all(|at| !is_kept(at)), "missed only what is gone");

            let latest = log.latest(limit);
            prop_assert!(all.ends_with(&latest));
            if omitted == 0 {
                prop_assert_eq!(latest.len(), limit.min(all.len()));
            }
        }

        #[test]
        fn a_reader_sees_every_kept_byte_once_and_in_order(
            writes in vec(vec(any::<u8>(), 0..30), 0..12),
            limit in 1..16usize,
        ) {
            let (log, all) = log_of(ConsoleLimits { head: 16, tail: 16 }, &writes);
            let (mut offset, mut seen, mut missed) = (0, Vec::new(), 0);
            loop {
                let chunk = log.read_from(offset, limit);
                missed += chunk.missed;
                if chunk.bytes.is_empty() {
                    break;
                }
                offset = chunk.next_offset();
                seen.extend(chunk.bytes);
            }
            let snapshot = log.snapshot();
            prop_assert_eq!(seen, [snapshot.head, snapshot.tail].concat());
            prop_assert_eq!(missed, snapshot.omitted);
            prop_assert_eq!(offset, all.len() as u64);
        }
    }

    #[test]
    fn takes_memory_as_output_arrives_and_no_more_than_allowed() {
        let limits = ConsoleLimits::default();
        let mut log = ConsoleLog::new(limits);
        assert_eq!(log.head.capacity() + log.tail.capacity(), 0);
        log.append(b"hello");
        assert!(log.head.capacity() <= 256);
        for _ in 0..3000 {
            log.append(&[b'x'; 1000]);
        }
        assert_eq!(log.head.capacity(), limits.head);
        assert_eq!(log.tail.capacity(), limits.tail);
    }
}
