//! How many tests passed, failed and were skipped, read off what test runners print.

use std::fmt;
use std::ops::AddAssign;

/// Counts of one or more test runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    /// Reads the line with which libtest closes an executable's run. A test that a filter left out was not asked for;
    /// only ignored ones count as skipped. Where nextest shows what one of its tests printed, that line is indented, and
    /// counted by nextest itself.
    pub(crate) fn from_libtest_line(line: &str) -> Option<Self> {
        let (_, figures) = line.strip_prefix("test result: ")?.split_once(". ")?;
        Some(Self {
            passed: figure(figures, "passed")?,
            failed: figure(figures, "failed")?,
            skipped: figure(figures, "ignored")?,
        })
    }

    /// Reads the line with which nextest closes a run.
    pub(crate) fn from_nextest_line(line: &str) -> Option<Self> {
        let (_, figures) = line.trim().strip_prefix("Summary [")?.split_once(" run: ")?;
        let count = |what| figure(figures, what).unwrap_or(0);
        Some(Self {
            passed: count("passed"),
            failed: count("failed") + count("exec failed") + count("timed out"),
            skipped: count("skipped"),
        })
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The number before a word in a list like `3 passed; 1 failed` or `3 passed (1 slow), 1 failed`.
fn figure(list: &str, what: &str) -> Option<u64> {
    list.split([';', ',']).find_map(|item| {
        let (number, word) = item.trim().split_once(' ')?;
        let word = word.split(" (").next().unwrap_or(word);
        (word == what).then(|| number.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_libtest_summary_is_read() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 7 filtered out; finished in 0.52s";
        assert_eq!(
            Counts::from_libtest_line(line),
            Some(Counts { passed: 3, failed: 1, skipped: 2 }),
            "filtered tests do not count"
        );
        assert_eq!(Counts::from_libtest_line("test result_is_kept ... ok"), None);
        assert_eq!(Counts::from_libtest_line(&format!("    {line}")), None, "shown by nextest");
    }

    #[test]
    fn a_nextest_summary_is_read() {
        let clean = "     Summary [   0.113s] 14 tests run: 14 passed, 0 skipped";
        assert_eq!(Counts::from_nextest_line(clean), Some(Counts { passed: 14, failed: 0, skipped: 0 }));
        let mixed =
            "     Summary [   9.2s] 9/12 tests run: 5 passed (2 slow), 3 failed, 1 timed out, 4 skipped";
        assert_eq!(Counts::from_nextest_line(mixed), Some(Counts { passed: 5, failed: 4, skipped: 4 }));
        let flaky = "     Summary [   9.2s] 9 tests run: 9 passed (2 slow, 1 flaky), 0 skipped";
        assert_eq!(Counts::from_nextest_line(flaky), Some(Counts { passed: 9, failed: 0, skipped: 0 }));
        assert_eq!(Counts::from_nextest_line("        PASS [   0.005s] vm-model id::tests::x"), None);
    }

    #[test]
    fn the_closing_line_has_its_documented_form() {
        let mut sum = Counts { passed: 1200, failed: 0, skipped: 0 };
        sum += Counts { passed: 34, failed: 0, skipped: 0 };
        assert_eq!(sum.to_string(), "1234 passed, 0 failed, 0 skipped");
    }
}
