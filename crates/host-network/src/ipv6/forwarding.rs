//! Forwarding of IPv6, so that VMs reach the rest of the world and nobody else gains a router.
//!
//! Kernels before 6.17 know one switch for all links, so a host that forwards for VMs forwards for everybody, and one rule
//! guards it: what is new and neither comes from a bridge of VMs nor goes to one is dropped.
//!
//! A host whose switch is on takes no router advertisements, and the kernel throws away the default routes that it made of
//! earlier ones, unless `accept_ra` of the link is 2. So that is set first, on each link that takes them: the host keeps its
//! own way out. All of it is noted, and given back in reverse order.

use tracing::info;

use crate::Egress;
use crate::changed_settings::{ALL_LINKS, ChangedSettings, SettingsError, Switch, look_at};
use crate::names::{BRIDGE_ALIAS, tap_owner};
use crate::netlink::Link;

/// The bridges that the guard has to know, by their indices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ipv6Guard {
    /// Those of VMs, from and to which new packets are forwarded: this network's, and those of others like it.
    pub(crate) of_vms: Vec<u32>,
    /// The others. Frames between two ports of one meet our rules too where `br_netfilter` is on, and are not forwarded by
    /// the host.
    pub(crate) others: Vec<u32>,
}

/// What was seen of the host's forwarding of IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ipv6ForwardingSeen {
    /// Whether it is on.
    pub(crate) forwards: bool,
    /// Whether it is because of us.
    pub(crate) is_ours: bool,
    pub(crate) bridges: Ipv6Guard,
    /// The links that take router advertisements as long as the host does not forward.
    pub(crate) advertised: Vec<(u32, String)>,
}

/// What is to be done, in this order: guard, [`Ipv6ForwardingPlan::keep_routes`], turn on; or give back, and lift the guard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ipv6ForwardingPlan {
    /// The bridges from and to which alone new packets are forwarded; `None` where others say what is.
    pub(crate) guard: Option<Ipv6Guard>,
    /// Links that must go on to take router advertisements.
    pub(crate) keep_routes: Vec<(u32, String)>,
    pub(crate) turn_on: bool,
    pub(crate) give_back: bool,
}

/// Looks at the host's switches. Blocks.
pub(crate) fn observe_forwarding(
    bridge: u32,
    links: &[Link],
    changed: &ChangedSettings,
) -> Ipv6ForwardingSeen {
    let is_bridge = |link: &&Link| link.index == bridge || link.alias.as_deref() == Some(BRIDGE_ALIAS);
    let is_tap = |link: &Link| link.alias.as_deref().and_then(tap_owner).is_some();
    let others = links.iter().filter(|link| !is_bridge(link) && !link.is_loopback && !is_tap(link));
    let advertised =
        others.filter(|link| look_at(Switch::AcceptRouterAdvertisements, &link.name).as_deref() == Some("1"));
    let (all, name) = ALL_LINKS;
    let bridges = links.iter().filter(|link| link.kind.as_deref() == Some("bridge"));
    let (of_vms, others): (Vec<&Link>, Vec<&Link>) = bridges.partition(is_bridge);
    let sorted = |links: Vec<&Link>| {
        let mut indices: Vec<u32> = links.into_iter().map(|link| link.index).collect();
        indices.sort_unstable();
        indices
    };
    Ipv6ForwardingSeen {
        forwards: look_at(Switch::Ipv6Forwarding, name).as_deref() == Some("1"),
        is_ours: changed.is_ours(all, Switch::Ipv6Forwarding),
        bridges: Ipv6Guard { of_vms: sorted(of_vms), others: sorted(others) },
        advertised: advertised.map(|link| (link.index, link.name.clone())).collect(),
    }
}

/// Decides for a network with this way out.
pub(crate) fn plan_forwarding(egress: Egress, seen: &Ipv6ForwardingSeen) -> Ipv6ForwardingPlan {
    match egress {
        Egress::Isolated => Ipv6ForwardingPlan { give_back: seen.is_ours, ..Ipv6ForwardingPlan::default() },
        // It is on by the host's owner, or by another worker that guards it.
        Egress::Masquerade | Egress::Routed if seen.forwards && !seen.is_ours => {
            Ipv6ForwardingPlan::default()
        }
        Egress::Masquerade | Egress::Routed => Ipv6ForwardingPlan {
            guard: Some(seen.bridges.clone()),
            keep_routes: seen.advertised.clone(),
            turn_on: !seen.forwards,
            give_back: false,
        },
    }
}

/// Sets the switches of the plan, once the guard is in place. Blocks.
///
/// # Errors
/// The first switch that cannot be set; what was set before is noted in `changed`.
pub(crate) fn apply_forwarding(
    plan: &Ipv6ForwardingPlan,
    changed: &mut ChangedSettings,
) -> Result<(), SettingsError> {
    for (index, name) in &plan.keep_routes {
        changed.set(*index, name, Switch::AcceptRouterAdvertisements, "2")?;
    }
    if plan.turn_on {
        let (all, name) = ALL_LINKS;
        changed.set(all, name, Switch::Ipv6Forwarding, "1")?;
        info!("forwarding of IPv6 was turned on, for VMs alone");
    }
    Ok(())
}

/// Gives back what the plan says, before the guard is lifted. Blocks.
pub(crate) fn give_back_forwarding(plan: &Ipv6ForwardingPlan, bridge: u32, changed: &mut ChangedSettings) {
    if plan.give_back {
        changed.give_back(|link, switch| match switch {
            Switch::Ipv6Forwarding => true,
            Switch::AcceptRouterAdvertisements => link != bridge,
            Switch::Forwarding
            | Switch::RouteLocalnet
            | Switch::AcceptRedirects
            | Switch::DisableIpv6
            | Switch::Autoconfiguration
            | Switch::AcceptIpv6Redirects
            | Switch::DuplicateDetection => false,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridges() -> Ipv6Guard {
        Ipv6Guard { of_vms: vec![3, 7], others: vec![5] }
    }

    fn seen(forwards: bool, is_ours: bool) -> Ipv6ForwardingSeen {
        let advertised = vec![(2, "wan".to_owned())];
        Ipv6ForwardingSeen { forwards, is_ours, bridges: bridges(), advertised }
    }

    #[test]
    fn what_others_turned_on_is_theirs_and_what_we_turn_on_is_guarded() {
        for egress in [Egress::Masquerade, Egress::Routed] {
            assert_eq!(plan_forwarding(egress, &seen(true, false)), Ipv6ForwardingPlan::default());
            for forwards in [false, true] {
                let plan = plan_forwarding(egress, &seen(forwards, forwards));
                assert_eq!((plan.turn_on, plan.guard), (!forwards, Some(bridges())));
                assert_eq!(plan.keep_routes, [(2, "wan".to_owned())], "also of a link that came later");
            }
            assert!(plan_forwarding(egress, &seen(false, true)).turn_on, "somebody turned it off");
        }
    }

    #[test]
    fn a_network_that_leads_nowhere_forwards_nothing() {
        let plan = plan_forwarding(Egress::Isolated, &seen(true, true));
        assert_eq!(plan, Ipv6ForwardingPlan { give_back: true, ..Ipv6ForwardingPlan::default() });
        assert_eq!(plan_forwarding(Egress::Isolated, &seen(true, false)), Ipv6ForwardingPlan::default());
    }
}
