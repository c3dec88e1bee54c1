//! Text that others had a hand in (guests, files, artifacts), made fit to stand in a line.

use std::fmt::{self, Write};

/// What may stand in a line: `text` must neither command a terminal nor look like another line or another text.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_disguise(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Like [`printable`], but `text` may have several lines.
pub(crate) fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// Whether a character has no form of its own but changes that of others: control characters, and Unicode's marks of
/// direction, separators of lines, invisible joiners and tags.
pub(crate) fn is_disguise(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Passes text on to another writer as [`printable`] shows it.
pub(crate) struct PrintableWriter<'a, W>(pub(crate) &'a mut W);

impl<W: Write> Write for PrintableWriter<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.contains(is_disguise) { self.0.write_str(&printable(text)) } else { self.0.write_str(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_other_characters_is_spelled_out() {
        assert_eq!(printable("a\nb\x1b[2J\u{9b}1m\u{202e}é"), "a\\nb\\u{1b}[2J\\u{9b}1m\\u{202e}é");
        assert_eq!(printable_lines("a\r\nb\x07"), "a\nb\\u{7}");
        let mut written = String::new();
        write!(PrintableWriter(&mut written), "{}-{}", "a\n".to_owned(), 7).expect("strings take everything");
        assert_eq!(written, "a\\n-7");
    }
}
