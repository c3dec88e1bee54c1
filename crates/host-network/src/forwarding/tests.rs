//! The plan for hosts that forward already and for hosts that do not.

use proptest::prelude::*;

use super::*;

const BRIDGE: u32 = 1;

fn link(index: u32, forwards: bool) -> LinkForwarding {
    LinkForwarding {
        index,
        name: format!("link{index}"),
        is_bridge: false,
        leads_out: index != BRIDGE,
        forwards,
        is_ours: false,
    }
}

fn guarded(index: u32) -> GuardedLink {
    GuardedLink { index, is_bridge: false }
}

#[test]
fn a_host_that_forwards_already_is_left_alone_but_for_the_bridge() {
    let seen = ForwardingSeen { host_forwards: true, links: vec![link(BRIDGE, false), link(2, true)] };
    let plan = plan_forwarding(Egress::Masquerade, BRIDGE, &seen);
    let expected =
        ForwardingPlan { set: vec![(BRIDGE, "link1".to_owned(), true)], ..ForwardingPlan::default() };
    assert_eq!(plan, expected);
    assert_eq!(describe(Egress::Masquerade, BRIDGE, &seen, &plan), HostForwarding::ForEverybody);
}

#[test]
fn on_another_host_the_links_that_lead_out_forward_guarded() {
    let seen = ForwardingSeen { host_forwards: false, links: vec![link(BRIDGE, true), link(2, false)] };
    let plan = plan_forwarding(Egress::Masquerade, BRIDGE, &seen);
    let expected = ForwardingPlan {
        guarded: vec![guarded(2)],
        set: vec![(2, "link2".to_owned(), true)],
        ..ForwardingPlan::default()
    };
    assert_eq!(plan, expected);
    assert_eq!(
        describe(Egress::Masquerade, BRIDGE, &seen, &plan).to_string(),
        "ip_forward is off and stays off; packets from and to VMs alone are forwarded on link2"
    );
}

#[test]
fn a_link_that_its_owner_lets_forward_is_not_guarded() {
    let seen = ForwardingSeen { host_forwards: false, links: vec![link(BRIDGE, true), link(2, true)] };
    let plan = plan_forwarding(Egress::Masquerade, BRIDGE, &seen);
    assert_eq!(plan, ForwardingPlan::default());
    assert_eq!(
        describe(Egress::Masquerade, BRIDGE, &seen, &plan).to_string(),
        "ip_forward is off and stays off; VMs reach out by link2: forwarding was on there before, by another network of VMs or \
         the host's owner, who says for whom else it is"
    );
}

#[test]
fn what_is_ours_stays_guarded_and_goes_when_it_leads_nowhere() {
    let ours = LinkForwarding { is_ours: true, ..link(2, true) };
    let idle = LinkForwarding { is_ours: true, leads_out: false, ..link(3, true) };
    let mut seen = ForwardingSeen { host_forwards: false, links: vec![link(BRIDGE, true), ours, idle] };
    let plan = plan_forwarding(Egress::Masquerade, BRIDGE, &seen);
    assert_eq!((plan.guarded, plan.give_back), (vec![guarded(2)], vec![3]));

    // Somebody turns `ip_forward` on: from now on it is theirs.
    seen.host_forwards = true;
    let plan = plan_forwarding(Egress::Masquerade, BRIDGE, &seen);
    assert_eq!((plan.guarded, plan.forget), (vec![], vec![2, 3]));
}

#[test]
fn an_isolated_network_forwards_nothing() {
    let seen = ForwardingSeen { host_forwards: true, links: vec![link(BRIDGE, true), link(2, true)] };
    let plan = plan_forwarding(Egress::Isolated, BRIDGE, &seen);
    assert_eq!(plan.set, [(BRIDGE, "link1".to_owned(), false)]);
    assert_eq!(plan.guarded, []);
}

fn any_link() -> impl Strategy<Value = LinkForwarding> {
    (2_u32..8, any::<[bool; 4]>()).prop_map(|(index, [is_bridge, leads_out, forwards, is_ours])| {
        LinkForwarding { is_bridge, leads_out, forwards, is_ours, ..link(index, false) }
    })
}

proptest! {
    /// Whatever is seen: a link that forwards because of us, after the plan is carried out, is guarded.
    #[test]
    fn nothing_forwards_for_us_unguarded(
        links in prop::collection::vec(any_link(), 0..6), masquerades: bool,
    ) {
        let egress = if masquerades { Egress::Masquerade } else { Egress::Isolated };
        let seen = ForwardingSeen { host_forwards: false, links };
        let plan = plan_forwarding(egress, BRIDGE, &seen);
        for link in &seen.links {
            let is_set = plan.set.iter().any(|(index, _, forwards)| *index == link.index && *forwards);
            let is_kept = link.is_ours && link.forwards && !plan.give_back.contains(&link.index);
            if is_set || is_kept {
                prop_assert!(plan.guarded.iter().any(|guarded| guarded.index == link.index));
            }
        }
    }
}
