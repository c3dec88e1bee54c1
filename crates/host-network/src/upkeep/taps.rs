//! What has become of attached TAPs, and what is to be done about it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use ipnetwork::Ipv4Network;

use crate::BetweenVms;
use crate::host::AttachedTap;
use crate::netlink::{Link, PortSettings, StaticEntry};

/// For how long a TAP may be gone before that is a fault: a VM that ends takes its TAPs along a little before its
/// owner detaches them.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// One step for one TAP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TapAction {
    /// It is a port of another bridge or of none, or has another MTU.
    Reattach(AttachedTap),
    /// As a port it is not bound to its guest, or is no port yet.
    Bind(AttachedTap),
    BringUp(AttachedTap),
    /// Somebody has renamed it.
    Rename(AttachedTap),
}

impl TapAction {
    pub(super) fn tap(&self) -> &AttachedTap {
        match self {
            Self::Reattach(tap) | Self::Bind(tap) | Self::BringUp(tap) | Self::Rename(tap) => tap,
        }
    }
}

impl fmt::Display for TapAction {
    /// What the TAP is again once it is done.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Reattach(_) => "a port of the bridge with its MTU again",
            Self::Bind(_) => "bound to its guest again",
            Self::BringUp(_) => "up again",
            Self::Rename(_) => "called as before again",
        })
    }
}

/// The steps, and the TAPs that are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TapPlan {
    pub(super) actions: Vec<TapAction>,
    pub(super) gone: Vec<AttachedTap>,
}

/// Decides for the TAPs that should be ports of the bridge with the index `bridge`.
pub(super) fn plan_taps(
    attached: Vec<AttachedTap>,
    (links, entries): (&[Link], &[StaticEntry]),
    bridge: u32,
    between_vms: BetweenVms,
) -> TapPlan {
    let bound = PortSettings::bound(between_vms);
    let links: BTreeMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
    let mut plan = TapPlan::default();
    for tap in attached {
        match links.get(&tap.index) {
            None => plan.gone.push(tap),
            Some(link) => {
                if link.name != tap.name.as_str() {
                    plan.actions.push(TapAction::Rename(tap.clone()));
                }
                if !link.is_up {
                    plan.actions.push(TapAction::BringUp(tap.clone()));
                }
                let is_port = link.controller == Some(bridge);
                if !is_port || link.mtu != u32::from(tap.mtu) {
                    plan.actions.push(TapAction::Reattach(tap.clone()));
                }
                let is_entered = entries.contains(&StaticEntry { port: tap.index, mac: tap.identity.mac });
                if !is_port || link.port != Some(bound) || !is_entered {
                    plan.actions.push(TapAction::Bind(tap));
                }
            }
        }
    }
    plan
}

/// What is told of the TAPs whose guests have addresses of another network than `subnet`.
pub(super) fn strayed(attached: &[AttachedTap], subnet: Ipv4Network) -> Vec<String> {
    let strayed = attached.iter().filter(|tap| !subnet.contains(tap.identity.address));
    let sentence = |AttachedTap { vm, nic, identity, .. }: &AttachedTap| {
        format!(
            "{vm}/{nic} has {}, an address of the network that was before {subnet}, so it reaches nothing but VMs like it: \
             restart {vm}",
            identity.address
        )
    };
    strayed.map(sentence).collect()
}

/// Since when each TAP has been gone.
#[derive(Debug, Default)]
pub(super) struct Absences(BTreeMap<u32, Instant>);

