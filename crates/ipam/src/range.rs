//! Ranges of addresses that a pool gives nobody of its own accord.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnetwork::Ipv4Network;
use thiserror::Error;

use crate::PoolError;
use crate::subnet::LeasableSubnet;

/// Addresses from a first to a last one, both included. Reads `10.100.0.2-10.100.0.99`, `10.100.255.0/24` and
/// `10.100.0.7`, and is shown in the first form, or as one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressRange {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

/// Why a text names no [`AddressRange`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{text:?} is no range of addresses: ones like 10.100.0.2-10.100.0.99, 10.100.255.0/24 and 10.100.0.7 are accepted"
)]
pub struct InvalidAddressRange {
    text: String,
}

impl AddressRange {
    /// The addresses from `first` to `last`; `None` if the last one comes before the first.
    pub fn new(first: Ipv4Addr, last: Ipv4Addr) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The first address.
    pub fn first(self) -> Ipv4Addr {
        self.first
    }

    /// The last address.
    pub fn last(self) -> Ipv4Addr {
        self.last
    }

    fn numbers(self) -> (u32, u32) {
        (self.first.into(), self.last.into())
    }
}

impl FromStr for AddressRange {
    type Err = InvalidAddressRange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let range = if let Some((first, last)) = text.split_once('-') {
            first.parse().ok().zip(last.parse().ok()).and_then(|(first, last)| Self::new(first, last))
        } else if text.contains('/') {
            let network =
                text.parse::<Ipv4Network>().ok().filter(|network| network.ip() == network.network());
            network.and_then(|network| Self::new(network.network(), network.broadcast()))
        } else {
            text.parse().ok().and_then(|address| Self::new(address, address))
        };
        range.ok_or_else(|| InvalidAddressRange { text: text.chars().take(80).collect() })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(formatter, "{}", self.first)
        } else {
            write!(formatter, "{}-{}", self.first, self.last)
        }
    }
}

/// The leasable addresses of a subnet that are reserved: ordered, apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReservedRanges(Vec<(u32, u32)>);

impl ReservedRanges {
    /// Ranges may overlap, and may hold addresses of the subnet that are never leased.
    ///
    /// # Errors
    /// If a range has an address outside the subnet.
    pub(crate) fn new(subnet: LeasableSubnet, ranges: &[AddressRange]) -> Result<Self, PoolError> {
        if let Some(range) =
            ranges.iter().find(|range| !(subnet.contains(range.first) && subnet.contains(range.last)))
        {
            return Err(PoolError::ReservedOutside { range: *range, subnet: subnet.network() });
        }
        let (lowest, highest) = subnet.leasable().into_inner();
        let mut sorted: Vec<(u32, u32)> = ranges.iter().map(|range| range.numbers()).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            let (first, last) = (first.max(lowest), last.min(highest));
            match merged.last_mut() {
                _ if first > last => {}
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                Some(_) | None => merged.push((first, last)),
            }
        }
        Ok(Self(merged))
    }

    /// Whether `address` is reserved. Takes logarithmic time.
    pub(crate) fn contain(&self, address: u32) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= address);
        after.checked_sub(1).is_some_and(|place| self.0[place].1 >= address)
    }

    /// How many addresses are reserved.
    pub(crate) fn count(&self) -> u32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// The ranges of `all` that are not reserved, in order.
    pub(crate) fn gaps(&self, all: RangeInclusive<u32>) -> Vec<(u32, u32)> {
        let (mut next, end) = all.into_inner();
        let mut gaps = Vec::with_capacity(self.0.len() + 1);
        for &(first, last) in &self.0 {
            if next < first {
                gaps.push((next, first - 1));
            }
            // Leasable addresses end before the broadcast address, so this does not overflow.
            next = last + 1;
        }
        if next <= end {
            gaps.push((next, end));
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_three_forms_are_read() {
        let shown = |text: &str| text.parse::<AddressRange>().unwrap().to_string();
        assert_eq!(shown("10.100.0.2-10.100.0.99"), "10.100.0.2-10.100.0.99");
        assert_eq!(shown("10.100.255.0/24"), "10.100.255.0-10.100.255.255");
        assert_eq!(shown("10.100.0.7"), "10.100.0.7");
        for text in ["", "-", "10.0.0.9-10.0.0.2", "10.0.0.1/24", "10.0.0.1-", "10.0.0.0/33", "a"] {
            assert!(text.parse::<AddressRange>().is_err(), "{text:?} must be refused");
        }
    }

    #[test]
    fn a_range_outside_the_subnet_is_refused() {
        let subnet = LeasableSubnet::new("10.0.0.0/24".parse().unwrap()).unwrap();
        let refusal = ReservedRanges::new(subnet, &["10.0.0.9-10.0.1.9".parse().unwrap()]).unwrap_err();
        insta::assert_snapshot!(refusal, @"the reserved range 10.0.0.9-10.0.1.9 is not within the network 10.0.0.0/24");
    }

    proptest! {
        /// A plain list of addresses is the model.
        #[test]
        fn ranges_hold_what_was_asked_for(pairs in prop::collection::vec((0_u8..64, 0_u8..64), 0..6)) {
            let subnet = LeasableSubnet::new("10.0.0.0/26".parse().unwrap()).unwrap();
            let of = |last: u8| Ipv4Addr::new(10, 0, 0, last);
            let ranges: Vec<AddressRange> = pairs
                .iter()
                .map(|(a, b)| AddressRange::new(of(*a.min(b)), of(*a.max(b))).unwrap())
                .collect();
            let reserved = ReservedRanges::new(subnet, &ranges).unwrap();
            let is_meant = |address: u32| {
                ranges.iter().any(|range| (u32::from(range.first)..=u32::from(range.last)).contains(&address))
            };
            let gaps = reserved.gaps(subnet.leasable());
            let mut count = 0;
            for address in subnet.leasable() {
                prop_assert_eq!(reserved.contain(address), is_meant(address));
                let in_gaps = gaps.iter().filter(|(first, last)| (*first..=*last).contains(&address)).count();
                prop_assert_eq!(in_gaps, usize::from(!is_meant(address)));
                count += u32::from(is_meant(address));
            }
            prop_assert_eq!(reserved.count(), count);
        }
    }
}
