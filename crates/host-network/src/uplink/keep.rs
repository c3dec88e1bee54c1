//! Giving a bridge its uplink, and giving the host's interface back.

use tracing::{info, warn};

use super::plan::UplinkStep;
use super::{Uplink, UplinkPlan, UplinkProblem};
use crate::NetworkError;
use crate::bridge::Observed;
use crate::changed_settings::{ChangedSettings, GivenUplink};
use crate::names::uplink_vlan_alias;
use crate::netlink::{Link, Netlink, NetlinkError};
use crate::rules::{Rules, SharedRules};
use crate::silence::{is_silenced, silence_link, silence_own_link};
use crate::{LinkName, NetworkConfig, SettingsError};

/// Notes what is about to be changed of the host's interface, and makes the VLAN's link where there is to be one. Answers the
/// index of the link that is to be the port; no frame passes there yet.
///
/// # Errors
/// If it cannot be noted, or the kernel refuses.
pub(crate) async fn prepare_uplink(
    netlink: &Netlink,
    rules: &SharedRules,
    bridge: &LinkName,
    (uplink, plan): (&Uplink, &UplinkPlan),
) -> Result<u32, NetworkError> {
    let before = plan.before.clone();
    let note = move |rules: &mut Rules| rules.changed.note_uplink(before);
    rules.run("note what is changed of the uplink", note).await??;
    let mut port = plan.port;
    for step in &plan.steps {
        match (step, uplink.vlan, port) {
            (UplinkStep::MakeVlan, Some(vlan), _) => {
                let name = uplink.port();
                netlink.create_vlan(&name, plan.parent, vlan).await.map_err(|refusal| {
                    if refusal.errno() == Some(libc::EOPNOTSUPP) {
                        no_vlans(bridge, uplink)
                    } else {
                        refusal.into()
                    }
                })?;
                let links = netlink.links().await?;
                let made =
                    links.iter().find(|link| link.name == name.as_str()).ok_or_else(|| gone(uplink))?;
                netlink.mark(made.index, &name, &uplink_vlan_alias(bridge)).await?;
                port = Some(made.index);
            }
            (UplinkStep::MarkVlan, Some(_), Some(port)) => {
                netlink.mark(port, &uplink.port(), &uplink_vlan_alias(bridge)).await?;
            }
            (UplinkStep::MakeVlan | UplinkStep::MarkVlan, ..)
            | (UplinkStep::BringParentUp | UplinkStep::Join | UplinkStep::BringPortUp, ..) => {}
        }
    }
    let port = port.ok_or_else(|| gone(uplink))?;
    let parent = (plan.parent, uplink.clone());
    let silence = move |rules: &mut Rules| silence_uplink(parent, port, &mut rules.changed);
    rules.run("have the host believe nothing on the uplink", silence).await??;
    Ok(port)
}

/// Has this host speak no IPv6 on the port, and on the interface below it where that was down: nobody but us uses it. What comes in
/// there without the bridge meets none of our rules. Blocks.
fn silence_uplink(
    (parent, uplink): (u32, Uplink),
    port: u32,
    changed: &mut ChangedSettings,
) -> Result<(), SettingsError> {
    let was_down = changed.uplinks().iter().any(|given| given.index == parent && !given.was_up);
    if port == parent || was_down {
        silence_link(parent, uplink.link.as_str(), changed)?;
    }
    if port != parent {
        // It goes with the network.
        silence_own_link(uplink.port().as_str());
    }
    Ok(())
}

/// Makes the link with the index `port` a port of the bridge with the index `bridge`, and brings it up. The rules for what
/// passes there are in force.
///
/// # Errors
/// If the kernel refuses.
pub(crate) async fn join_uplink(
    netlink: &Netlink,
    (bridge, port): (u32, u32),
    (uplink, plan): (&Uplink, &UplinkPlan),
) -> Result<(), NetlinkError> {
    let name = uplink.port();
    for step in &plan.steps {
        match step {
            UplinkStep::MakeVlan | UplinkStep::MarkVlan => {}
            UplinkStep::BringParentUp => netlink.set_up(plan.parent, uplink.link.as_str()).await?,
            UplinkStep::Join => netlink.set_controller(port, name.as_str(), Some(bridge)).await?,
            UplinkStep::BringPortUp => netlink.set_up(port, name.as_str()).await?,
        }
    }
    Ok(())
}

