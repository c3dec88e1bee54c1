//! How much of the host's table of neighbours one guest may take by what it sends through the host.
//!
//! The host asks for the hardware address of each next hop that a packet needs. A question that nobody answers stays in the table
//! for about three seconds, and nobody gets an entry once the table is full (`gc_thresh3`). The next hop is the packet's own
//! destination only in networks that the host is in:
//!
//! ```text
//!  to the VMs' network ──▶ a VM's address? ──▶ passes
//!                               │ no: dropped
//!  elsewhere ──▶ answered before? ──▶ next hop used a moment ago? ──▶ over the rate? ──▶ passes, and is noted for a moment
//!                    │ yes: passes             │ yes: passes             │ dropped
//! ```
//!
//! A router's address is one next hop for everything behind it, so the rates are met by guests that look for machines in the host's
//! own networks alone. Links that ask for no addresses (tunnels, point to point) have no limit.

use std::fmt::Display;
use std::fs;
use std::num::NonZeroU32;

use vm_model::MacAddress;

use crate::LinkName;
use crate::connections::IpVersion;
use crate::firewall::hook;

/// Before connections are counted (200): what is dropped here is none.
const PRIORITY: i32 = 190;
/// Before the kernel looks a packet's connection up (-200).
const UNROUTED_PRIORITY: i32 = -300;
/// Guests that are limited at the same time. A bridge has fewer ports.
const MOST_GUESTS: u32 = 4096;
/// Next hops that are noted at the same time, in all.
const MOST_NOTED: u32 = 65_535;
/// How long packets to a next hop pass once one did, in seconds. Short: a question that fails meanwhile is asked again.
const NOTED_SECONDS: u32 = 2;
/// What a table's size is taken for where it cannot be read: the kernel's default.
const TABLE_GUESS: u32 = 1024;
/// Parts of the table: new next hops a second, of all guests of this host and of one.
const ALL_SHARE: u32 = 16;
const GUEST_SHARE: u32 = 64;
/// As many as in so many seconds may be asked for at once, after a silence.
const BURST_SECONDS: NonZeroU32 = NonZeroU32::new(2).expect("it is not 0");

/// How many new next hops may be asked for in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextHopRates {
    /// For one guest.
    pub(crate) guest: NonZeroU32,
    /// For all guests of one network together.
    pub(crate) network: NonZeroU32,
}

impl NextHopRates {
    /// What the host's table has room for, where guests of `networks` share it. Blocks.
    pub(crate) fn of_host(networks: usize) -> Self {
        let size = |protocol: &str| {
            let path = format!("/proc/sys/net/{protocol}/neigh/default/gc_thresh3");
            fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        // One rate for both: whoever raises one, raises the other.
        let sizes: Vec<u32> = ["ipv4", "ipv6"].into_iter().filter_map(size).collect();
        Self::of(sizes.into_iter().min().unwrap_or(TABLE_GUESS), networks)
    }

    fn of(table: u32, networks: usize) -> Self {
        let networks = u32::try_from(networks).unwrap_or(u32::MAX).max(1);
        let some = |rate: u32| NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN);
        let network = some(table / ALL_SHARE / networks);
        Self { guest: some(table / GUEST_SHARE).min(network), network }
    }
}

/// The names of one family's sets. Those of both families differ, because both tables are listed together.
pub(crate) struct NextHopSets {
    protocol: &'static str,
    address: &'static str,
    /// The set of addresses that VMs have.
    pub(crate) guests: &'static str,
    /// The set of next hops that were used a moment ago.
    noted: &'static str,
    /// The set that limits each guest.
    limited: &'static str,
}

const IPV4: NextHopSets = NextHopSets {
    protocol: "ip",
    address: "ipv4_addr",
    guests: "guests",
    noted: "next_hops",
    limited: "new_next_hops",
};

const IPV6: NextHopSets = NextHopSets {
    protocol: "ip6",
    address: "ipv6_addr",
    guests: "guests6",
    noted: "next_hops6",
    limited: "new_next_hops6",
};

impl NextHopSets {
    pub(crate) fn of(version: IpVersion) -> &'static Self {
        match version {
            IpVersion::V4 => &IPV4,
            IpVersion::V6 => &IPV6,
        }
    }
}

