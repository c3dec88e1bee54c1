//! Bringing a host network up: observe, decide, act, and undo what was made if a later step fails.

mod found_ports;
mod report;
mod servers;
mod uplink;

use std::collections::HashMap;
use std::net::Ipv4Addr;

use tracing::info;

pub(crate) use self::found_ports::unknown_nics;
use self::found_ports::{ports, with_unknown};
pub use self::report::{StartReport, StartWarning, UnknownNic};
use self::servers::{start_ipv6, start_names, told_servers};
pub(crate) use self::uplink::no_uplink;
use self::uplink::{UplinkOutlook, check_uplink, ready_uplink};
use crate::bridge::{
    BridgeOrigin, BridgePlan, BridgeProblem, Observed, apply_bridge, carries_vms, ensure_ipv6, find_ipv6_use,
    give_bridges_back, observe, plan_bridge, remove_stale, seen_bridge, serves_ipv6, serves_subnet,
};
use crate::changed_settings::ChangedSettings;
use crate::connections::Counting;
use crate::dhcp::{DhcpServer, ServerFacts, SharedBindings};
use crate::dns::NameServer;
use crate::events::NetworkEvents;
use crate::exclusive::Exclusive;
use crate::firewall::{Firewall, find_forward_drops};
use crate::forwarding::{bridged_frames_are_filtered, has_ipv6, recall_guarded};
use crate::host::{Attached, Interface, KeptNic, find_tap, plan_kept};
use crate::ipv6::{Ipv6Facts, Ipv6Server};
use crate::netlink::{Ipv6Stack, Netlink, NetlinkError};
use crate::nfnetlink::PacketFilter;
use crate::rules::{Rules, SharedRules, blocking};
use crate::silence::HostIpv6;
use crate::upkeep::chain;
use crate::uplink::{give_uplinks_back, join_uplink};
use crate::{Egress, GuestAddresses, LinkName, NetworkConfig, NetworkError, RouterAdvice, UplinkProblem};

/// Everything that is up once starting succeeded.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) exclusive: Exclusive,
    pub(crate) netlink: Netlink,
    pub(crate) bridge: u32,
    pub(crate) ipv6: Ipv6Stack,
    /// The MTU of the network.
    pub(crate) mtu: u16,
    /// Why the bridge begins without its uplink.
    pub(crate) uplink_problem: Option<UplinkProblem>,
    pub(crate) bindings: SharedBindings,
    /// The interfaces that were kept and whose TAPs are there.
    pub(crate) attached: HashMap<Interface, Attached>,
    /// The interfaces that were kept and whose TAPs are gone, with the names that these had.
    pub(crate) lost: HashMap<Interface, LinkName>,
    /// What has to be kept right and given back.
    pub(crate) holdings: Holdings,
    pub(crate) events: NetworkEvents,
    pub(crate) report: StartReport,
}

/// What was made or changed on the host, and is kept right until it is given back.
#[derive(Debug)]
pub(crate) struct Holdings {
    pub(crate) origin: BridgeOrigin,
    pub(crate) rules: SharedRules,
    /// What tells guests their addresses, where we give them.
    pub(crate) dhcp: Option<DhcpServer>,
    pub(crate) names: Option<NameServer>,
    /// What serves guests of IPv6, with what it tells them.
    pub(crate) ipv6: Option<(Ipv6Server, Ipv6Facts)>,
    /// What DHCP says of the network.
    pub(crate) facts: ServerFacts,
}

