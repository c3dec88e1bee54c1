//! How much of the host's memory for reassembly one guest may take.
//!
//! Whatever goes through the host or to it is put together from its fragments first, and pieces whose last one is missing stay for
//! half a minute (`ipfrag_time`). Once they fill the memory there is for them (`ipfrag_high_thresh`), fragments of nobody are put
//! together. So a guest's fragments are limited, all but those from VM to VM: these stay on the bridge, and are marked so that a
//! bridge that shows its frames to the host's packet filter (`br_netfilter`) does not put them together either.
//!
//! IPv6 fragments of guests are dropped anyway.

use std::fs;
use std::num::NonZeroU32;
use std::path::Path;

use super::GUEST_MACS;

/// The settings of the host, and the kernel's defaults for where they cannot be read.
const SETTINGS: &str = "/proc/sys/net/ipv4";
const MEMORY_GUESS: u32 = 4 << 20;
const SECONDS_GUESS: u32 = 30;
/// Parts of the memory that the guests of this host may fill, and that one may.
const ALL_SHARE: u32 = 2;
const GUEST_SHARE: u32 = 4;
/// Bytes of memory that a piece takes beside twice its length.
const PIECE_BYTES: u32 = 512;

/// The set that counts the fragments of each port.
pub(super) const SET: &str = "fragments";

/// How many fragments pass. One that is longer than a frame of this network does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FragmentLimit {
    /// The longest piece, in bytes: the MTU.
    longest: u16,
    guest: Pieces,
    network: Pieces,
}

/// So many a second, and so many at once after a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pieces {
    rate: NonZeroU32,
    burst: NonZeroU32,
}

impl FragmentLimit {
    /// What the host's memory has room for, where guests of `networks` share it. Blocks.
    pub(crate) fn of_host(mtu: u16, networks: usize) -> Self {
        let setting =
            |name: &str| fs::read_to_string(Path::new(SETTINGS).join(name)).ok()?.trim().parse().ok();
        let memory = setting("ipfrag_high_thresh").unwrap_or(MEMORY_GUESS);
        Self::of(memory, setting("ipfrag_time").unwrap_or(SECONDS_GUESS), mtu, networks)
    }

    pub(crate) fn of(memory: u32, seconds: u32, mtu: u16, networks: usize) -> Self {
        let networks = u32::try_from(networks).unwrap_or(u32::MAX).max(1);
        let share = |parts: u32| {
            let pieces = memory / parts / Self::cost(mtu);
            let some = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
            // Half of them over the time that they stay, the rest at once.
            let rate = some(pieces / 2 / seconds.max(1));
            Pieces { rate, burst: some(pieces.saturating_sub(rate.get().saturating_mul(seconds))) }
        };
        let network = share(ALL_SHARE.saturating_mul(networks));
        let guest = share(GUEST_SHARE);
        let guest = Pieces { rate: guest.rate.min(network.rate), burst: guest.burst.min(network.burst) };
        Self { longest: mtu, guest, network }
    }

    /// Bytes of memory that a piece of at most `mtu` bytes takes.
    fn cost(mtu: u16) -> u32 {
        2 * u32::from(mtu) + PIECE_BYTES
    }

    /// What a guest's fragments meet.
    pub(super) fn rules(self) -> Vec<String> {
        let Self { longest, guest, network } = self;
        let over =
            |Pieces { rate, burst }: Pieces| format!("limit rate over {rate}/second burst {burst} packets");
        vec![
            format!("ether daddr @{GUEST_MACS} notrack accept comment \"from VM to VM\""),
            format!(
                "meta length > {longest} counter drop comment \"a fragment that is longer than a frame\""
            ),
            format!(
                "update @{SET} {{ iif {} }} counter drop comment \"too many fragments of one VM\"",
                over(guest)
            ),
            format!("{} counter drop comment \"too many fragments of VMs\"", over(network)),
            "accept".to_owned(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_of_all_networks_together_fill_half_the_memory() {
        for (memory, seconds, mtu) in
            [(4 << 20, 30, 1500), (4 << 20, 30, 9000), (64 << 20, 3, 1500), (4 << 20, 30, 576)]
        {
            for networks in 1..=4 {
                let FragmentLimit { guest, network, .. } = FragmentLimit::of(memory, seconds, mtu, networks);
                let bytes = |Pieces { rate, burst }: Pieces| {
                    u64::from(rate.get() * seconds + burst.get()) * u64::from(FragmentLimit::cost(mtu))
                };
                let all = bytes(network) * networks as u64;
                assert!(
                    all <= u64::from(memory) * 5 / 8,
                    "{all} of {memory} in {networks} networks of MTU {mtu}"
                );
                assert!(bytes(guest) <= u64::from(memory) / 3, "{guest:?}");
            }
        }
    }
}
