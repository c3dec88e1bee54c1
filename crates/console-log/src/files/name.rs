//! The names of segments. Pure.

use std::fmt;

/// The end of every name.
const SUFFIX: &str = ".log";

/// Which bytes a segment's file holds: of which boot, and from which offset within the boot on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentName {
    pub(super) boot: u32,
    pub(super) offset: u64,
}

impl SegmentName {
    /// The segment of this name; `None` for every name that [`SegmentName`] would not print like this.
    pub(super) fn parse(name: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(name).ok()?;
        let (boot, offset) = text.strip_suffix(SUFFIX)?.split_once('.')?;
        let parsed = Self { boot: boot.parse().ok()?, offset: offset.parse().ok()? };
        // Numbers can be written in more than one way; one name a segment.
        (parsed.to_string() == text).then_some(parsed)
    }
}

/// Numbers are padded so that names sort in the order of the bytes.
impl fmt::Display for SegmentName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04}.{:012}{SUFFIX}", self.boot, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_parse_back(boot: u32, offset: u64) {
            let name = SegmentName { boot, offset };
            prop_assert_eq!(SegmentName::parse(name.to_string().as_bytes()), Some(name));
        }

        #[test]
        fn what_parses_is_printed_the_same(name in "[0-9+. ]{0,8}[.][0-9+. ]{0,14}[.]log") {
            if let Some(parsed) = SegmentName::parse(name.as_bytes()) {
                prop_assert_eq!(parsed.to_string(), name);
            }
        }

        #[test]
        fn any_bytes_are_borne(name: Vec<u8>) {
            let _ = SegmentName::parse(&name);
        }
    }

    #[test]
    fn other_names_are_no_segments() {
        assert_eq!(SegmentName::parse(b"0003.000000000512.log"), Some(SegmentName { boot: 3, offset: 512 }));
        for other in [
            &b"3.512.log"[..],
            b"+003.000000000512.log",
            b"00003.000000000512.log",
            b"0003.000000000512.log~",
            b"0003.000000000512.LOG",
            b"0003.-00000000512.log",
            b"99999999999.000000000000.log",
            b"0003.99999999999999999999999.log",
            b"0003.log",
            b"..",
            b"\xff.log",
        ] {
            assert_eq!(SegmentName::parse(other), None, "{}", String::from_utf8_lossy(other));
        }
    }
}
