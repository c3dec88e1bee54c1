//! Console bytes made readable: lossy UTF-8, without terminal control, in lines of bearable length. Pure.

/// The longest line that is given out, in characters; a longer one ends in `…`.
const LINE_LIMIT: usize = 400;

/// How many bytes back lines are looked for. More than any screenful, little enough to decode at once.
pub(crate) const LINES_WINDOW: usize = 64 << 10;

/// The last `count` lines of `bytes` that are not blank, oldest first.
///
/// Control characters and escape sequences (ECMA-48 §5.4, §5.6) are dropped. A carriage return ends a line like a
/// line feed does.
pub(crate) fn last_lines(bytes: &[u8], count: usize) -> Vec<String> {
    let mut stripper = Stripper::Text;
    let text: String =
        String::from_utf8_lossy(bytes).chars().filter_map(|character| stripper.step(character)).collect();
    let mut lines: Vec<String> = text
        .split('\n')
        .rev()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .take(count)
        .map(shortened)
        .collect();
    lines.reverse();
    lines
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(LINE_LIMIT) {
        None => line.to_owned(),
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}

/// Where in an escape sequence the text stands. A line's end leaves every sequence, so that a truncated one
/// swallows no more than its line.
#[derive(Clone, Copy)]
enum Stripper {
    Text,
    /// After ESC.
    Escape,
    /// In a control sequence, up to its final byte.
    Sequence,
    /// In a command string (OSC, DCS and the like), up to its terminator.
    CommandString,
}

impl Stripper {
    fn step(&mut self, character: char) -> Option<char> {
        if matches!(character, '\n' | '\r') {
            *self = Self::Text;
            return Some('\n');
        }
        let (next, shown) = match (*self, character) {
            (_, '\u{1b}') => (Self::Escape, None),
            (Self::Text, '\t') => (Self::Text, Some(' ')),
            (Self::Text, character) => (Self::Text, (!character.is_control()).then_some(character)),
            (Self::Escape, '[') => (Self::Sequence, None),
            (Self::Escape, ']' | 'P' | 'X' | '^' | '_') => (Self::CommandString, None),
            // Intermediate bytes: one more is to come, as in the choice of a character set.
            (Self::Escape, ' '..='/') => (Self::Escape, None),
            (Self::Escape, _) => (Self::Text, None),
            (Self::Sequence, '\u{40}'..='\u{7e}') => (Self::Text, None),
            (Self::Sequence, _) => (Self::Sequence, None),
            (Self::CommandString, '\u{07}') => (Self::Text, None),
            (Self::CommandString, _) => (Self::CommandString, None),
        };
        *self = next;
        shown
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn terminal_control_is_dropped() {
        let bytes = b"\x1b[2J\x1b[01;32mroot@vm\x1b[0m:~# ls\r\n\x1b]0;title\x07a\tb\x08\x1b(Bc\r\n\r\n";
        assert_eq!(last_lines(bytes, 9), ["root@vm:~# ls", "a bc"]);
    }

    #[test]
    fn only_the_last_lines_are_given_oldest_first() {
        assert_eq!(last_lines(b"one\ntwo\nthree", 2), ["two", "three"]);
        assert_eq!(last_lines(b"", 2), [""; 0]);
    }

    #[test]
    fn an_unfinished_sequence_swallows_no_more_than_its_line() {
        assert_eq!(last_lines(b"\x1b]0;never ended\npanic", 9), ["panic"]);
    }

    #[test]
    fn bytes_that_are_no_text_and_endless_lines_are_bearable() {
        assert_eq!(last_lines(b"\xff\xfeok", 1), ["\u{fffd}\u{fffd}ok"]);
        let endless = "é".repeat(5000);
        let lines = last_lines(endless.as_bytes(), 1);
        assert_eq!(lines[0].chars().count(), LINE_LIMIT + 1);
        assert!(lines[0].ends_with("é…"));
    }

    proptest! {
        #[test]
        fn any_bytes_give_printable_lines(bytes: Vec<u8>, count in 0..10usize) {
            let lines = last_lines(&bytes, count);
            prop_assert!(lines.len() <= count);
            for line in lines {
                prop_assert!(!line.is_empty() && !line.chars().any(char::is_control));
            }
        }
    }
}
