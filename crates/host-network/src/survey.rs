//! What a start would find on this host, for those who only want to know. Nothing is changed.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use vm_model::VmId;

use crate::bridge::{
    BridgeOrigin, BridgePlan, Observed, SubnetUse, carries_vms, find_ipv6_use, find_uses, observe,
    plan_bridge, seen_bridge, serves_ipv6, serves_subnet,
};
use crate::changed_settings::ChangedSettings;
use crate::firewall::Firewall;
use crate::forwarding::{describe, observe_forwarding, plan_forwarding, recall_guarded};
use crate::host::listed_access;
use crate::names::BRIDGE_ALIAS;
use crate::netlink::{Link, Netlink};
use crate::rules::blocking;
use crate::silence::HostIpv6;
use crate::start::no_uplink;
use crate::uplink::plan_uplink;
use crate::{
    AttachmentProblem, HostForwarding, LinkName, NetworkConfig, NetworkError, UplinkProblem, check_access,
};

/// What stands for and against a network on this host.
#[derive(Debug)]
pub struct Survey {
    /// Why the link that has the bridge's name cannot be the bridge; `None` where it can, and where there is none yet.
    pub bridge: Option<NetworkError>,
    /// Why the bridge cannot have its uplink.
    pub uplink: Option<NetworkError>,
    /// Whether the uplink could be had, and is up with nothing connected to it.
    pub uplink_is_unplugged: bool,
    /// Who else uses addresses of the subnet.
    pub uses: Vec<SubnetUse>,
    /// Whether VMs are on the bridge: then a start is not refused for the uplink, and tells of it while it serves those VMs.
    pub runs_vms: bool,
    /// Whether those VMs have the subnet already: then a start is not refused for who uses it, and tells of them.
    pub serves_subnet: bool,
    /// Whether VMs are on the bridge that the network had before: then it stays there until none is.
    pub held_back: bool,
    /// Whether that bridge is there, with VMs on it or not.
    pub former_is_there: bool,
    /// VMs in the network that could not be in it as it is configured, each with why: a start keeps it as it was before.
    pub unfit: Vec<(VmId, AttachmentProblem)>,
    /// A subnet that nobody uses.
    pub free: Option<Ipv4Network>,
    /// Whom the host forwards for while the network is up.
    pub forwarding: HostForwarding,
}

/// Looks at this host as a start with `config` does that has noted `former_name` as its bridge so far, in the network namespace of the
/// calling thread.
///
/// # Errors
/// The host's links, addresses or routes cannot be listed.
pub async fn survey(config: &NetworkConfig, former_name: Option<&LinkName>) -> Result<Survey, NetworkError> {
    config.validate().map_err(NetworkError::Config)?;
    let netlink = Netlink::open()?;
    let observed = observe(&netlink).await;
    let wants_vlan = config.uplink.as_ref().is_some_and(|uplink| uplink.vlan.is_some());
    let lacks_vlans = wants_vlan && !netlink.has_vlans().await;
    netlink.close().await;
    let mut observed = observed?;
    let former = former_name.and_then(|name| ours(name, &observed.links));
    let (held_back, former_is_there) = (carries_vms(former, &observed.links), former.is_some());
    match former {
        Some(former) if !held_back => observed = without(observed, former),
        Some(_) | None => {}
    }
    let bridge =
        if held_back { former } else { seen_bridge(&config.bridge, &observed.links).map(|link| link.index) };
    let runs_vms = carries_vms(bridge, &observed.links);
    let in_use = find_ipv6_use(config, bridge, &observed)
        .map(|problem| NetworkError::Bridge { name: config.bridge.clone(), problem })
        .filter(|_| !(runs_vms && serves_ipv6(config, bridge, &observed)));
    let serves_subnet = runs_vms && serves_subnet(config, bridge, &observed);
    let (refused, uses, uplink) = match plan_bridge(config, &observed) {
        Ok(BridgePlan { origin, uses, .. }) => {
            let uplink = find_uplink_problem(config, (bridge, origin), &observed, lacks_vlans);
            let uses = if held_back { find_uses(config.network(), bridge, &observed) } else { uses };
            (in_use, uses, uplink)
        }
        Err(refused) => (Some(refused), find_uses(config.network(), bridge, &observed), None),
    };
    let free = free_subnet(bridge, &observed);
    let is_unplugged = config.uplink.as_ref().is_some_and(|uplink| {
        let mut links = observed.links.iter();
        links.any(|link| link.name == uplink.link.as_str() && link.is_up && !link.has_carrier)
    });
    let present = match former_name.filter(|_| held_back) {
        Some(former) => NetworkConfig::new(former.clone(), config.subnet),
        None => config.clone(),
    };
    let config = config.clone();
    let look = move || {
        let unfit = find_unfit(&config, &present, &observed.links);
        Ok::<_, NetworkError>((forwarding(&config, bridge.unwrap_or_default(), &observed)?, unfit))
    };
    let (forwarding, unfit) = blocking("look whom the host forwards for", look).await??;
    let uplink_is_unplugged = uplink.is_none() && is_unplugged;
    Ok(Survey {
        bridge: refused,
        uplink,
        uplink_is_unplugged,
        uses,
        runs_vms,
        serves_subnet,
        held_back,
        former_is_there,
        unfit,
        free,
        forwarding,
    })
}