impl Absences {
    /// Those of `gone` that have been gone for longer than [`GRACE`]; and whether there are others to be looked at again.
    pub(super) fn overdue(&mut self, gone: Vec<AttachedTap>, now: Instant) -> (Vec<AttachedTap>, bool) {
        self.0.retain(|index, _| gone.iter().any(|tap| tap.index == *index));
        let is_overdue = |tap: &AttachedTap| {
            let since = *self.0.entry(tap.index).or_insert(now);
            now.saturating_duration_since(since) >= GRACE
        };
        let (overdue, recent): (Vec<_>, Vec<_>) = gone.into_iter().partition(is_overdue);
        (overdue, !recent.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use vm_model::VmId;

    use super::*;
    use crate::LinkName;
    use crate::port_filter::PortIdentity;

    const BRIDGE: u32 = 1;

    fn tap(index: u32) -> AttachedTap {
        AttachedTap {
            vm: VmId::new("web-1"),
            nic: "net0".to_owned(),
            index,
            name: LinkName::parse(&format!("pw-{index}")).unwrap(),
            mtu: 1500,
            identity: PortIdentity {
                mac: "02:50:0a:64:00:02".parse().unwrap(),
                address: [10, 100, 0, 2].into(),
            },
            access: vm_model::NetworkAccess::default(),
        }
    }

    fn entry(port: u32) -> StaticEntry {
        StaticEntry { port, mac: tap(port).identity.mac }
    }

    fn link(index: u32, controller: Option<u32>, is_up: bool) -> Link {
        Link {
            index,
            name: format!("pw-{index}"),
            kind: Some("tun".to_owned()),
            alias: None,
            mac: None,
            controller,
            parent: None,
            vlan: None,
            mtu: 1500,
            is_up,
            has_carrier: true,
            is_loopback: false,
            bridge: None,
            port: Some(PortSettings::bound(BetweenVms::Open)),
        }
    }

    #[test]
    fn each_fault_of_a_tap_has_its_step() {
        let links = [
            link(2, Some(BRIDGE), true),
            link(3, None, true),
            link(4, Some(9), true),
            link(5, Some(BRIDGE), false),
            Link { mtu: 1400, ..link(6, Some(BRIDGE), true) },
            Link { port: Some(PortSettings::default()), ..link(7, Some(BRIDGE), true) },
            Link { name: "mine".to_owned(), ..link(8, Some(BRIDGE), true) },
        ];
        let entries: Vec<StaticEntry> = (2..=9).map(entry).collect();
        let plan = plan_taps((2..=9).map(tap).collect(), (&links, &entries), BRIDGE, BetweenVms::Open);
        assert_eq!(
            plan.actions,
            [
                TapAction::Reattach(tap(3)),
                TapAction::Bind(tap(3)),
                TapAction::Reattach(tap(4)),
                TapAction::Bind(tap(4)),
                TapAction::BringUp(tap(5)),
                TapAction::Reattach(tap(6)),
                TapAction::Bind(tap(7)),
                TapAction::Rename(tap(8)),
            ]
        );
        assert_eq!(plan.gone, [tap(9)]);
        let apart = plan_taps(vec![tap(2)], (&links, &entries), BRIDGE, BetweenVms::Isolated);
        assert_eq!(apart.actions, [TapAction::Bind(tap(2))]);
        let forgotten = plan_taps(vec![tap(2)], (&links, &entries[1..]), BRIDGE, BetweenVms::Open);
        assert_eq!(forgotten.actions, [TapAction::Bind(tap(2))]);
    }

    #[test]
    fn an_address_of_another_network_is_told() {
        let taps = [tap(2)];
        assert_eq!(strayed(&taps, "10.100.0.0/16".parse().unwrap()), [""; 0]);
        assert_eq!(
            strayed(&taps, "10.101.0.0/16".parse().unwrap()),
            [
                "web-1/net0 has 10.100.0.2, an address of the network that was before 10.101.0.0/16, so it reaches nothing but \
              VMs like it: restart web-1"
            ]
        );
    }

    #[test]
    fn a_tap_is_missed_only_after_a_while() {
        let (mut absences, start) = (Absences::default(), Instant::now());
        assert_eq!(absences.overdue(vec![tap(2)], start), (vec![], true));
        assert_eq!(absences.overdue(vec![tap(2)], start + GRACE), (vec![tap(2)], false));
        // It was detached, and its index was used again.
        assert_eq!(absences.overdue(vec![], start + GRACE), (vec![], false));
        assert_eq!(absences.overdue(vec![tap(2)], start + GRACE * 2), (vec![], true));
    }
}
