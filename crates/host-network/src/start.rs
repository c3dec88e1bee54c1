//! Bringing a host network up: observe, decide, act, and undo what was made if a later step fails.

use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use tracing::info;

use crate::bridge::{
    BridgeAction, BridgeNote, BridgeOrigin, BridgePlan, apply_bridge, bridge_address, observe, plan_bridge,
};
use crate::changed_settings::ChangedSettings;
use crate::config::reachable_name_servers;
use crate::dhcp::{DhcpServer, ServerFacts, SharedBindings};
use crate::events::NetworkEvents;
use crate::exclusive::Exclusive;
use crate::firewall::{Firewall, ForwardDrop, GuardedLink, find_forward_drops};
use crate::forwarding::{
    self, HostForwarding, apply_switches, bridged_frames_are_filtered, describe, give_back_everything,
    has_ipv6, observe_forwarding, plan_forwarding,
};
use crate::netlink::{BridgeSetting, Ipv4Route, Ipv6Stack, Link, Netlink, NetlinkError};
use crate::silence::{HostIpv6, silence_bridge};
use crate::{DnsServers, Egress, NetworkConfig, NetworkError};

/// Where a host's name servers stand. Where the first names only a stub on loopback, the second has the true ones.
const RESOLVER_FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// What starting found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartReport {
    /// Where the bridge came from.
    pub bridge: BridgeOrigin,
    /// Whom the host forwards packets for.
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
    /// The adopted bridge brings something along.
    Bridge(BridgeNote),
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
            Self::Bridge(note) => note.fmt(formatter),
            Self::NoNameServer => formatter.write_str(
                "VMs are told no name server: this host has none but on loopback; configure some for VMs",
            ),
        }
    }
}

/// Everything that is up once starting succeeded.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) exclusive: Exclusive,
    pub(crate) netlink: Netlink,
    pub(crate) bridge: u32,
    pub(crate) ipv6: Ipv6Stack,
    /// The MTU of the network.
    pub(crate) mtu: u16,
    pub(crate) bindings: SharedBindings,
    /// What has to be kept right and given back.
    pub(crate) holdings: Holdings,
    pub(crate) events: NetworkEvents,
    pub(crate) report: StartReport,
}

/// What was made or changed on the host, and is kept right until it is given back.
#[derive(Debug)]
pub(crate) struct Holdings {
    pub(crate) origin: BridgeOrigin,
    /// Whether the bridge had not had our address.
    pub(crate) address_added: bool,
    /// Settings that give an adopted bridge back as it was.
    pub(crate) bridge_undo: Vec<BridgeSetting>,
    pub(crate) host_ipv6: HostIpv6,
    /// For blocking steps, one at a time; never held across an `.await`.
    pub(crate) rules: Arc<Mutex<Rules>>,
    pub(crate) dhcp: DhcpServer,
    /// What DHCP says of the network.
    pub(crate) facts: ServerFacts,
}

/// What blocking steps work on: our table, and the settings that were changed.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) firewall: Firewall,
    pub(crate) changed: ChangedSettings,
    /// The guards in our table; `None` before it was first applied.
    pub(crate) guarded: Option<Vec<GuardedLink>>,
    /// Our table as it was shown after it was applied.
    pub(crate) listing: Option<String>,
}

pub(crate) async fn start(config: &NetworkConfig) -> Result<Started, NetworkError> {
    config.validate().map_err(NetworkError::Config)?;
    let exclusive = Exclusive::take(config)?;
    let netlink = Netlink::open()?;
    let events = NetworkEvents::open().map_err(NetlinkError::Open)?;
    let observed = observe(&netlink).await?;
    let plan = plan_bridge(config, &observed)?;
    let bridge = apply_bridge(&netlink, config, &observed, &plan).await?;
    let ipv6 = if has_ipv6() { Ipv6Stack::Present } else { Ipv6Stack::Absent };
    let config = &NetworkConfig { mtu: plan.mtu, ..config.clone() };
    let bindings = SharedBindings::default();
    match start_on_bridge(config, &netlink, bridge, &plan, &bindings).await {
        Ok((holdings, report)) => {
            let mtu = plan.mtu;
            Ok(Started { exclusive, netlink, bridge, ipv6, mtu, bindings, holdings, events, report })
        }
        Err(error) => {
            // The first error is the one to tell; these could only add that something stays behind.
            if plan.origin == BridgeOrigin::Created {
                let _ = netlink.delete(bridge, config.bridge.as_str()).await;
            } else {
                for setting in &plan.undo {
                    let _ = netlink.change_bridge(&config.bridge, *setting).await;
                }
                if plan.actions.contains(&BridgeAction::AddAddress) {
                    let _ = netlink.remove_address(bridge, bridge_address(config)).await;
                }
            }
            Err(error)
        }
    }
}