#[expect(clippy::too_many_lines, reason = "one step after another, each with what undoes it")]
/// Starts the network, with the interfaces `kept` of VMs that ran on. While their TAPs are there, a failed start undoes
/// nothing: those VMs' packets pass by what an earlier run made.
pub(crate) async fn start(config: &NetworkConfig, kept: Vec<KeptNic>) -> Result<Started, NetworkError> {
    let exclusive = Exclusive::take(config)?;
    let netlink = Netlink::open()?;
    let filter = PacketFilter::open().map_err(NetlinkError::Open)?;
    let events = NetworkEvents::open(filter.port()).map_err(NetlinkError::Open)?;
    let observed = observe(&netlink).await?;
    let plan = plan_bridge(config, &observed)?;
    let runs_vms = runs_vms(config, &observed, &kept);
    let UplinkOutlook { mtu, problem: uplink_problem } = check_uplink(config, &observed, &plan, runs_vms)?;
    let config = &NetworkConfig { mtu, ..config.clone() };
    check_ipv6(config)?;
    let kept = plan_kept(config, &observed.links, kept);
    refuse_conflict(config, &observed, &plan, runs_vms)?;
    let (firewall, served) = (Firewall::new(config, host_ipv6(config, &plan), plan.origin), config.ipv6);
    let (note, adopted) = (config.note(), plan.adopted.clone());
    let (ports, links) = (ports(&kept.attached), observed.links.clone());
    let open_rules = move || {
        let mut changed = ChangedSettings::open(note);
        changed.note_bridge(adopted)?;
        let listing = firewall.listing();
        if let Some(listing) = &listing {
            recall_guarded(listing, &links, &mut changed)?;
        }
        let unknown = unknown_nics(&ports, &links, listing.as_ref());
        let ports = with_unknown(ports, &unknown, listing.as_ref(), served);
        let rules = SharedRules::new(Rules::new(firewall, changed, filter, ports));
        Ok::<_, NetworkError>((rules, unknown))
    };
    let (rules, unknown) = blocking("note what is changed on the host", open_rules).await??;
    let bindings = SharedBindings::new(kept.bindings);
    let bridge = apply_bridge(&netlink, config, &observed, &plan).await?;
    let known_guests = kept.attached.values().filter_map(Attached::tap).map(|tap| tap.identity.address);
    let guests: Vec<Ipv4Addr> = known_guests.chain(unknown.iter().map(|(_, nic)| nic.address)).collect();
    let ipv6 = if has_ipv6() { Ipv6Stack::Present } else { Ipv6Stack::Absent };
    let cleaned = remove_stale(&netlink, config, &rules, (bridge, plan.origin), (&observed, &guests)).await;
    let begun = match cleaned {
        Ok(()) => start_on_bridge(config, &netlink, bridge, &plan, &bindings, &rules).await,
        Err(error) => Err(error),
    };
    match begun {
        Ok((holdings, mut report)) => {
            report.warnings.extend(kept.warnings);
            report.unknown = unknown.into_iter().map(|(_, nic)| nic).collect();
            let (mtu, attached, lost) = (config.mtu, kept.attached, kept.lost);
            Ok(Started {
                exclusive,
                netlink,
                bridge,
                ipv6,
                mtu,
                uplink_problem,
                bindings,
                attached,
                lost,
                holdings,
                events,
                report,
            })
        }
        Err(error) => {
            if kept.attached.is_empty() {
                undo(config, &netlink, bridge, plan.origin, &rules).await;
            }
            Err(error)
        }
    }
}

/// Whether this host and the MTU of the network have room for IPv6, where there is to be any.
fn check_ipv6(config: &NetworkConfig) -> Result<(), NetworkError> {
    config.validate().map_err(NetworkError::Config)?;
    if config.ipv6.is_some() && !has_ipv6() {
        return Err(NetworkError::Bridge { name: config.bridge.clone(), problem: BridgeProblem::NoIpv6 });
    }
    Ok(())
}

/// Whether the host is to speak IPv6 on the bridge.
fn host_ipv6(config: &NetworkConfig, plan: &BridgePlan) -> HostIpv6 {
    match config.ipv6 {
        Some(subnet) => HostIpv6::Served(subnet),
        None if plan.keeps_ipv6 => HostIpv6::Kept,
        None => HostIpv6::Off,
    }
}

/// Whether VMs are in the network already.
fn runs_vms(config: &NetworkConfig, observed: &Observed, kept: &[KeptNic]) -> bool {
    let bridge = seen_bridge(&config.bridge, &observed.links).map(|link| link.index);
    let has_tap = |nic: &KeptNic| find_tap(&observed.links, nic).is_ok();
    kept.iter().any(has_tap) || carries_vms(bridge, &observed.links)
}

/// Refuses a subnet that something else on the host uses, unless VMs run in it already: those are served as well as can be,
/// and upkeep tells who is in their way.
fn refuse_conflict(
    config: &NetworkConfig,
    observed: &Observed,
    plan: &BridgePlan,
    runs_vms: bool,
) -> Result<(), NetworkError> {
    let bridge = seen_bridge(&config.bridge, &observed.links).map(|link| link.index);
    if let Some(problem) = find_ipv6_use(config, bridge, observed)
        && !(runs_vms && serves_ipv6(config, bridge, observed))
    {
        return Err(NetworkError::Bridge { name: config.bridge.clone(), problem });
    }
    match plan.uses.first() {
        Some(user) if !(runs_vms && serves_subnet(config, bridge, observed)) => {
            Err(NetworkError::SubnetInUse { subnet: config.network(), user: user.clone() })
        }
        Some(_) | None => Ok(()),
    }
}

