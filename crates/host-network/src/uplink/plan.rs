//! What has to be done so that a bridge has its uplink, or why it cannot have it. Nothing is looked at here.

use ipnetwork::IpNetwork;

use super::{Uplink, UplinkProblem};
use crate::LinkName;
use crate::bridge::{BridgeOrigin, Observed};
use crate::changed_settings::GivenUplink;
use crate::names::{ALIAS_PREFIX, uplink_vlan_alias};
use crate::netlink::Link;

/// One step towards the uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UplinkStep {
    /// There is no link for the VLAN.
    MakeVlan,
    /// The VLAN's link does not bear our mark yet.
    MarkVlan,
    /// The interface below the VLAN is down.
    BringParentUp,
    /// The port is none of the bridge.
    Join,
    BringPortUp,
}

/// The steps in order, on what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UplinkPlan {
    /// The index of the host's interface.
    pub(crate) parent: u32,
    /// The index of the link that is the port; `None` where it has to be made.
    pub(crate) port: Option<u32>,
    /// The MTU of the host's interface.
    pub(crate) mtu: u32,
    /// Whether something is connected to the port; not where there is no port yet, or it is down.
    pub(crate) has_carrier: bool,
    pub(crate) steps: Vec<UplinkStep>,
    /// What the host's interface was like, where the steps change it.
    pub(crate) before: Option<GivenUplink>,
}

/// Decides for the bridge `bridge` of this origin, which has the index `index` once it is there.
///
/// # Errors
/// If the interface cannot be the uplink as it is.
pub(crate) fn plan_uplink(
    uplink: &Uplink,
    bridge: &LinkName,
    (index, origin): (Option<u32>, BridgeOrigin),
    observed: &Observed,
) -> Result<UplinkPlan, UplinkProblem> {
    let links = &observed.links;
    let parent = links.iter().find(|link| link.name == uplink.link.as_str()).ok_or(UplinkProblem::Missing)?;
    refuse_kind(parent)?;
    match origin {
        BridgeOrigin::Created | BridgeOrigin::Ours => {}
        BridgeOrigin::Adopted => return Err(UplinkProblem::OthersBridge),
    }
    let is_joined = |link: &Link| index.is_some() && link.controller == index;
    let mut steps = Vec::new();
    let port = match uplink.vlan {
        None if is_joined(parent) => Some(parent),
        None => {
            refuse_in_use(parent, observed)?;
            Some(parent)
        }
        Some(_) => {
            refuse_bonded(parent, links)?;
            let port = find_vlan(uplink, bridge, parent, links)?;
            steps.extend(match port {
                None => Some(UplinkStep::MakeVlan),
                Some(link) if link.alias.is_none() => Some(UplinkStep::MarkVlan),
                Some(_) => None,
            });
            if !parent.is_up {
                steps.push(UplinkStep::BringParentUp);
            }
            port
        }
    };
    if !port.is_some_and(is_joined) {
        steps.push(UplinkStep::Join);
    }
    if !port.is_some_and(|link| link.is_up) {
        steps.push(UplinkStep::BringPortUp);
    }
    let is_touched = !steps.is_empty();
    let before = GivenUplink { index: parent.index, name: parent.name.clone(), was_up: parent.is_up };
    let (parent, mtu) = (parent.index, parent.mtu);
    Ok(UplinkPlan {
        parent,
        port: port.map(|link| link.index),
        mtu,
        has_carrier: port.is_some_and(|link| link.has_carrier),
        steps,
        before: is_touched.then_some(before),
    })
}

fn refuse_kind(link: &Link) -> Result<(), UplinkProblem> {
    let is_ours = link.alias.as_deref().is_some_and(|alias| alias.starts_with(ALIAS_PREFIX));
    let kind = match link.kind.as_deref() {
        _ if link.is_loopback => "the loopback interface".to_owned(),
        _ if is_ours => "a link of this worker".to_owned(),
        Some("bridge") => "a bridge itself".to_owned(),
        _ if link.mac.is_none() => "no Ethernet interface".to_owned(),
        _ => return Ok(()),
    };
    Err(UplinkProblem::Kind { kind })
}

/// Refuses an interface that means something else to this host.
fn refuse_in_use(link: &Link, observed: &Observed) -> Result<(), UplinkProblem> {
    if let Some(controller) = link.controller {
        return Err(controlled(controller, &observed.links));
    }
    let ipv4 = observed.addresses.iter().find(|it| it.link == link.index);
    let ipv4 = ipv4.map(|it| IpNetwork::V4(it.address));
    let ipv6 = observed.ipv6.iter().find(|it| it.link == link.index && it.is_global);
    if let Some(address) = ipv4.or(ipv6.map(|it| IpNetwork::V6(it.address))) {
        return Err(UplinkProblem::Address { address });
    }
    let mut routes = observed.routes.iter().filter(|route| route.links.contains(&link.index));
    match routes.next().map(|route| route.destination) {
        Some(destination) => Err(UplinkProblem::Route { destination: IpNetwork::V4(destination) }),
        None => Ok(()),
    }
}

/// Refuses an interface whose frames go to a bond. A bridge leaves the frames of a VLAN to the VLAN's own link.
fn refuse_bonded(link: &Link, links: &[Link]) -> Result<(), UplinkProblem> {
    let Some(controller) = link.controller else { return Ok(()) };
    let is_bridge =
        links.iter().any(|other| other.index == controller && other.kind.as_deref() == Some("bridge"));
    if is_bridge { Ok(()) } else { Err(controlled(controller, links)) }
}

fn controlled(controller: u32, links: &[Link]) -> UplinkProblem {
    let link = links.iter().find(|link| link.index == controller);
    let controller = link.map_or_else(|| format!("link {controller}"), |link| link.name.clone());
    UplinkProblem::Controlled { controller }
}

/// Our link for the VLAN. One without any mark, down and on no bridge, is what a run that was killed has left.
fn find_vlan<'a>(
    uplink: &Uplink,
    bridge: &LinkName,
    parent: &Link,
    links: &'a [Link],
) -> Result<Option<&'a Link>, UplinkProblem> {
    let vlan = uplink.vlan.map(super::VlanId::get);
    let (name, alias) = (uplink.port(), uplink_vlan_alias(bridge));
    let is_the_vlan =
        |link: &Link| link.parent == Some(parent.index) && link.vlan.is_some() && link.vlan == vlan;
    let Some(found) = links.iter().find(|link| is_the_vlan(link) || link.name == name.as_str()) else {
        return Ok(None);
    };
    let is_marked = found.alias.as_deref() == Some(alias.as_str());
    let is_half_made =
        found.name == name.as_str() && found.alias.is_none() && !found.is_up && found.controller.is_none();
    if is_the_vlan(found) && (is_marked || is_half_made) {
        Ok(Some(found))
    } else {
        Err(UplinkProblem::VlanTaken { link: found.name.clone() })
    }
}

#[cfg(test)]
mod tests;