/// Gives the host's interfaces back that are uplinks of the bridge of `config`, or that earlier runs made so, all but the one of
/// `kept`: they leave the bridge with the index `bridge`, what was down is down again, and links of VLANs are removed.
///
/// # Errors
/// If the kernel refuses; what is not given back stays noted.
pub(crate) async fn give_uplinks_back(
    netlink: &Netlink,
    config: &NetworkConfig,
    bridge: Option<u32>,
    rules: &SharedRules,
    kept: Option<&Uplink>,
) -> Result<(), NetworkError> {
    let list = |rules: &mut Rules| rules.changed.uplinks().to_vec();
    let given = rules.run("look which uplinks were taken", list).await?;
    let Observed { links, .. } = crate::bridge::observe(netlink).await?;
    let alias = uplink_vlan_alias(&config.bridge);
    let kept_port = kept.map(Uplink::port);
    let ours =
        links.iter().filter(|link| link.alias.as_deref() == Some(alias.as_str()) && link.vlan.is_some());
    for vlan in ours.filter(|link| kept_port.as_ref().is_none_or(|kept| kept.as_str() != link.name)) {
        netlink.delete(vlan.index, &vlan.name).await?;
        info!(bridge = %config.bridge, link = vlan.name, "removed the link of the uplink's VLAN");
    }
    for uplink in given {
        if kept.is_some_and(|kept| kept.link.as_str() == uplink.name) {
            continue;
        }
        give_back(netlink, bridge, &links, &uplink).await?;
        let index = uplink.index;
        let forget = move |rules: &mut Rules| {
            rules.changed.give_back(|link, switch| link == index && is_silenced(switch));
            rules.changed.forget_uplink(index);
        };
        rules.run("note that an uplink is given back", forget).await?;
    }
    Ok(())
}

async fn give_back(
    netlink: &Netlink,
    bridge: Option<u32>,
    links: &[Link],
    GivenUplink { index, name, was_up }: &GivenUplink,
) -> Result<(), NetlinkError> {
    // One that is gone, or was made again, has nothing of ours.
    let Some(link) = links.iter().find(|link| link.index == *index && link.name == *name) else {
        return Ok(());
    };
    if link.controller.is_some() && link.controller == bridge {
        netlink.set_controller(*index, name, None).await?;
        info!(link = name, "the uplink is no port of the bridge any more");
    }
    // Others may have begun to use it meanwhile: a bridge, or a link on it that is not removed with ours.
    let is_others = link.controller.is_some() && link.controller != bridge;
    // One end of a veth pair names the other as what it is a part of, by an index that may be of another namespace.
    let is_part = |other: &Link| {
        let is_on_top = matches!(other.kind.as_deref(), Some("vlan" | "macvlan" | "macvtap" | "ipvlan"));
        is_on_top && other.parent == Some(*index)
    };
    let carries = |other: &Link| is_part(other) && other.is_up && !is_our_vlan(other);
    if !was_up && link.is_up && !is_others && !links.iter().any(carries) {
        netlink.set_down(*index, name).await?;
    } else if !was_up && link.is_up {
        warn!(link = name, "the uplink stays up, though it was down before: others use it now");
    }
    Ok(())
}

fn is_our_vlan(link: &Link) -> bool {
    link.alias.as_deref().is_some_and(|alias| alias.starts_with(crate::names::ALIAS_PREFIX))
}

fn no_vlans(bridge: &LinkName, uplink: &Uplink) -> NetworkError {
    NetworkError::Uplink { bridge: bridge.clone(), uplink: uplink.clone(), problem: UplinkProblem::NoVlans }
}

fn gone(uplink: &Uplink) -> NetlinkError {
    NetlinkError::Refused {
        operation: format!("find the uplink {uplink}"),
        cause: std::io::Error::from_raw_os_error(libc::ENODEV),
    }
}
