//! How many connections one guest may have in the host's table of connections, and what keeps out of that table.
//!
//! The table (`nf_conntrack`) is one for the whole host, and nobody opens connections once it is full. Of each guest, what it
//! opened and what others opened to it is counted apart, by its address, which is bound to its port:
//!
//! ```text
//!  first packet ──▶ paused? ──▶ over the rate? ──▶ over the count? ──▶ entered, with short timeouts after its end
//!                      │ dropped      │ dropped          │ dropped, and the guest is paused for a second
//! ```
//!
//! The chains come after every rule that drops, so only what would pass is counted: a dropped packet enters no connection.
//!
//! - The kernel counts by walking a list of the guest's connections, at most once a tick; a walk of 8,192 takes milliseconds,
//!   on the thread that sends. The pause makes that one walk a second for whoever goes on at the limit.
//! - It does not count connections that have ended, though they stay in the table for a while (`TIME_WAIT`: two minutes). The
//!   rate and the shorter timeouts bound these.
//! - Counting begins anew when our tables are replaced, at a start of the worker; connections from before are not counted.

use std::fs;
use std::num::NonZeroU32;

use ipnetwork::Ipv4Network;
use std::net::Ipv4Addr;

use vm_model::Ipv6Subnet;

use crate::LinkName;

/// How many connections the host's table takes.
const HOST_LIMIT: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// What that is taken for where it cannot be read.
const HOST_LIMIT_GUESS: u32 = 65_536;
/// One guest's part of the host's table where nobody says how much, and the most and the least that this is.
const HOST_SHARE: u32 = 32;
const LARGEST_SHARE: u32 = 8192;
const SMALLEST_SHARE: u32 = 256;
/// After every usual filter (0), before the kernel enters a connection into its table (its last step).
const PRIORITY: i32 = 200;
/// Before the kernel looks a packet's connection up (-200).
const RAW_PRIORITY: i32 = -300;
/// How long ended connections stay in the table, in seconds.
const ENDED_TIMEOUT: u32 = 10;
/// Guests that are counted at the same time. A bridge has fewer ports.
const MOST_GUESTS: u32 = 4096;

/// How many connections a VM may have in the host's table, of those that it opened and of those that others opened to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionLimit {
    /// A thirty-second of the host's table (`nf_conntrack_max`), at most 8,192.
    #[default]
    ShareOfHost,
    /// So many.
    AtMost(NonZeroU32),
    /// Any number.
    Off,
}

/// What of it our rules enforce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    /// At most so many at a time.
    ByCount(NonZeroU32),
    /// The kernel cannot count: so many within two minutes.
    ByRate(NonZeroU32),
    Off,
}

impl Counting {
    /// Looks at the size of the host's table where `limit` depends on it. Blocks.
    pub(crate) fn of(limit: ConnectionLimit) -> Self {
        match limit {
            ConnectionLimit::ShareOfHost => {
                Self::ByCount(share(fs::read_to_string(HOST_LIMIT).ok().as_deref()))
            }
            ConnectionLimit::AtMost(most) => Self::ByCount(most),
            ConnectionLimit::Off => Self::Off,
        }
    }
}

/// One guest's share of a table as large as `host` says.
fn share(host: Option<&str>) -> NonZeroU32 {
    let size = host.and_then(|text| text.trim().parse().ok()).unwrap_or(HOST_LIMIT_GUESS);
    NonZeroU32::new((size / HOST_SHARE).clamp(SMALLEST_SHARE, LARGEST_SHARE))
        .expect("at least the smallest share")
}

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IpVersion {
    V4,
    V6,
}

impl IpVersion {
    /// nft's name of the protocol, and of its addresses.
    pub(crate) fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::V4 => ("ip", "ipv4_addr"),
            Self::V6 => ("ip6", "ipv6_addr"),
        }
    }
}

/// A direction: its part of names, which address is the guest's, and what the rules say of it.
struct Side {
    name: &'static str,
    guest: &'static str,
    whose: &'static str,
}

const SIDES: [Side; 2] = [
    Side { name: "by_guest", guest: "saddr", whose: "of one VM" },
    Side { name: "to_guest", guest: "daddr", whose: "to one VM" },
];

/// The sets and objects that [`chains`] need, in nft's language.
pub(crate) fn sets_text(counting: Counting, version: IpVersion) -> String {
    let (protocol, address) = version.names();
    let set = |name: String, flags: &str| {
        format!("set {name} {{ type {address}; size {MOST_GUESTS}; flags dynamic{flags}; }}\n")
    };
    let rate = |side: &Side| set(format!("rate_{}", side.name), ",timeout; timeout 1m");
    let count = |side: &Side| {
        set(format!("count_{}", side.name), "")
            + &set(format!("paused_{}", side.name), ",timeout; timeout 1s")
    };
    match counting {
        Counting::Off => String::new(),
        Counting::ByRate(_) => SIDES.iter().map(rate).collect(),
        Counting::ByCount(_) => {
            let timeouts = format!(
                "ct timeout ended_soon {{ protocol tcp; l3proto {protocol}; policy = {{ time_wait : {ENDED_TIMEOUT}, close : \
                 {ENDED_TIMEOUT} }}; }}\n"
            );
            timeouts + &SIDES.iter().map(|side| rate(side) + &count(side)).collect::<String>()
        }
    }
}

