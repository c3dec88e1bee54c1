//! The bridge: what is seen of it, what has to be done, and doing it.
//!
//! Deciding is pure: [`plan_bridge`] turns what was observed into [`BridgePlan`] or into the reason why this host
//! cannot carry the network. A bridge that this crate created bears its alias, so that it is known for ours
//! after a restart, and is kept as it was created. Any other bridge of that name is adopted: it gains the address, and
//! what it brings along is looked at by [`settings`].

mod settings;
mod stale;
mod subnet_use;

use std::fmt;

use ipnetwork::{IpNetwork, Ipv4Network};
use vm_model::{Ipv6Subnet, MacAddress};

pub use self::settings::{BridgeNote, BridgeProblem};
use self::settings::{adopt, changes_to_ours};
pub(crate) use self::stale::remove_stale;
pub use self::subnet_use::SubnetUse;
pub(crate) use self::subnet_use::{find_ipv6_use, find_uses};
use crate::changed_settings::AdoptedBridge;
use crate::ipv6::missing_addresses;
use crate::names::{BRIDGE_ALIAS, LinkName, bridge_mac, tap_owner};
use crate::netlink::{
    BridgeSetting, Ipv4Assignment, Ipv4Route, Ipv6Assignment, Link, Netlink, NetlinkError, StaticEntry,
};
use crate::rules::{Rules, SharedRules};
use crate::{GuestAddresses, NetworkConfig, NetworkError};

/// Where the bridge came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeOrigin {
    /// It was created just now.
    Created,
    /// An earlier start created it.
    Ours,
    /// Somebody else did; it is never removed, and its settings are left alone but for those that would break VMs.
    Adopted,
}

/// What was seen of the host's network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) links: Vec<Link>,
    pub(crate) addresses: Vec<Ipv4Assignment>,
    pub(crate) routes: Vec<Ipv4Route>,
    pub(crate) ipv6: Vec<Ipv6Assignment>,
    /// What bridges do not forget by themselves.
    pub(crate) entries: Vec<StaticEntry>,
}

/// One step towards the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BridgeAction {
    Create,
    /// It is ours under another name.
    Rename,
    /// Alias, MTU and up, in one request.
    Configure,
    BringUp,
    Change(BridgeSetting),
    AddAddress(Ipv4Network),
}

impl fmt::Display for BridgeAction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create => formatter.write_str("made"),
            Self::Rename => formatter.write_str("renamed back"),
            Self::Configure => formatter.write_str("alias, MTU and state set"),
            Self::BringUp => formatter.write_str("brought up"),
            Self::Change(setting) => setting.fmt(formatter),
            Self::AddAddress(address) => write!(formatter, "address {address} added"),
        }
    }
}

/// The steps in order, and whose bridge it will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BridgePlan {
    pub(crate) origin: BridgeOrigin,
    pub(crate) actions: Vec<BridgeAction>,
    /// What has to be given back of an adopted bridge; `None` for one of ours.
    pub(crate) adopted: Option<AdoptedBridge>,
    /// The MTU of the network: the configured one, or an adopted bridge's smaller one.
    pub(crate) mtu: u16,
    /// Whether the host speaks IPv6 on the bridge, as it did before.
    pub(crate) keeps_ipv6: bool,
    /// What an adopted bridge brings along that VMs or the host will notice.
    pub(crate) notes: Vec<BridgeNote>,
    /// Who else uses addresses of the subnet.
    pub(crate) uses: Vec<SubnetUse>,
}

pub(crate) async fn observe(netlink: &Netlink) -> Result<Observed, NetlinkError> {
    Ok(Observed {
        links: netlink.links().await?,
        addresses: netlink.ipv4_addresses().await?,
        routes: netlink.ipv4_routes().await?,
        ipv6: netlink.ipv6_addresses().await?,
        entries: netlink.static_entries().await?,
    })
}

