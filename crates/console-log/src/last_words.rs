//! Notices in the bytes of a console that Linux panicked and stands still. Pure.

/// What Linux prints at the end of a panic after which it neither resets nor powers off (`panic()` in kernel/panic.c).
pub(crate) const PANIC_END: &str = "---[ end Kernel panic - not syncing";

/// The words as bytes.
const WORDS: &[u8] = PANIC_END.as_bytes();

/// For each count of matched bytes the count that still matches when the next byte does not (Knuth, Morris, Pratt).
const FALLBACK: [usize; WORDS.len() + 1] = fallback();

const fn fallback() -> [usize; WORDS.len() + 1] {
    let mut table = [0; WORDS.len() + 1];
    let mut matched = 0;
    let mut at = 1;
    while at < WORDS.len() {
        while matched > 0 && WORDS[matched] != WORDS[at] {
            matched = table[matched];
        }
        if WORDS[matched] == WORDS[at] {
            matched += 1;
        }
        at += 1;
        table[at] = matched;
    }
    table
}

/// Looks for the line with a panic's last words in what one boot writes, however the bytes are cut into pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LastWords {
    /// How many bytes of the words end what was written; all of them from when they are there.
    matched: usize,
    found: bool,
}

impl LastWords {
    /// Takes notice of the next bytes. True once a boot: when the line with the words has ended, which says why.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> bool {
        if self.found {
            return false;
        }
        self.found = bytes.iter().any(|byte| self.step(*byte));
        self.found
    }

    /// Whether the line with the words ends with `byte`.
    fn step(&mut self, byte: u8) -> bool {
        if self.matched == WORDS.len() {
            return byte == b'\n';
        }
        while self.matched > 0 && WORDS[self.matched] != byte {
            self.matched = FALLBACK[self.matched];
        }
        self.matched += usize::from(WORDS[self.matched] == byte);
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Text that is made of beginnings of the words, and of other things.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let beginning = (0..=WORDS.len()).prop_map(|count| WORDS[..count].to_vec());
        let part = prop_oneof![8 => beginning, 1 => Just(b"-".to_vec()), 2 => Just(b"\n".to_vec()), 1 => vec(any::<u8>(), 0..4)];
        vec(part, 0..6).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn their_line_is_found_once_wherever_pieces_end(text in text(), piece in 1..50usize) {
            let words = text.windows(WORDS.len()).position(|window| window == WORDS);
            let end = |at: usize| text[at..].iter().position(|byte| *byte == b'\n').map(|more| at + more);
            let there = words.and_then(|at| end(at + WORDS.len()));
            let (mut words, mut found) = (LastWords::default(), Vec::new());
            for (number, piece) in text.chunks(piece).enumerate() {
                if words.feed(piece) {
                    found.push(number);
                }
            }
            let expected = there.map(|at| at / piece);
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_line_of_linux_is_recognised_byte_by_byte() {
        let mut words = LastWords::default();
        let line = b"[    1.1] ---[ end Kernel panic - not syncing: x ]---\r\n";
        assert_eq!(line.iter().filter(|byte| words.feed(&[**byte])).count(), 1);
        assert!(!words.feed(line), "once a boot");
        assert!(!LastWords::default().feed(b"[    1.0] Kernel panic - not syncing: x\r\n"));
    }
}
