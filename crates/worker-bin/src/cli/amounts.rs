//! Sizes and spans of time as they are typed.

use std::str::FromStr;
use std::time::Duration;

use vm_model::{Bytes, MEMORY_LEAST, MEMORY_MOST, MEMORY_PAGE, is_possible_memory};

/// Bytes, from a number with K, M, G or T (powers of 1024) behind it or nothing.
pub(super) fn amount(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.trim_end_matches(['i', 'B']).char_indices().last() {
        Some((end, 'K' | 'k')) => (&text[..end], 10),
        Some((end, 'M' | 'm')) => (&text[..end], 20),
        Some((end, 'G' | 'g')) => (&text[..end], 30),
        Some((end, 'T' | 't')) => (&text[..end], 40),
        Some(_) | None => (text, 0),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "a size like 536870912, 512M, 2G or 1T is accepted".to_owned())
}

/// A machine's memory in bytes.
pub(super) fn machine_memory(text: &str) -> Result<u64, String> {
    let bytes = amount(text)?;
    if is_possible_memory(Bytes::new(bytes)) {
        return Ok(bytes);
    }
    let (least, most) = (MEMORY_LEAST.as_mib(), MEMORY_MOST.as_mib() >> 10);
    Err(format!("{least}M to {most}G is accepted, a multiple of {} bytes", MEMORY_PAGE.get()))
}

/// How many of something.
pub(super) fn count(text: &str) -> Result<usize, &'static str> {
    text.parse().map_err(|_| "a number like 0 or 100 is accepted")
}

/// One of the boots that are kept of a guest.
pub(super) fn boot(text: &str) -> Result<i64, &'static str> {
    text.parse().map_err(|_| "a number is accepted: a boot's own, 0 for the newest, -1 for the one before")
}

/// For how many seconds a guest's silence is waited for.
pub(super) fn silence(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "a whole number of seconds is accepted")
}

/// For how many seconds an operation is waited for.
pub(super) fn timeout(text: &str) -> Result<u64, &'static str> {
    let seconds = text.parse().ok().filter(|seconds| (1..=86_400).contains(seconds));
    seconds.ok_or("1 to 86400 seconds is accepted")
}

/// A span of time on the command line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seconds(pub(crate) Duration);

impl FromStr for Seconds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.parse::<f64>().ok().filter(|number| (0.1..=86_400.0).contains(number));
        let seconds = number.ok_or("a number of seconds from 0.1 to 86400 is accepted")?;
        Ok(Self(Duration::from_secs_f64(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        for (text, bytes) in
            [("4096", 4096), ("512M", 512 << 20), ("2GiB", 2 << 30), ("1k", 1024), ("1T", 1 << 40)]
        {
            assert_eq!(amount(text), Ok(bytes));
        }
        for text in ["", "0", "M", "-1", "1.5G", "512 M", "99999999999G"] {
            amount(text).expect_err(text);
        }
    }

    #[test]
    fn what_is_no_number_is_refused_with_what_is_accepted() {
        assert_eq!(
            (count("0"), count("100"), boot("-1"), silence("0"), timeout("1")),
            (Ok(0), Ok(100), Ok(-1), Ok(0), Ok(1))
        );
        for text in ["abc", "-1", "1.5", ""] {
            assert!(count(text).is_err_and(|told| told.contains("like 0 or 100")), "{text}");
            assert!(silence(text).is_err_and(|told| told.contains("whole number")), "{text}");
        }
        assert!(boot("last").is_err_and(|told| told.contains("0 for the newest")));
        for text in ["0", "86401", "abc"] {
            assert!(timeout(text).is_err_and(|told| told.starts_with("1 to 86400 ")), "{text}");
        }
    }

    #[test]
    fn memory_that_no_machine_has_is_refused_with_what_one_has() {
        assert_eq!(machine_memory("16M"), Ok(16 << 20));
        let refused = |text: &str| machine_memory(text).expect_err(text);
        assert_eq!(refused("1K"), "16M to 16384G is accepted, a multiple of 4096 bytes");
        assert!(refused("16777217").contains("multiple"));
        assert!(refused("much").contains("512M"));
    }
}
