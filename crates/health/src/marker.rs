//! Looks for a text in a stream of bytes, however it is cut into pieces. Pure.

/// A text that is looked for (Knuth, Morris, Pratt).
#[derive(Clone, Debug)]
pub(crate) struct MarkerMatcher {
    text: Vec<u8>,
    /// For each count of matched bytes the count that still matches when the next byte does not.
    fallback: Vec<usize>,
    /// How many bytes of the text end what was read.
    matched: usize,
    found: bool,
}

impl MarkerMatcher {
    /// Looks for `text`. An empty one is found in anything.
    pub(crate) fn new(text: &str) -> Self {
        let text = text.as_bytes().to_vec();
        let mut fallback = vec![0; text.len() + 1];
        let mut matched = 0;
        for at in 1..text.len() {
            while matched > 0 && text[matched] != text[at] {
                matched = fallback[matched];
            }
            matched += usize::from(text[matched] == text[at]);
            fallback[at + 1] = matched;
        }
        let found = text.is_empty();
        Self { text, fallback, matched: 0, found }
    }

    /// Takes notice of the next bytes; whether the text has been found by now.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> bool {
        self.found = self.found || bytes.iter().any(|byte| self.step(*byte));
        self.found
    }

    /// Begins another stream, in which nothing was found yet.
    pub(crate) fn restart(&mut self) {
        self.matched = 0;
        self.found = self.text.is_empty();
    }

    /// Bytes are missing here: what was matched before them does not count, unless all of it was.
    pub(crate) fn skip(&mut self) {
        self.matched = 0;
    }

    /// Whether the text is complete after `byte`.
    fn step(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.text[self.matched] != byte {
            self.matched = self.fallback[self.matched];
        }
        self.matched += usize::from(self.text[self.matched] == byte);
        self.matched == self.text.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_text_is_found_wherever_pieces_end(
            marker in "[ab]{1,5}", stream in "[abc]{0,60}", piece in 1..20usize,
        ) {
            let mut matcher = MarkerMatcher::new(&marker);
            let mut read = String::new();
            for piece in stream.as_bytes().chunks(piece) {
                read.push_str(std::str::from_utf8(piece).expect("ASCII"));
                prop_assert_eq!(matcher.feed(piece), read.contains(&marker));
            }
            matcher.restart();
            prop_assert!(!matcher.feed(b""));
            prop_assert_eq!(matcher.feed(stream.as_bytes()), stream.contains(&marker));
        }
    }

    #[test]
    fn nothing_is_found_across_a_gap() {
        let mut matcher = MarkerMatcher::new("login:");
        assert!(!matcher.feed(b"log"));
        matcher.skip();
        assert!(!matcher.feed(b"in:"));
        assert!(matcher.feed(b" login:"));
        assert!(MarkerMatcher::new("").feed(b""));
    }
}
