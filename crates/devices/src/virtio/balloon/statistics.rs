//! The guest's memory statistics (virtio 1.2 §5.5.6.3): tagged figures, all of them optional.

/// Bytes of a tag and its value.
const ENTRY_BYTES: usize = 10;
/// Bytes of a buffer that are looked at: several times the tags that exist.
pub(super) const STATISTICS_BYTES_MAX: usize = 64 * ENTRY_BYTES;

const FREE: u16 = 4;
const TOTAL: u16 = 5;
const AVAILABLE: u16 = 6;

/// The figures that are used here, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Statistics {
    pub(super) free: Option<u64>,
    pub(super) total: Option<u64>,
    pub(super) available: Option<u64>,
}

impl Statistics {
    /// Reads a buffer. Tags that mean nothing here are skipped, and so is an entry that is cut off. Of a tag that
    /// comes again the last one counts.
    pub(super) fn parse(buffer: &[u8]) -> Self {
        let mut statistics = Self::default();
        for entry in buffer.chunks_exact(ENTRY_BYTES) {
            let &[tag_low, tag_high, ref value @ ..] = entry else { continue };
            let Ok(value) = <[u8; 8]>::try_from(value) else { continue };
            let value = u64::from_le_bytes(value);
            // Linux writes all ones where it does not know.
            let value = (value != u64::MAX).then_some(value);
            match u16::from_le_bytes([tag_low, tag_high]) {
                FREE => statistics.free = value,
                TOTAL => statistics.total = value,
                AVAILABLE => statistics.available = value,
                _ => {}
            }
        }
        statistics
    }
}

#[cfg(test)]
pub(super) fn entry(tag: u16, value: u64) -> Vec<u8> {
    [tag.to_le_bytes().as_slice(), &value.to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_tags_are_taken_and_others_skipped() {
        let buffer =
            [entry(0, 1), entry(FREE, 2), entry(77, 3), entry(AVAILABLE, 4), entry(TOTAL, u64::MAX)].concat();
        let expected = Statistics { free: Some(2), total: None, available: Some(4) };
        assert_eq!(Statistics::parse(&buffer), expected);
        assert_eq!(Statistics::parse(&buffer[..25]), Statistics { free: Some(2), ..Default::default() });
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(buffer in proptest::collection::vec(any::<u8>(), 0..=STATISTICS_BYTES_MAX)) {
            let statistics = Statistics::parse(&buffer);
            let figures = [statistics.free, statistics.total, statistics.available];
            let known = figures.iter().flatten().count();
            prop_assert!(known <= buffer.len() / ENTRY_BYTES);
        }
    }
}