/// Who else uses the subnet is told in the plan, and refused by none but a start without VMs.
///
/// # Errors
/// If the name belongs to a link of another kind.
pub(crate) fn plan_bridge(config: &NetworkConfig, observed: &Observed) -> Result<BridgePlan, NetworkError> {
    let bridge = seen_bridge(&config.bridge, &observed.links);
    if let Some(link) = bridge
        && link.kind.as_deref() != Some("bridge")
    {
        let kind = link.kind.clone().unwrap_or_else(|| "physical".to_owned());
        let problem = BridgeProblem::NotABridge { kind };
        return Err(NetworkError::Bridge { name: config.bridge.clone(), problem });
    }
    let index = bridge.map(|link| link.index);
    let mut plan = match bridge {
        None => BridgePlan {
            actions: vec![BridgeAction::Create, BridgeAction::Configure],
            ..BridgePlan::new(BridgeOrigin::Created, config)
        },
        Some(link) if is_half_made(link, observed) => BridgePlan {
            actions: vec![BridgeAction::Configure],
            ..BridgePlan::new(BridgeOrigin::Ours, config)
        },
        Some(link) if link.alias.as_deref() == Some(BRIDGE_ALIAS) => {
            let is_configured = link.is_up && link.mtu == u32::from(config.mtu);
            let mut actions = if is_configured { vec![] } else { vec![BridgeAction::Configure] };
            actions.extend(changes_to_ours(link).map(BridgeAction::Change));
            BridgePlan { actions, ..BridgePlan::new(BridgeOrigin::Ours, config) }
        }
        Some(link) => adopt(config, link, observed)?,
    };
    if bridge.is_some_and(|link| link.name != config.bridge.as_str()) {
        plan.actions.insert(0, BridgeAction::Rename);
    }
    let has = |wanted: Ipv4Network| {
        let is_it = |it: &Ipv4Assignment| Some(it.link) == index && it.address == wanted;
        observed.addresses.iter().any(is_it)
    };
    if let Some(wanted) = config.host_address().filter(|wanted| !has(*wanted)) {
        plan.actions.push(BridgeAction::AddAddress(wanted));
        if let Some(adopted) = &mut plan.adopted {
            adopted.addresses.push(wanted.into());
        }
    }
    plan.uses = match config.addresses {
        GuestAddresses::Ours => find_uses(config.network(), index, observed),
        // The host takes no part in the network, so packets of its own go where they went before.
        GuestAddresses::External => Vec::new(),
    };
    Ok(plan)
}

/// Whether a TAP of ours is a port of the bridge with the index `bridge`: a VM may run.
pub(crate) fn carries_vms(bridge: Option<u32>, links: &[Link]) -> bool {
    links.iter().any(|link| {
        let is_ours = link.alias.as_deref().and_then(tap_owner).is_some();
        is_ours && link.controller.is_some() && link.controller == bridge
    })
}

/// Whether VMs that run on the bridge with the index `bridge` have the IPv4 network of `config` already: then somebody else who
/// uses it came later. A network that is only about to be theirs gets in the way of who has it.
pub(crate) fn serves_subnet(config: &NetworkConfig, bridge: Option<u32>, observed: &Observed) -> bool {
    let network = config.network();
    observed.addresses.iter().any(|Ipv4Assignment { link, address }| {
        Some(*link) == bridge && address.prefix() == network.prefix() && network.contains(address.ip())
    })
}

/// As [`serves_subnet`], of the IPv6 network.
pub(crate) fn serves_ipv6(config: &NetworkConfig, bridge: Option<u32>, observed: &Observed) -> bool {
    let own = observed.ipv6.iter().filter(|ipv6| Some(ipv6.link) == bridge);
    config.ipv6.is_some_and(|subnet| own.into_iter().any(|ipv6| subnet.contains(ipv6.address.ip())))
}

/// Our bridge that should be called `name`, and that somebody has renamed: only it bears our alias and the hardware address
/// that we derive from the name.
fn find_renamed<'a>(name: &LinkName, links: &'a [Link]) -> Option<&'a Link> {
    links.iter().find(|link| {
        link.kind.as_deref() == Some("bridge")
            && link.alias.as_deref() == Some(BRIDGE_ALIAS)
            && link.mac == Some(bridge_mac(name))
    })
}

/// The bridge as it is seen, also under another name.
pub(crate) fn seen_bridge<'a>(name: &LinkName, links: &'a [Link]) -> Option<&'a Link> {
    links.iter().find(|link| link.name == name.as_str()).or_else(|| find_renamed(name, links))
}

/// Whether an earlier run created the bridge `link` and was killed before it gave it its alias. Nobody else gives a bridge
/// the hardware address that we derive from its name.
fn is_half_made(link: &Link, observed: &Observed) -> bool {
    let is_bare = link.alias.is_none()
        && !link.is_up
        && link.mac == LinkName::parse(&link.name).ok().map(|name| bridge_mac(&name));
    let has_ports = observed.links.iter().any(|port| port.controller == Some(link.index));
    is_bare && !has_ports && observed.addresses.iter().all(|address| address.link != link.index)
}

impl BridgePlan {
    fn new(origin: BridgeOrigin, config: &NetworkConfig) -> Self {
        let (actions, notes, uses) = (Vec::new(), Vec::new(), Vec::new());
        Self { origin, actions, adopted: None, mtu: config.mtu, keeps_ipv6: false, notes, uses }
    }
}

