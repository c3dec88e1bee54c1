//! Where things lie in the transport's one BAR. Doorbells and the MSI-X table have pages of their own.
//!
//! ```text
//! 0x0000 common │ 0x0100 ISR │ 0x0200 device ┊ 0x1000 notify ┊ 0x2000 MSI-X table ┊ 0x3000 MSI-X pending
//! ```

use super::registers::COMMON_BYTES;
use crate::pci::{MSIX_TABLE_ENTRY_BYTES, MSIX_VECTORS_MAX};

/// Bytes of the BAR.
pub const BAR_BYTES: u64 = 0x4000;

/// Bytes between the notification addresses of two queues (virtio 1.2 §4.1.4.4).
pub(super) const NOTIFY_MULTIPLIER: u32 = 4;
/// The most queues whose notification addresses fit.
pub(super) const QUEUES_MAX: u16 = 1024;

/// A part of the BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Common,
    Isr,
    Device,
    Notify,
    MsixTable,
    MsixPending,
}

impl Part {
    const ALL: [Self; 6] =
        [Self::Common, Self::Isr, Self::Device, Self::Notify, Self::MsixTable, Self::MsixPending];

    /// Where it starts.
    pub(super) const fn offset(self) -> u32 {
        match self {
            Self::Common => 0x0000,
            Self::Isr => 0x0100,
            Self::Device => 0x0200,
            Self::Notify => 0x1000,
            Self::MsixTable => 0x2000,
            Self::MsixPending => 0x3000,
        }
    }

    /// Its largest length.
    pub(super) const fn bytes(self) -> u32 {
        match self {
            Self::Common => COMMON_BYTES,
            Self::Isr => 1,
            Self::Device => 0x0e00,
            Self::Notify => QUEUES_MAX as u32 * NOTIFY_MULTIPLIER,
            Self::MsixTable => MSIX_VECTORS_MAX as u32 * MSIX_TABLE_ENTRY_BYTES,
            Self::MsixPending => MSIX_VECTORS_MAX as u32 / 8,
        }
    }

    /// The part that `offset` of the BAR is in, and the offset in that.
    pub(super) fn at(offset: u64) -> Option<(Self, u64)> {
        Self::ALL.into_iter().find_map(|part| {
            let inside = offset.checked_sub(part.offset().into())?;
            (inside < part.bytes().into()).then_some((part, inside))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_without_overlap_and_end_in_the_bar() {
        let ends = Part::ALL.map(|part| u64::from(part.offset()) + u64::from(part.bytes()));
        for (end, next) in ends.iter().zip(&Part::ALL[1..]) {
            assert!(*end <= next.offset().into(), "{next:?}");
        }
        assert!(ends[5] <= BAR_BYTES);
        assert_eq!(Part::at(0x1008), Some((Part::Notify, 8)));
        assert_eq!(Part::at(0x0101), None);
        assert_eq!(Part::at(u64::MAX), None);
    }
}
