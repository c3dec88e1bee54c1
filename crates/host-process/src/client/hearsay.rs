//! What a process says, where it is repeated: in the log, and in the reason why a machine ended.

/// The most characters of it.
const REPEATED_MAX: usize = 512;

/// `text` as far as it is a line of plain text of a length that nobody minds. A process that was broken into says what it
/// likes, 16 MiB at a time.
pub(super) fn repeated(text: &str) -> String {
    text.chars().filter(|character| matches!(character, ' '..='~')).take(REPEATED_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repeated_is_one_short_line() {
        assert_eq!(repeated("it\n said\x1b[2J: \u{e9}t\u{e9}"), "it said[2J: t");
        assert_eq!(repeated(&"long".repeat(1 << 20)).len(), REPEATED_MAX);
    }
}
