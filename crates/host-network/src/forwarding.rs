//! Which links forward packets, so that VMs reach the rest of the world and nobody else gains a router.
//!
//! The kernel decides by the link that a packet comes in by. For what VMs send, that is the bridge; for the answers it
//! is whatever link leads out. On a host that forwards for everybody (`ip_forward`) nothing but the bridge's own
//! switch needs a look. On any other host that switch stays off: the links that lead out get forwarding one by one,
//! each guarded by a rule that drops what comes in there and does not go on to the bridge. When somebody turns
//! `ip_forward` on, the guards go: that host now forwards for everybody, as its owner wants.

use std::fmt;
use std::fs;
use std::path::Path;

use tracing::{debug, info};

use crate::changed_settings::{ALL_LINKS, ChangedSettings, SettingsError, Switch, look_at};
use crate::firewall::{GuardedLink, Listing};
use crate::names::BRIDGE_ALIAS;
use crate::netlink::{Ipv4Route, Link};
use crate::{Egress, LinkName};

/// The switch for all links at once.
const HOST_SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";
/// Whether bridged frames are put through the IP filter (module `br_netfilter`).
const BRIDGE_FILTER_SWITCH: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// What is so of a link that the worker neither turned on nor guards.
const SET_BY_OTHERS: &str = "forwarding was on there before, by another network of VMs or the host's owner, who says for whom else it is";

/// Whom this host forwards packets for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostForwarding {
    /// The VMs' network forwards nothing.
    NotNeeded,
    /// Everybody, as its owner had set it before: nothing was changed but on the bridge.
    ForEverybody,
    /// VMs only: `ip_forward` is off.
    ForVmsOnly {
        /// The links that lead out, on which forwarding was turned on, guarded by rules.
        links: Vec<String>,
        /// The links that lead out and on which somebody else has turned forwarding on: the host's owner, or another worker.
        owners: Vec<String>,
    },
}

impl fmt::Display for HostForwarding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNeeded => formatter.write_str("the host forwards nothing from and to VMs"),
            Self::ForEverybody => {
                formatter.write_str("ip_forward is on: the host forwards for everybody, VMs included")
            }
            Self::ForVmsOnly { links, owners } => {
                formatter.write_str("ip_forward is off and stays off; ")?;
                match (links.is_empty(), owners.is_empty()) {
                    (true, true) => formatter.write_str("no link leads out yet, so VMs reach the host only"),
                    (false, true) => {
                        write!(
                            formatter,
                            "packets from and to VMs alone are forwarded on {}",
                            links.join(", ")
                        )
                    }
                    (true, false) => {
                        write!(formatter, "VMs reach out by {}: {SET_BY_OTHERS}", owners.join(", "))
                    }
                    (false, false) => write!(
                        formatter,
                        "packets from and to VMs alone are forwarded on {}, and VMs reach out by {} too: \
                         {SET_BY_OTHERS}",
                        links.join(", "),
                        owners.join(", ")
                    ),
                }
            }
        }
    }
}

/// One link as far as forwarding goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkForwarding {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) is_bridge: bool,
    /// Whether a route leads through it.
    pub(crate) leads_out: bool,
    pub(crate) forwards: bool,
    /// Whether its switch is as it is because of us.
    pub(crate) is_ours: bool,
}

/// What was seen of the host's forwarding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ForwardingSeen {
    pub(crate) host_forwards: bool,
    /// The VMs' bridge, links that lead out, and links whose switch we changed.
    pub(crate) links: Vec<LinkForwarding>,
}

/// What is to be done, in this order: [`ForwardingPlan::give_back`], guard, [`ForwardingPlan::set`],
/// [`ForwardingPlan::forget`]. So no link forwards for us unguarded at any moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ForwardingPlan {
    /// Links whose switch is to be what it was before.
    pub(crate) give_back: Vec<u32>,
    /// Links that our table must guard.
    pub(crate) guarded: Vec<GuardedLink>,
    /// Links by index and name, and whether they are to forward.
    pub(crate) set: Vec<(u32, String, bool)>,
    /// Links whose switch is somebody else's matter from now on.
    pub(crate) forget: Vec<u32>,
}

/// Decides for the VMs' bridge with the index `bridge`.
pub(crate) fn plan_forwarding(egress: Egress, bridge: u32, seen: &ForwardingSeen) -> ForwardingPlan {
    let mut plan = ForwardingPlan::default();
    let bridge_forwards = match egress {
        Egress::Isolated => false,
        Egress::Masquerade | Egress::Routed => true,
    };
    for link in &seen.links {
        let index = link.index;
        if index == bridge {
            if link.forwards != bridge_forwards {
                plan.set.push((index, link.name.clone(), bridge_forwards));
            }
        } else if seen.host_forwards {
            if link.is_ours {
                plan.forget.push(index);
            }
        } else if !bridge_forwards || !link.leads_out {
            if link.is_ours {
                plan.give_back.push(index);
            }
        } else if link.is_ours || !link.forwards {
            // One that forwards although `ip_forward` is off, and not by us, is meant to by the host's owner.
            plan.guarded.push(GuardedLink { index, is_bridge: link.is_bridge });
            if !link.forwards {
                plan.set.push((index, link.name.clone(), true));
            }
        }
    }
    plan.guarded.sort();
    plan
}

