//! Bringing a host network up: observe, decide, act, and undo what was made if a later step fails.

use std::fmt;
use std::fs;
use std::net::Ipv4Addr;

use crate::bridge::{BridgeAction, BridgeOrigin, apply_bridge, bridge_address, observe, plan_bridge};
use crate::config::reachable_name_servers;
use crate::dhcp::{DhcpServer, ServerFacts, SharedBindings};
use crate::firewall::{Firewall, ForwardDrop, find_forward_drop};
use crate::forwarding::{HostForwarding, bridged_frames_are_filtered, ensure_forwarding, has_ipv6};
use crate::netlink::{Ipv6Stack, Netlink};
use crate::{DnsServers, Egress, NetworkConfig, NetworkError};

/// Where a host's name servers stand. Where the first names only a stub on loopback, the second has the true ones.
const RESOLVER_FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// What starting found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartReport {
    /// Where the bridge came from.
    pub bridge: BridgeOrigin,
    /// What was done to the host-wide forwarding switch.
    pub host_forwarding: HostForwarding,
    /// The name servers that VMs are told.
    pub dns: Vec<Ipv4Addr>,
    /// What may keep VMs from being reached, though nothing failed.
    pub warnings: Vec<StartWarning>,
}

/// Something on the host that may be in the VMs' way and is not ours to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartWarning {
    /// Another table drops forwarded packets by default.
    ForwardDrop {
        /// Where.
        chain: String,
        /// Whether frames from VM to VM are subject to it too.
        between_vms: bool,
    },
    /// VMs are told no name server.
    NoNameServer,
}

impl fmt::Display for StartWarning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForwardDrop { chain, between_vms } => {
                let whom = if *between_vms {
                    "between VMs and the outside, and from VM to VM (br_netfilter is on)"
                } else {
                    "between VMs and the outside"
                };
                write!(
                    formatter,
                    "the chain {chain} drops what it does not accept: let it accept packets of the bridge, or \
                     there is no traffic {whom}"
                )
            }
            Self::NoNameServer => formatter.write_str(
                "VMs are told no name server: this host has none but on loopback; configure some for VMs",
            ),
        }
    }
}

/// Everything that is up once starting succeeded.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) netlink: Netlink,
    pub(crate) bridge: u32,
    pub(crate) ipv6: Ipv6Stack,
    /// Whether the bridge had not had our address.
    pub(crate) address_added: bool,
    pub(crate) firewall: Firewall,
    pub(crate) bindings: SharedBindings,
    pub(crate) dhcp: DhcpServer,
    pub(crate) report: StartReport,
}

/// What the blocking steps, which need no netlink, came to.
#[derive(Debug)]
struct HostSettings {
    forwarding: HostForwarding,
    drop: Option<ForwardDrop>,
    bridged_frames_are_filtered: bool,
    ipv6: Ipv6Stack,
    dns: Vec<Ipv4Addr>,
}

pub(crate) async fn start(config: &NetworkConfig) -> Result<Started, NetworkError> {
    config.validate().map_err(NetworkError::Config)?;
    let netlink = Netlink::open()?;
    let observed = observe(&netlink).await?;
    let plan = plan_bridge(config, &observed)?;
    let bridge = apply_bridge(&netlink, config, &observed, &plan).await?;
    let address_added = plan.actions.contains(&BridgeAction::AddAddress);
    match start_on_bridge(config, bridge, plan.origin).await {
        Ok((settings, firewall, bindings, dhcp, report)) => {
            Ok(Started { netlink, bridge, ipv6: settings, address_added, firewall, bindings, dhcp, report })
        }
        Err(error) => {
            // The first error is the one to tell; these could only add that something stays behind.
            if plan.origin == BridgeOrigin::Created {
                let _ = netlink.delete(bridge, config.bridge.as_str()).await;
            } else if address_added {
                let _ = netlink.remove_address(bridge, bridge_address(config)).await;
            }
            Err(error)
        }
    }
}

type OnBridge = (Ipv6Stack, Firewall, SharedBindings, DhcpServer, StartReport);

/// The steps after the bridge. The firewall comes last: it is the only one that would outlive an error.
async fn start_on_bridge(
    config: &NetworkConfig,
    bridge: u32,
    origin: BridgeOrigin,
) -> Result<OnBridge, NetworkError> {
    let wanted = config.clone();
    let settings = blocking("set up packet forwarding", move || apply_host_settings(&wanted)).await??;
    let bindings = SharedBindings::default();
    let facts = ServerFacts { address: config.gateway, subnet: config.network(), dns: settings.dns.clone() };
    let dhcp = DhcpServer::start(bridge, facts, bindings.clone())
        .map_err(|cause| NetworkError::Dhcp { bridge: config.bridge.clone(), cause })?;
    let firewall = Firewall {
        table: config.nft_table.clone(),
        bridge: config.bridge.clone(),
        subnet: config.network(),
        egress: config.egress,
    };
    let applied = firewall.clone();
    blocking("set up masquerading", move || applied.apply()).await??;
    let report = StartReport {
        bridge: origin,
        host_forwarding: settings.forwarding,
        warnings: warnings(&settings),
        dns: settings.dns,
    };
    Ok((settings.ipv6, firewall, bindings, dhcp, report))
}

fn apply_host_settings(config: &NetworkConfig) -> Result<HostSettings, NetworkError> {
    let forwarding = ensure_forwarding(&config.bridge, config.egress)?;
    let drop = match config.egress {
        Egress::Masquerade | Egress::Routed => find_forward_drop(),
        Egress::Isolated => None,
    };
    Ok(HostSettings {
        forwarding,
        drop,
        bridged_frames_are_filtered: bridged_frames_are_filtered(),
        ipv6: if has_ipv6() { Ipv6Stack::Present } else { Ipv6Stack::Absent },
        dns: name_servers(&config.dns),
    })
}

fn name_servers(wanted: &DnsServers) -> Vec<Ipv4Addr> {
    match wanted {
        DnsServers::List(servers) => servers.clone(),
        DnsServers::Host => RESOLVER_FILES
            .iter()
            .filter_map(|file| fs::read_to_string(file).ok())
            .map(|text| reachable_name_servers(&text))
            .find(|servers| !servers.is_empty())
            .unwrap_or_default(),
    }
}

fn warnings(settings: &HostSettings) -> Vec<StartWarning> {
    let mut warnings = Vec::new();
    if let Some(drop) = &settings.drop {
        warnings.push(StartWarning::ForwardDrop {
            chain: drop.chain.clone(),
            between_vms: settings.bridged_frames_are_filtered,
        });
    }
    if settings.dns.is_empty() {
        warnings.push(StartWarning::NoNameServer);
    }
    warnings
}

/// Runs a step that blocks on the kernel or on `nft` away from the runtime's workers.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    step: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NetworkError> {
    tokio::task::spawn_blocking(step).await.map_err(|cause| NetworkError::Lost { operation, cause })
}