/// The chains that count, by name, with the hook of each and its rules.
pub(crate) fn chains(
    counting: Counting,
    bridge: &LinkName,
    version: IpVersion,
) -> Vec<(&'static str, String, Vec<String>)> {
    if counting == Counting::Off {
        return Vec::new();
    }
    let hook = |hook: &str| format!("type filter hook {hook} priority {PRIORITY}; policy accept;\n");
    let [by_guest, to_guest] = &SIDES;
    let mut chains: Vec<_> =
        SIDES.iter().map(|side| (side.name, String::new(), side_rules(counting, side, version))).collect();
    // Of each connection the packet that begins it: those after it are of a connection that was entered.
    let begins = |from: &str, side: &Side| {
        format!("{from} \"{bridge}\" ct status & confirmed == 0 jump {}", side.name)
    };
    let forwarded = vec![begins("iifname", by_guest), begins("oifname", to_guest)];
    chains.push(("count_forwarded", hook("forward"), forwarded));
    chains.push(("count_input", hook("input"), vec![begins("iifname", by_guest)]));
    chains
}

fn side_rules(counting: Counting, side: &Side, version: IpVersion) -> Vec<String> {
    let Side { name, guest, whose } = side;
    let guest = format!("{} {guest}", version.names().0);
    let rate = |rate: u32, burst: NonZeroU32| {
        format!(
            "update @rate_{name} {{ {guest} limit rate over {rate}/second burst {burst} packets }} counter drop \
             comment \"too many new connections {whose} a second\""
        )
    };
    match counting {
        Counting::Off => Vec::new(),
        Counting::ByRate(most) => vec![rate(most.get().div_ceil(120), most)],
        Counting::ByCount(most) => vec![
            format!(
                "{guest} @paused_{name} counter drop comment \"too many connections {whose}, a moment ago\""
            ),
            rate(most.get().div_ceil(ENDED_TIMEOUT), most),
            format!(
                "add @count_{name} {{ {guest} ct count over {most} }} add @paused_{name} {{ {guest} }} counter drop \
                 comment \"too many connections {whose}\""
            ),
            "meta l4proto tcp ct timeout set \"ended_soon\"".to_owned(),
        ],
    }
}

/// The chains by which packets stay out of the host's table: between VMs (where `br_netfilter` is on, each would be a connection
/// of this host), and questions to the name server, which are limited by themselves.
pub(crate) fn untracked_chains(
    bridge: &LinkName,
    subnet: Ipv4Network,
    gateway: Ipv4Addr,
) -> Vec<(&'static str, String, Vec<String>)> {
    let hook = |hook: &str| format!("type filter hook {hook} priority {RAW_PRIORITY}; policy accept;\n");
    let prerouting = vec![
        // An administrator may have given the bridge further addresses in the network.
        format!(
            "iifname \"{bridge}\" ip saddr {subnet} ip daddr {subnet} ip daddr != {gateway} fib daddr type != local notrack"
        ),
        // Of a fragment the kernel must know the others.
        format!("iifname \"{bridge}\" ip daddr {gateway} ip frag-off & 0x3fff == 0 udp dport 53 notrack"),
    ];
    let output = vec![format!("oifname \"{bridge}\" ip saddr {gateway} udp sport 53 notrack")];
    vec![("untracked", hook("prerouting"), prerouting), ("untracked_output", hook("output"), output)]
}

/// As [`untracked_chains`], of IPv6. Fragments of guests are dropped before.
pub(crate) fn untracked_ipv6_chains(
    bridge: &LinkName,
    subnet: Ipv6Subnet,
) -> Vec<(&'static str, String, Vec<String>)> {
    let hook = |hook: &str| format!("type filter hook {hook} priority {RAW_PRIORITY}; policy accept;\n");
    let gateway = subnet.gateway();
    let prerouting = vec![
        format!(
            "iifname \"{bridge}\" ip6 saddr {subnet} ip6 daddr {subnet} ip6 daddr != {gateway} fib daddr type != local notrack"
        ),
        format!(
            "iifname \"{bridge}\" ip6 saddr fe80::/10 ip6 daddr fe80::/10 fib daddr . iif type != local notrack"
        ),
        format!("iifname \"{bridge}\" ip6 daddr {gateway} udp dport 53 notrack"),
    ];
    let output = vec![format!("oifname \"{bridge}\" ip6 saddr {gateway} udp sport 53 notrack")];
    vec![("untracked", hook("prerouting"), prerouting), ("untracked_output", hook("output"), output)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_the_hosts_table_and_bounded() {
        let shares = [Some("262144\n"), Some("65536"), Some("1024"), Some("4000000"), Some("none"), None]
            .map(|host| share(host).get());
        assert_eq!(shares, [8192, 2048, 256, 8192, 2048, 2048]);
    }

    #[test]
    fn a_kernel_that_cannot_count_is_asked_for_a_rate_alone() {
        let bridge = LinkName::parse("br-test").unwrap();
        let most = NonZeroU32::new(1200).unwrap();
        let text = |counting| {
            let rules = chains(counting, &bridge, IpVersion::V4).into_iter().flat_map(|(_, _, rules)| rules);
            sets_text(counting, IpVersion::V4) + &rules.collect::<Vec<_>>().join("\n")
        };
        let by_rate = text(Counting::ByRate(most));
        assert!(by_rate.contains("over 10/second burst 1200 packets"), "{by_rate}");
        assert!(!by_rate.contains("ct count") && !by_rate.contains("ct timeout"), "{by_rate}");
        let by_count = text(Counting::ByCount(most));
        assert!(
            by_count.contains("ip daddr ct count over 1200") && by_count.contains("over 120/second"),
            "{by_count}"
        );
        assert_eq!(text(Counting::Off), "");
    }
}