/// Takes back what a failed start made. Its error is the one to tell; those met here could only add that something
/// stays behind.
async fn undo(
    config: &NetworkConfig,
    netlink: &Netlink,
    bridge: u32,
    origin: BridgeOrigin,
    rules: &SharedRules,
) {
    let _ = give_uplinks_back(netlink, config, Some(bridge), rules, None).await;
    let _ = rules.run("give packet forwarding back", Rules::give_back).await;
    match origin {
        BridgeOrigin::Created => {
            let _ = netlink.delete(bridge, config.bridge.as_str()).await;
        }
        BridgeOrigin::Ours | BridgeOrigin::Adopted => {}
    }
    let _ = give_bridges_back(netlink, rules).await;
}

/// The steps after the bridge. Rules and settings of the host come last: they are the only ones that would outlive an
/// error.
async fn start_on_bridge(
    config: &NetworkConfig,
    netlink: &Netlink,
    bridge: u32,
    plan: &BridgePlan,
    bindings: &SharedBindings,
    rules: &SharedRules,
) -> Result<(Holdings, StartReport), NetworkError> {
    let ipv6_router = ensure_ipv6(netlink, config, rules, (bridge, plan.origin)).await?;
    let (names, no_names) = match start_names(config, bindings).await {
        Ok(names) => (names, None),
        Err(problem) => (None, Some(StartWarning::NoNames(chain(&problem)))),
    };
    let dns = told_servers(config, names.is_some());
    let domain = config.names.clone().filter(|_| names.is_some());
    let told_domain = domain.as_ref().map(ToString::to_string);
    let facts = ServerFacts {
        address: config.gateway,
        subnet: config.network(),
        router: config.router,
        dns: dns.clone(),
        domain: told_domain,
    };
    let no_server = |cause| NetworkError::Dhcp { bridge: config.bridge.clone(), cause };
    let dhcp = match config.addresses {
        GuestAddresses::Ours => {
            Some(DhcpServer::start(bridge, facts.clone(), bindings.clone()).map_err(no_server)?)
        }
        GuestAddresses::External => None,
    };
    let ipv6 = ipv6_router.map(|router| start_ipv6(config, bridge, router, (bindings, names.as_ref())));
    let ipv6 = ipv6.transpose().map_err(no_server)?;
    let uplink = ready_uplink(config, netlink, (bridge, plan.origin), rules).await?;
    let uplink_index = uplink.as_ref().map(|(_, port)| *port);
    let (links, routes) = (netlink.links().await?, netlink.ipv4_routes().await?);
    let (answers_names, router) = (names.is_some(), config.router);
    let settle = move |rules: &mut Rules| {
        rules.firewall.names = answers_names;
        rules.firewall.uplink_index = uplink_index;
        let forwarding = rules.settle(bridge, &links, &routes)?;
        Ok::<_, NetworkError>((warnings(&rules.firewall, &dns, router), forwarding, dns))
    };
    let (mut warnings, host_forwarding, dns) = rules.run("set up packet forwarding", settle).await??;
    info!(bridge = %config.bridge, "{host_forwarding}");
    if let (Some(uplink), Some((plan, port))) = (&config.uplink, &uplink) {
        // Not before the rules: nothing passes by it without them.
        join_uplink(netlink, (bridge, *port), (uplink, plan)).await?;
        info!(bridge = %config.bridge, %uplink, "the bridge has its uplink");
    }
    warnings.extend(no_names);
    warnings.extend(plan.notes.iter().cloned().map(StartWarning::Bridge));
    let unknown = Vec::new();
    let report = StartReport { bridge: plan.origin, host_forwarding, dns, domain, warnings, unknown };
    let holdings = Holdings { origin: plan.origin, rules: rules.clone(), dhcp, names, ipv6, facts };
    Ok((holdings, report))
}

/// What is in the VMs' way. Blocks on `nft`.
fn warnings(firewall: &Firewall, dns: &[Ipv4Addr], router: RouterAdvice) -> Vec<StartWarning> {
    let mut warnings = forward_drops(firewall);
    // Guests whose way out is another network have their name servers from there.
    if dns.is_empty() && router == RouterAdvice::Told {
        warnings.push(StartWarning::NoNameServer);
    }
    if matches!(firewall.counting, Counting::ByRate(_)) {
        warnings.push(StartWarning::ConnectionsNotCounted);
    }
    warnings
}

/// Other tables that drop what VMs send and get. Blocks on `nft`.
pub(crate) fn forward_drops(firewall: &Firewall) -> Vec<StartWarning> {
    match firewall.egress {
        Egress::Masquerade | Egress::Routed => {
            let between_vms = bridged_frames_are_filtered();
            let drops = find_forward_drops(&firewall.bridge, firewall.host_ipv6.served()).into_iter();
            drops.map(|drop| StartWarning::ForwardDrop { drop, between_vms }).collect()
        }
        Egress::Isolated => Vec::new(),
    }
}
