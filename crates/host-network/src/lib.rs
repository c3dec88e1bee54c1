//! The network that a host gives its virtual machines: a bridge with an address, a TAP for each interface,
//! forwarding and masquerading, and a DHCP server that tells each VM what it was given.
//!
//! Each TAP is bound to its guest: what is sent there under another address, or in the name of a router or a DHCP server,
//! is dropped by the kernel (`port_filter`).
//!
//! Owns everything on the host side, by netlink and by files under `/proc/sys/net`; the only program it runs is
//! `nft`. It allocates no addresses and runs no devices: an address arrives with a [`NicAttachment`], an open
//! [`Tap`] leaves. Every `ensure` is idempotent, and what an earlier run left is recognised by its alias.
//!
//! VMs whose processes outlive the worker keep their network: [`Teardown::Keep`] leaves everything as it is, and
//! [`HostNetwork::resume`] takes it over, with the TAPs that those VMs hold open. Their frames and packets pass all the
//! while: what is right is not touched, and the nftables table is replaced in one transaction.
//!
//! All of it happens in the network namespace of the thread that calls [`HostNetwork::start`]; a runtime's threads
//! must share one.
//!
//! ```no_run
//! use host_network::{HostNetwork, LinkName, NetworkConfig, NicAttachment, Teardown};
//! use vm_model::VmId;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = NetworkConfig::new(LinkName::parse("br-procurator")?, "10.100.0.0/16".parse()?);
//! let network = HostNetwork::start(config).await?;
//! for warning in &network.report().warnings {
//!     eprintln!("warning: {warning}");
//! }
//! let tap = network
//!     .attach(NicAttachment {
//!         vm: VmId::new("web-1"),
//!         nic: "net0".to_owned(),
//!         mac: "02:50:0a:64:00:02".parse()?,
//!         address: "10.100.0.2".parse()?,
//!         mask: None,
//!         mtu: None,
//!         tap_hint: None,
//!         queues: std::num::NonZeroU16::MIN,
//!         access: vm_model::NetworkAccess::default(),
//!     })
//!     .await?;
//! println!("frames of web-1 pass through {}", tap.name);
//! network.detach(&VmId::new("web-1"), "net0").await?;
//! network.shutdown(Teardown::Remove).await?;
//! # Ok(())
//! # }
//! ```

mod bound_port;
mod bridge;
mod changed_settings;
mod claimed_names;
mod config;
mod connections;
pub mod dhcp;
mod dns;
mod egress;
mod error;
mod events;
mod exclusive;
mod firewall;
mod forwarding;
mod forwards;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod ipv6;
mod leftovers;
mod names;
mod netlink;
mod next_hops;
mod nfnetlink;
mod nft;
mod port_filter;
mod rules;
mod silence;
mod start;
mod survey;
mod tap;
mod upkeep;
mod uplink;

pub use bridge::{BridgeNote, BridgeOrigin, BridgeProblem, SubnetUse};
pub use changed_settings::SettingsError;
pub use config::{
    BetweenVms, ConfigError, DnsServers, Egress, GuestAddresses, HostService, InvalidHostService,
    NetworkConfig, RouterAdvice,
};
pub use connections::ConnectionLimit;
pub use dhcp::DhcpError;
pub use dns::{Domain, InvalidDomain, NameServerError};
pub use error::{AttachmentProblem, BRIDGE_PORT_LIMIT, NetworkError};
pub use firewall::{FirewallError, ForwardDrop, observe_forward_drops};
pub use forwarding::HostForwarding;
pub use forwards::{
    ForwardConflict, ForwardElsewhere, ForwardWarning, Holder, PortTaken, find_forward_elsewhere,
    find_taken_port,
};
pub use host::{
    AttachmentOutlook, AttachmentWarning, HostNetwork, KeptNic, KeptNicProblem, NicAttachment,
    NicDescription, Orphan, Tap, Teardown, TeardownOutcome, UnusedHint, check_access, check_nic,
    guests_access,
};
pub use leftovers::{Leftovers, remove_leftovers};
pub use names::{InvalidLinkName, LINK_NAME_LIMIT, LinkName};
pub use netlink::NetlinkError;
pub use nft::NftError;
pub use start::{StartReport, StartWarning, UnknownNic};
pub use survey::{Survey, survey};
pub use tap::{TapError, UdpSegmentation, VNET_HEADER_BYTES};
pub use uplink::{Uplink, UplinkProblem, VlanId};
pub use vm_model::Transport;