impl Survey {
    /// Whether a start goes on without the uplink that it cannot have.
    pub fn starts_without_uplink(&self) -> bool {
        let may_pass =
            matches!(&self.uplink, Some(NetworkError::Uplink { problem, .. }) if problem.may_pass());
        self.runs_vms || may_pass
    }
}

/// The index of the bridge `name`, where it is one that this crate made.
fn ours(name: &LinkName, links: &[Link]) -> Option<u32> {
    let bridge = seen_bridge(name, links)?;
    (bridge.alias.as_deref() == Some(BRIDGE_ALIAS)).then_some(bridge.index)
}

/// The host once the bridge with this index is gone.
fn without(mut observed: Observed, bridge: u32) -> Observed {
    observed.links.retain(|link| link.index != bridge);
    observed.addresses.retain(|address| address.link != bridge);
    observed.routes.retain(|route| route.links != [bridge]);
    observed.ipv6.retain(|address| address.link != bridge);
    observed
}

fn find_uplink_problem(
    config: &NetworkConfig,
    bridge: (Option<u32>, BridgeOrigin),
    observed: &Observed,
    lacks_vlans: bool,
) -> Option<NetworkError> {
    let uplink = config.uplink.as_ref()?;
    let problem = plan_uplink(uplink, &config.bridge, bridge, observed).err();
    let problem = problem.or(lacks_vlans.then_some(UplinkProblem::NoVlans))?;
    Some(no_uplink(config, uplink, problem))
}

fn free_subnet(bridge: Option<u32>, observed: &Observed) -> Option<Ipv4Network> {
    let candidates =
        (100..=255).filter_map(|second| Ipv4Network::new(Ipv4Addr::new(10, second, 0, 0), 16).ok());
    candidates.into_iter().find(|network| find_uses(*network, bridge, observed).is_empty())
}

/// Blocks.
fn find_unfit(
    config: &NetworkConfig,
    present: &NetworkConfig,
    links: &[Link],
) -> Vec<(VmId, AttachmentProblem)> {
    let firewall = Firewall::new(present, HostIpv6::Off, BridgeOrigin::Ours);
    let guests = listed_access(&firewall, links).into_iter();
    guests.filter_map(|(vm, access)| Some((vm, check_access(config, &access).err()?))).collect()
}

/// Blocks.
fn forwarding(
    config: &NetworkConfig,
    bridge: u32,
    observed: &Observed,
) -> Result<HostForwarding, NetworkError> {
    // Without a note: what is turned on for VMs is told by its guards.
    let mut changed = ChangedSettings::open(None);
    if let Some(listing) = Firewall::new(config, HostIpv6::Off, BridgeOrigin::Ours).listing() {
        recall_guarded(&listing, &observed.links, &mut changed)?;
    }
    let seen = observe_forwarding(bridge, &observed.links, &observed.routes, &config.peers, &changed);
    Ok(describe(config.egress, bridge, &seen, &plan_forwarding(config.egress, bridge, &seen)))
}
