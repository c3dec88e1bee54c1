//! Text that others had a hand in (guests, files, artifacts), made fit to stand in a line.

use std::fmt::{self, Write};

pub(crate) use vm_model::{is_disguise, printable, printable_json};

/// Like [`printable`], but `text` may have several lines.
pub(crate) fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
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
        assert_eq!(printable_lines("a\r\nb\x07"), "a\nb\\u{7}");
        let mut written = String::new();
        write!(PrintableWriter(&mut written), "{}-{}", "a\n".to_owned(), 7).expect("strings take everything");
        assert_eq!(written, "a\\n-7");
    }
}