/// The sets that [`chains`] need, in nft's language, with the addresses of `guests`.
pub(crate) fn sets_text(version: IpVersion, guests: &[String]) -> String {
    let NextHopSets { address, guests: name, noted, limited, .. } = NextHopSets::of(version);
    let elements = match guests {
        [] => String::new(),
        guests => format!(" elements = {{ {} }};", guests.join(", ")),
    };
    let dynamic = |name: &str, size: u32, timeout: u32| {
        format!("set {name} {{ type {address}; size {size}; flags dynamic,timeout; timeout {timeout}s; }}\n")
    };
    format!("set {name} {{ type {address};{elements} }}\n")
        + &dynamic(noted, MOST_NOTED, NOTED_SECONDS)
        + &dynamic(limited, MOST_GUESTS, 60)
}

/// A match on packets from one guest to another.
pub(crate) fn between_guests(version: IpVersion) -> String {
    let NextHopSets { protocol, guests, .. } = NextHopSets::of(version);
    format!("{protocol} saddr @{guests} {protocol} daddr @{guests} ")
}

/// The bridge that guests' packets come by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'name, Subnet> {
    pub(crate) bridge: &'name LinkName,
    /// The network of its guests.
    pub(crate) subnet: Subnet,
    /// Its hardware address, where it has guests alone.
    pub(crate) router: Option<MacAddress>,
}

/// The chains that limit what guests send by way of the host, by name, with the hook of each and its rules. Where the bridge has
/// guests alone, packets to addresses of its network that none of them has are dropped; elsewhere they are limited as well.
pub(crate) fn chains<Subnet: Display>(
    rates: NextHopRates,
    origin: Origin<'_, Subnet>,
    version: IpVersion,
) -> Vec<(&'static str, String, Vec<String>)> {
    let NextHopSets { protocol, guests, noted, limited, .. } = NextHopSets::of(version);
    let Origin { bridge, subnet, router } = origin;
    let over = |rate: NonZeroU32| {
        format!("limit rate over {rate}/second burst {} packets", rate.saturating_mul(BURST_SECONDS))
    };
    let next_hop = format!("rt {protocol} nexthop");
    let new = vec![
        format!("{next_hop} @{noted} return"),
        format!(
            "update @{limited} {{ {protocol} saddr {} }} counter drop \
             comment \"one VM looks for too many neighbours of the host\"",
            over(rates.guest)
        ),
        format!(
            "{} counter drop comment \"VMs look for too many neighbours of the host\"",
            over(rates.network)
        ),
        format!("add @{noted} {{ {next_hop} }}"),
    ];
    // Before the packet is routed: to tell a guest of a shorter way, IPv6 looks for the neighbour. The frame's own destination
    // tells such packets from frames between ports, which `br_netfilter` shows here too.
    let unknown = router.map(|router| {
        let rule = format!(
            "iifname \"{bridge}\" {protocol} daddr {subnet} {protocol} daddr != @{guests} fib daddr type unicast \
             ether daddr {router} counter drop comment \"an address that no VM has\""
        );
        ("no_guest", hook("filter", "prerouting", UNROUTED_PRIORITY), vec![rule])
    });
    let forwarded = vec![
        format!("iifname \"{bridge}\" oifname \"{bridge}\" {protocol} daddr @{guests} accept"),
        format!("iifname \"{bridge}\" oiftype ether ct state != established jump new_next_hop"),
    ];
    let limits =
        [("new_next_hop", String::new(), new), ("next_hop", hook("filter", "forward", PRIORITY), forwarded)];
    unknown.into_iter().chain(limits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_of_all_networks_together_fill_half_a_table() {
        for table in [1024, 8192, 65_536] {
            for networks in 1..=8_u32 {
                let NextHopRates { guest, network } = NextHopRates::of(table, networks as usize);
                // The last question to a next hop is asked just before it is noted no more, and stays for three seconds; at
                // once, as many as in two seconds are asked.
                let most = networks * network.get() * (NOTED_SECONDS + 3 + BURST_SECONDS.get());
                assert!(most <= table / 2, "{most} of {table} with {networks} networks");
                assert!(guest <= network);
            }
        }
        assert_eq!(NextHopRates::of(0, 0).network.get(), 1, "a rate is never 0");
    }
}
