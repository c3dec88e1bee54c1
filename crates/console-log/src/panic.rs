//! How a console tells that the guest's kernel gave up. Pure.

use crate::last_words::PANIC_END;

/// How Linux announces that it gave up (`panic()` in kernel/panic.c).
const PANIC: &str = "Kernel panic - not syncing";

/// How the line with its last words ends.
const LAST: &str = " ]---";

/// Lines of console that are worth looking through for a panic: its call trace follows it.
pub const PANIC_LINES: usize = 120;

/// A kernel that gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelPanic {
    /// The line that says so, counted from 0: the last announcement, or the last word of one that scrolled away.
    pub line: usize,
}

impl KernelPanic {
    /// What `lines` of one boot's console, oldest first, tell of a panic.
    pub fn find(lines: &[String]) -> Option<Self> {
        let end = lines.iter().rposition(|line| line.contains(PANIC_END));
        let announced = lines.iter().rposition(|line| line.contains(PANIC) && !line.contains(PANIC_END));
        announced.or(end).map(|line| Self { line })
    }

    /// Whether `lines` have the last words of a panic to their end, after which nothing comes. Kernels before Linux 4.20 end
    /// them otherwise: of those it is never said.
    pub fn is_told_to_its_end(lines: &[String]) -> bool {
        lines.iter().any(|line| line.contains(PANIC_END) && line.trim_end().ends_with(LAST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_found_where_it_was_announced() {
        let lines = [
            "[ 1.0] Kernel panic - not syncing: x",
            "[ 1.0] CPU: 0 PID: 1",
            "[ 1.1] ---[ end Kernel panic - not syncing: x ]---",
            "login:",
        ]
        .map(str::to_owned);
        let panic = |line| Some(KernelPanic { line });
        assert_eq!(KernelPanic::find(&lines), panic(0));
        assert_eq!(KernelPanic::find(&lines[..2]), panic(0));
        assert_eq!(KernelPanic::find(&lines[1..]), panic(1));
        assert_eq!(KernelPanic::find(&lines[3..]), None);
    }

    #[test]
    fn a_line_that_has_come_in_part_is_not_the_end() {
        let whole = "[ 1.1] ---[ end Kernel panic - not syncing: Fatal exception in interrupt ]---";
        for length in 0..whole.len() {
            assert!(!KernelPanic::is_told_to_its_end(&[whole[..length].to_owned()]), "{length} bytes");
        }
        assert!(KernelPanic::is_told_to_its_end(&[whole.to_owned()]));
    }
}