/// Carries the plan out and returns the bridge's index.
///
/// # Errors
/// The first refusal; a bridge created just before is removed again.
pub(crate) async fn apply_bridge(
    netlink: &Netlink,
    config: &NetworkConfig,
    observed: &Observed,
    plan: &BridgePlan,
) -> Result<u32, NetlinkError> {
    let name = &config.bridge;
    let seen = seen_bridge(name, &observed.links).map(|link| link.index);
    let mut index = seen;
    for action in &plan.actions {
        let done = match (action, index) {
            (BridgeAction::Create, _) => create(netlink, config).await.map(|created| {
                index = Some(created);
            }),
            (BridgeAction::Rename, Some(index)) => netlink.rename(index, name).await,
            (BridgeAction::Configure, _) => netlink.configure_bridge(name, BRIDGE_ALIAS, config.mtu).await,
            (BridgeAction::Change(setting), _) => netlink.change_bridge(name, *setting).await,
            (BridgeAction::BringUp, Some(index)) => netlink.set_up(index, name.as_str()).await,
            (BridgeAction::AddAddress(address), Some(index)) => netlink.add_address(index, *address).await,
            (BridgeAction::Rename | BridgeAction::BringUp | BridgeAction::AddAddress(_), None) => {
                Err(vanished(config))
            }
        };
        if let Err(error) = done {
            if let (None, Some(created)) = (seen, index) {
                // The first error is the one to tell; this one could only repeat it.
                let _ = netlink.delete(created, name.as_str()).await;
            }
            return Err(error);
        }
    }
    index.ok_or_else(|| vanished(config))
}

async fn create(netlink: &Netlink, config: &NetworkConfig) -> Result<u32, NetlinkError> {
    netlink.create_bridge(&config.bridge, bridge_mac(&config.bridge)).await?;
    netlink
        .links()
        .await?
        .into_iter()
        .find(|link| link.name == config.bridge.as_str())
        .map(|link| link.index)
        .ok_or_else(|| vanished(config))
}

/// Gives every bridge that was adopted, by this run or an earlier one, its ageing time and addresses back, and forgets
/// it. One that is gone, or was made again, has nothing of ours.
///
/// # Errors
/// If the kernel refuses; what is not given back stays noted.
pub(crate) async fn give_bridges_back(netlink: &Netlink, rules: &SharedRules) -> Result<(), NetworkError> {
    let list = |rules: &mut Rules| rules.changed.bridges().to_vec();
    let adopted = rules.run("look what was changed on the bridge", list).await?;
    let links = netlink.links().await?;
    for AdoptedBridge { index, name, addresses, ageing_time } in adopted {
        let there = links.iter().find(|link| link.index == index && link.name == name.as_str());
        if there.is_some_and(|link| link.alias.as_deref() == Some(BRIDGE_ALIAS)) {
            // One of ours has nothing to get back, and what it was given is known for as long as it is there.
            continue;
        }
        if there.is_some() {
            if let Some(time) = ageing_time {
                netlink.change_bridge(&name, BridgeSetting::AgeingTime(time)).await?;
            }
            for address in addresses {
                netlink.remove_address(index, address).await?;
            }
        }
        let forget = move |rules: &mut Rules| rules.changed.forget_bridge(index);
        rules.run("note that the bridge is given back", forget).await?;
    }
    Ok(())
}

/// Gives the bridge with the index `bridge` the host's IPv6 addresses, and has the host use them, where the network has
/// IPv6. Answers the bridge's hardware address then.
///
/// # Errors
/// If the kernel refuses, or a change to another's bridge cannot be noted.
pub(crate) async fn ensure_ipv6(
    netlink: &Netlink,
    config: &NetworkConfig,
    rules: &SharedRules,
    (bridge, origin): (u32, BridgeOrigin),
) -> Result<Option<(Ipv6Subnet, MacAddress)>, NetworkError> {
    let Some(subnet) = config.ipv6 else { return Ok(None) };
    rules.run("have the host speak IPv6 on the bridge", move |rules| rules.silence(bridge)).await??;
    let observed = observe(netlink).await?;
    let (mac, missing) = missing_addresses(subnet, bridge, &observed).ok_or_else(|| vanished(config))?;
    if origin == BridgeOrigin::Adopted {
        let addresses = missing.iter().copied().map(IpNetwork::from).collect();
        let adopted = AdoptedBridge { addresses, ..AdoptedBridge::untouched(bridge, &config.bridge) };
        let note = move |rules: &mut Rules| rules.changed.note_bridge(Some(adopted));
        rules.run("note what is changed on the bridge", note).await??;
    }
    for address in missing {
        netlink.add_ipv6_address(bridge, address).await?;
    }
    Ok(Some((subnet, mac)))
}

fn vanished(config: &NetworkConfig) -> NetlinkError {
    NetlinkError::Refused {
        operation: format!("find the bridge {}", config.bridge),
        cause: std::io::Error::from_raw_os_error(libc::ENODEV),
    }
}

#[cfg(test)]
mod tests;
