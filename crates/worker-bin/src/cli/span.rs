//! Spans of time back from now.

use std::str::FromStr;
use std::time::Duration;

/// A span of time back from now, like `90`, `90s`, `10m`, `2h` or `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (digits, unit) = match text.char_indices().last() {
            Some((end, 's')) => (&text[..end], 1),
            Some((end, 'm')) => (&text[..end], 60),
            Some((end, 'h')) => (&text[..end], 3600),
            Some((end, 'd')) => (&text[..end], 86_400),
            Some(_) | None => (text, 1),
        };
        let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        seconds
            .map(|seconds| Self(Duration::from_secs(seconds)))
            .ok_or("a span like 90s, 10m, 2h or 7d is accepted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("7d", 604_800)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_secs(seconds))), "{text}");
        }
        for text in ["", "m", "-1s", "1.5h", "1w", "99999999999999999999d"] {
            text.parse::<Span>().expect_err(text);
        }
    }
}