/// Looks at the switches of `bridge`, of the links that routes lead through, and of those we changed. The bridges `peers` of
/// the worker's other networks are left to those. Blocks.
pub(crate) fn observe_forwarding(
    bridge: u32,
    links: &[Link],
    routes: &[Ipv4Route],
    peers: &[LinkName],
    changed: &ChangedSettings,
) -> ForwardingSeen {
    let seen = links.iter().filter(|link| !link.is_loopback).filter_map(|link| {
        // The bridge of another network or worker forwards as that one wants, and its guests are no strangers to it.
        let is_peer = peers.iter().any(|peer| peer.as_str() == link.name);
        let is_anothers = link.index != bridge && (is_peer || link.alias.as_deref() == Some(BRIDGE_ALIAS));
        let leads_out = !is_anothers && routes.iter().any(|route| route.links.contains(&link.index));
        let is_ours = changed.is_ours(link.index, Switch::Forwarding);
        if link.index != bridge && !leads_out && !is_ours {
            return None;
        }
        Some(LinkForwarding {
            index: link.index,
            name: link.name.clone(),
            is_bridge: link.kind.as_deref() == Some("bridge"),
            leads_out,
            // A link that has no switch does no IPv4.
            forwards: look_at(Switch::Forwarding, &link.name)? == "1",
            is_ours,
        })
    });
    ForwardingSeen { host_forwards: is_on(HOST_SWITCH), links: seen.collect() }
}

/// What the plan makes of the host.
pub(crate) fn describe(
    egress: Egress,
    bridge: u32,
    seen: &ForwardingSeen,
    plan: &ForwardingPlan,
) -> HostForwarding {
    match egress {
        Egress::Isolated => HostForwarding::NotNeeded,
        Egress::Masquerade | Egress::Routed if seen.host_forwards => HostForwarding::ForEverybody,
        Egress::Masquerade | Egress::Routed => {
            let is_guarded =
                |link: &&LinkForwarding| plan.guarded.iter().any(|guard| guard.index == link.index);
            let out = seen.links.iter().filter(|link| link.index != bridge && link.leads_out);
            let (guarded, others): (Vec<_>, Vec<_>) = out.partition(is_guarded);
            let names = |links: Vec<&LinkForwarding>| links.iter().map(|link| link.name.clone()).collect();
            let others = others.into_iter().filter(|link| link.forwards).collect();
            HostForwarding::ForVmsOnly { links: names(guarded), owners: names(others) }
        }
    }
}

/// Sets the switches of the plan, once the guards are in place. Blocks.
///
/// # Errors
/// The first switch that cannot be set; what was set before is noted in `changed`.
pub(crate) fn apply_switches(
    plan: &ForwardingPlan,
    changed: &mut ChangedSettings,
) -> Result<(), SettingsError> {
    for (index, name, forwards) in &plan.set {
        if changed.set(*index, name, Switch::Forwarding, if *forwards { "1" } else { "0" })? {
            info!(link = name, "forwarding of a link was turned {}", if *forwards { "on" } else { "off" });
        }
    }
    changed.forget(|link, switch| switch == Switch::Forwarding && plan.forget.contains(&link));
    Ok(())
}

/// Takes the links that the rules of an earlier run guard for links whose forwarding that run turned on, where nobody noted
/// it: its note was lost with its state directory. Blocks.
///
/// # Errors
/// If it cannot be noted.
pub(crate) fn recall_guarded(
    listing: &Listing,
    links: &[Link],
    changed: &mut ChangedSettings,
) -> Result<(), SettingsError> {
    let guarded = listing.guarded();
    for link in links.iter().filter(|link| guarded.contains(link.name.as_str())) {
        if !changed.is_ours(link.index, Switch::Forwarding)
            && look_at(Switch::Forwarding, &link.name).as_deref() == Some("1")
        {
            changed.recall(link.index, &link.name, Switch::Forwarding, "0", "1")?;
            debug!(
                link = link.name,
                "its forwarding was turned on by an earlier run, as that run's guard tells"
            );
        }
    }
    let (all, name) = ALL_LINKS;
    if listing.guards_ipv6()
        && !changed.is_ours(all, Switch::Ipv6Forwarding)
        && look_at(Switch::Ipv6Forwarding, name).as_deref() == Some("1")
    {
        changed.recall(all, name, Switch::Ipv6Forwarding, "0", "1")?;
    }
    Ok(())
}

/// Gives back what the plan says, before guards are lifted. Blocks.
pub(crate) fn give_back(plan: &ForwardingPlan, changed: &mut ChangedSettings) {
    changed.give_back(|link, switch| switch == Switch::Forwarding && plan.give_back.contains(&link));
}

/// Gives every changed setting back. Where somebody has turned `ip_forward` on since, forwarding stays on: others rely
/// on it now. Blocks.
pub(crate) fn give_back_everything(changed: &mut ChangedSettings) {
    if is_on(HOST_SWITCH) {
        changed.forget(|_, switch| switch == Switch::Forwarding);
    }
    changed.give_back(|_, _| true);
}

/// Whether frames between two ports of one bridge meet the IP filter's rules.
pub(crate) fn bridged_frames_are_filtered() -> bool {
    is_on(BRIDGE_FILTER_SWITCH)
}

/// Whether the kernel has IPv6 at all.
pub(crate) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

fn is_on(switch: &str) -> bool {
    fs::read_to_string(switch).is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests;