/// The steps after the bridge. Rules and settings of the host come last: they are the only ones that would outlive an
/// error, and they undo themselves.
async fn start_on_bridge(
    config: &NetworkConfig,
    netlink: &Netlink,
    bridge: u32,
    plan: &BridgePlan,
    bindings: &SharedBindings,
) -> Result<(Holdings, StartReport), NetworkError> {
    let dns = name_servers(&config.dns);
    let facts = ServerFacts { address: config.gateway, subnet: config.network(), dns: dns.clone() };
    let dhcp = DhcpServer::start(bridge, facts.clone(), bindings.clone())
        .map_err(|cause| NetworkError::Dhcp { bridge: config.bridge.clone(), cause })?;
    let (links, routes) = (netlink.links().await?, netlink.ipv4_routes().await?);
    let (firewall, note) = (Firewall::new(config), config.note());
    let host_ipv6 = if plan.keeps_ipv6 { HostIpv6::Kept } else { HostIpv6::Off };
    let settle = move || {
        let changed = ChangedSettings::open(note);
        let mut rules = Rules { firewall, changed, guarded: None, listing: None };
        match rules.settle(bridge, &links, &routes, host_ipv6) {
            Ok(forwarding) => Ok((warnings(&rules.firewall, &dns), rules, forwarding, dns)),
            Err(error) => {
                // As above: the first error is the one to tell.
                let _ = rules.give_back();
                Err(error)
            }
        }
    };
    let (mut warnings, rules, host_forwarding, dns) = blocking("set up packet forwarding", settle).await??;
    info!(bridge = %config.bridge, "{host_forwarding}");
    warnings.extend(plan.notes.iter().cloned().map(StartWarning::Bridge));
    let report = StartReport { bridge: plan.origin, host_forwarding, dns, warnings };
    let holdings = Holdings {
        origin: plan.origin,
        address_added: plan.actions.contains(&BridgeAction::AddAddress),
        bridge_undo: plan.undo.clone(),
        host_ipv6,
        rules: Arc::new(Mutex::new(rules)),
        dhcp,
        facts,
    };
    Ok((holdings, report))
}

impl Rules {
    /// Brings the bridge's switches, forwarding and our table to what the host's links and routes need. The table is
    /// applied only where it must change. Blocks.
    ///
    /// # Errors
    /// If a rule or a switch cannot be set; what was set before it stays, and is noted.
    pub(crate) fn settle(
        &mut self,
        bridge: u32,
        links: &[Link],
        routes: &[Ipv4Route],
        host_ipv6: HostIpv6,
    ) -> Result<HostForwarding, NetworkError> {
        let Self { firewall, changed, guarded, listing } = self;
        silence_bridge(bridge, firewall.bridge.as_str(), host_ipv6, changed)?;
        let seen = observe_forwarding(bridge, links, routes, changed);
        let plan = plan_forwarding(firewall.egress, bridge, &seen);
        forwarding::give_back(&plan, changed);
        if guarded.as_ref() != Some(&plan.guarded) {
            *guarded = None;
            firewall.apply(&plan.guarded)?;
            *listing = firewall.listing();
            *guarded = Some(plan.guarded.clone());
        }
        apply_switches(&plan, changed)?;
        Ok(describe(firewall.egress, &seen, &plan))
    }

    /// Looks whether our table is as we made it; if not, [`Rules::settle`] makes it again. Blocks on `nft`.
    pub(crate) fn look_at_table(&mut self) -> bool {
        let is_whole = self.firewall.listing() == self.listing;
        if !is_whole {
            self.guarded = None;
        }
        is_whole
    }

    /// Gives the settings back, and then takes the rules away: no link forwards without its guard. Blocks.
    ///
    /// # Errors
    /// If `nft` refuses.
    pub(crate) fn give_back(&mut self) -> Result<(), NetworkError> {
        give_back_everything(&mut self.changed);
        Ok(self.firewall.remove()?)
    }
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

/// What is in the VMs' way. Blocks on `nft`.
fn warnings(firewall: &Firewall, dns: &[Ipv4Addr]) -> Vec<StartWarning> {
    let mut warnings = forward_drops(firewall);
    if dns.is_empty() {
        warnings.push(StartWarning::NoNameServer);
    }
    warnings
}

/// Other tables that drop what VMs send and get. Blocks on `nft`.
pub(crate) fn forward_drops(firewall: &Firewall) -> Vec<StartWarning> {
    match firewall.egress {
        Egress::Masquerade | Egress::Routed => {
            let between_vms = bridged_frames_are_filtered();
            let drops = find_forward_drops(&firewall.bridge).into_iter();
            drops.map(|ForwardDrop { chain }| StartWarning::ForwardDrop { chain, between_vms }).collect()
        }
        Egress::Isolated => Vec::new(),
    }
}

/// Runs a step that blocks on the kernel or on `nft` away from the runtime's workers.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    step: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NetworkError> {
    tokio::task::spawn_blocking(step).await.map_err(|cause| NetworkError::Lost { operation, cause })
}
