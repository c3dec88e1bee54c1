//! The kernel's switches of one link that this crate sets, and where they are.

use std::path::{Path, PathBuf};

/// Where the switches are. The path is of the network namespace of the thread that opens it.
const SWITCHES: &str = "/proc/sys/net";

/// The name under which the kernel has a switch of all links at once, and the index that a note has for it.
pub(crate) const ALL_LINKS: (u32, &str) = (0, "all");

/// A switch of one link (Linux `Documentation/networking/ip-sysctl.rst`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Switch {
    /// Whether the host passes on IPv4 packets that come in by the link.
    Forwarding,
    /// Whether packets from and to 127.0.0.0/8 pass there.
    RouteLocalnet,
    /// Whether the host follows ICMP redirects.
    AcceptRedirects,
    /// Whether the host speaks no IPv6 on the link.
    DisableIpv6,
    /// Whether it takes router advertisements.
    AcceptRouterAdvertisements,
    /// Whether it makes itself addresses of advertised prefixes.
    Autoconfiguration,
    /// Whether it follows redirects of IPv6.
    AcceptIpv6Redirects,
    /// Whether it looks for others that have its IPv6 addresses before it uses them.
    DuplicateDetection,
    /// Whether the host passes on IPv6 packets: of all links at once, under the name [`ALL_LINKS`], as kernels before 6.17
    /// know it.
    Ipv6Forwarding,
}

impl Switch {
    pub(crate) const ALL: [Self; 9] = [
        Self::Forwarding,
        Self::RouteLocalnet,
        Self::AcceptRedirects,
        Self::DisableIpv6,
        Self::AcceptRouterAdvertisements,
        Self::Autoconfiguration,
        Self::AcceptIpv6Redirects,
        Self::DuplicateDetection,
        Self::Ipv6Forwarding,
    ];

    /// Its protocol and name, as a note has them.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Forwarding => "ipv4/forwarding",
            Self::RouteLocalnet => "ipv4/route_localnet",
            Self::AcceptRedirects => "ipv4/accept_redirects",
            Self::DisableIpv6 => "ipv6/disable_ipv6",
            Self::AcceptRouterAdvertisements => "ipv6/accept_ra",
            Self::Autoconfiguration => "ipv6/autoconf",
            Self::AcceptIpv6Redirects => "ipv6/accept_redirects",
            Self::DuplicateDetection => "ipv6/accept_dad",
            Self::Ipv6Forwarding => "ipv6/forwarding",
        }
    }

    pub(super) fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|switch| switch.key() == key)
    }

    /// The kernel's file of the link `name`.
    pub(super) fn path(self, name: &str) -> PathBuf {
        let (protocol, switch) = self.key().split_once('/').expect("each key has two parts");
        Path::new(SWITCHES).join(protocol).join("conf").join(name).join(switch)
    }
}
