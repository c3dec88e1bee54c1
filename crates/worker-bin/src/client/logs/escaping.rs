//! A guest's text, line by line, made fit for a terminal.

use crate::printable::is_disguise;

/// A line that does not end is shown after so many bytes.
const LONGEST_LINE: usize = 16 << 10;

/// Spells out what could command a terminal or change the look of other text. Colours (ECMA-48 §8.3.117, SGR) are left
/// out silently, because guests colour their logs.
#[derive(Debug, Default)]
pub(super) struct LineEscaper {
    line: Vec<u8>,
}

impl LineEscaper {
    /// What can be shown now that `bytes` were written.
    pub(super) fn escape(&mut self, bytes: &[u8]) -> String {
        let mut shown = String::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() >= LONGEST_LINE {
                shown.push_str(&escaped(&std::mem::take(&mut self.line)));
            }
        }
        shown
    }

    /// What is left when nothing follows.
    pub(super) fn finish(&mut self) -> String {
        escaped(&std::mem::take(&mut self.line))
    }
}

fn escaped(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let (body, end) = match text.strip_suffix('\n') {
        Some(body) => (body.trim_end_matches('\r'), "\n"),
        None => (text.as_ref(), ""),
    };
    let mut shown = String::with_capacity(text.len());
    let mut rest = body;
    while let Some(character) = rest.chars().next() {
        if let Some(after) = after_colour(rest) {
            rest = after;
            continue;
        }
        if character != '\t' && is_disguise(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
        rest = &rest[character.len_utf8()..];
    }
    shown.push_str(end);
    shown
}

/// What follows the colour that `text` begins with, if it does.
fn after_colour(text: &str) -> Option<&str> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    parameters
        .trim_start_matches(|character: char| character.is_ascii_digit() || character == ';')
        .strip_prefix('m')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_command_the_terminal() {
        let mut escaper = LineEscaper::default();
        assert_eq!(escaper.escape(b"\x1b[0;32m OK \x1b[0m\x1b[2Jb\r\n\ta\x07"), " OK \\u{1b}[2Jb\n");
        assert_eq!(escaper.escape("\u{202e}é\n".as_bytes()), "\ta\\u{7}\\u{202e}é\n");
        assert_eq!(escaper.escape(b"login: \xff"), "");
        assert_eq!(escaper.finish(), "login: \u{fffd}");
        assert_eq!(escaper.finish(), "");
    }

    #[test]
    fn characters_that_come_in_two_pieces_are_whole_and_endless_lines_are_shown() {
        let mut escaper = LineEscaper::default();
        let bytes = "é\n".as_bytes();
        let shown = escaper.escape(&bytes[..1]) + &escaper.escape(&bytes[1..]);
        assert_eq!(shown, "é\n");
        assert_eq!(escaper.escape(&vec![b'x'; LONGEST_LINE]).len(), LONGEST_LINE);
    }
}
