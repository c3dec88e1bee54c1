//! The transaction that makes our tables, for each way out and each need of guarding.

use std::num::NonZeroU32;

use super::*;

const SIXTEEN: NonZeroU32 = NonZeroU32::new(16).unwrap();

fn firewall(egress: Egress) -> Firewall {
    Firewall {
        table: "procurator".to_owned(),
        bridge: LinkName::parse("br-test").unwrap(),
        bridge_index: Some(7),
        subnet: "10.100.0.0/16".parse().unwrap(),
        gateway: [10, 100, 0, 1].into(),
        egress,
        between_vms: BetweenVms::Open,
        services: Vec::new(),
        counting: Counting::Off,
        next_hops: NextHopRates { guest: SIXTEEN, network: SIXTEEN },
        fragments: FragmentLimit::of(4 << 20, 30, 1500, 1),
        router: Some(MacAddress::new([2, 0, 0, 0, 0, 1])),
        host_ipv6: HostIpv6::Off,
        ipv6_stack: Ipv6Stack::Absent,
        ipv6_guard: None,
        names: false,
        peers: Vec::new(),
        has_uplink: false,
        uplink_index: None,
        addresses: GuestAddresses::Ours,
    }
}

fn script(firewall: &Firewall, guarded: &[GuardedLink]) -> String {
    firewall.script(guarded, &Ports::new())
}

/// Maps, sets and the chain of what restricted VMs may send, with no VM there.
const MAPS_AND_SETS: &str = "map forwards { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }\n\
         map forwards_any { type inet_proto . inet_service : ipv4_addr . inet_service; }\n\
         set restricted { type ipv4_addr; }\n\
         set egress_networks { type ipv4_addr . ipv4_addr; flags interval; }\n\
         set egress_services { type ipv4_addr . ipv4_addr . inet_proto . inet_service; flags interval; }\n\
         set guests { type ipv4_addr; }\n\
         set next_hops { type ipv4_addr; size 65535; flags dynamic,timeout; timeout 2s; }\n\
         set new_next_hops { type ipv4_addr; size 4096; flags dynamic,timeout; timeout 60s; }\n\
         chain egress {\n\
         ct direction reply ct state established accept\n\
         ct state related accept\n\
         ip saddr . ip daddr @egress_networks accept\n\
         ip saddr . ip daddr . meta l4proto . th dport @egress_services accept\n\
         counter drop comment \"beyond what the VM may reach\"\n\
         }\n";

#[test]
fn the_transaction_begins_without_our_tables() {
    let script = script(&firewall(Egress::Masquerade), &[]);
    let (removal, _) = script.split_once("table ip procurator {\n").unwrap();
    assert_eq!(
        removal,
        "add table ip procurator\n\
         delete table ip procurator\n\
         add table bridge procurator\n\
         delete table bridge procurator\n"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "the whole transaction")]
fn the_transaction_replaces_our_tables_whole() {
    let script = script(&firewall(Egress::Masquerade), &[]);
    let (_, ip) = script.split_once("table ip procurator {\n").unwrap();
    let (ip, _) = ip.split_once("table bridge procurator {\n").unwrap();
    assert_eq!(
        ip.strip_prefix(MAPS_AND_SETS).unwrap(),
        "chain forward {\n\
         type filter hook forward priority -10; policy accept;\n\
         iifname \"br-test\" oifname != \"br-test\" ip saddr != 10.100.0.0/16 drop \
         comment \"VMs leave from their own network's addresses only\"\n\
         iifname \"br-test\" oifname != \"br-test\" ip saddr @restricted goto egress comment \"restricted VMs\"\n\
         }\n\
         chain from_vms {\n\
         ct state { established, related } accept\n\
         ip daddr 127.0.0.0/8 counter drop comment \"loopback is the host's own\"\n\
         icmp type echo-request accept\n\
         udp dport 67 accept\n\
         counter drop comment \"the host is closed to VMs\"\n\
         }\n\
         chain input {\n\
         type filter hook input priority -10; policy accept;\n\
         ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter drop comment \"for a group that no bridge passes on\"\n\
         iifname \"br-test\" goto from_vms\n\
         iif 7 goto from_vms\n\
         }\n\
         chain untracked {\n\
         type filter hook prerouting priority -300; policy accept;\n\
         iifname \"br-test\" ip saddr 10.100.0.0/16 ip daddr 10.100.0.0/16 ip daddr != 10.100.0.1 fib daddr type != local \
         notrack\n\
         iifname \"br-test\" ip daddr 10.100.0.1 ip frag-off & 0x3fff == 0 udp dport 53 notrack\n\
         }\n\
         chain untracked_output {\n\
         type filter hook output priority -300; policy accept;\n\
         oifname \"br-test\" ip saddr 10.100.0.1 udp sport 53 notrack\n\
         }\n\
         chain no_guest {\n\
         type filter hook prerouting priority -300; policy accept;\n\
         iifname \"br-test\" ip daddr 10.100.0.0/16 ip daddr != @guests fib daddr type unicast ether daddr 02:00:00:00:00:01 \
         counter drop comment \"an address that no VM has\"\n\
         }\n\
         chain new_next_hop {\n\
         rt ip nexthop @next_hops return\n\
         update @new_next_hops { ip saddr limit rate over 16/second burst 32 packets } counter drop comment \"one VM looks \
         for too many neighbours of the host\"\n\
         limit rate over 16/second burst 32 packets counter drop comment \"VMs look for too many neighbours of the host\"\n\
         add @next_hops { rt ip nexthop }\n\
         }\n\
         chain next_hop {\n\
         type filter hook forward priority 190; policy accept;\n\
         iifname \"br-test\" oifname \"br-test\" ip daddr @guests accept\n\
         iifname \"br-test\" oiftype ether ct state != established jump new_next_hop\n\
         }\n\
         chain to_vms {\n\
         dnat ip to meta l4proto . ip daddr . th dport map @forwards comment \"leads to a VM\"\n\
         dnat ip to meta l4proto . th dport map @forwards_any comment \"leads to a VM\"\n\
         }\n\
         chain prerouting {\n\
         type nat hook prerouting priority -100; policy accept;\n\
         ip daddr 127.0.0.0/8 accept comment \"loopback is the host's own\"\n\
         iifname \"br-test\" ip daddr 10.100.0.1 meta l4proto { tcp, udp } th dport { 53, 67 } accept \
         comment \"the network's own services\"\n\
         fib daddr type local goto to_vms\n\
         }\n\
         chain output {\n\
         type nat hook output priority -100; policy accept;\n\
         fib daddr type local goto to_vms\n\
         }\n\
         chain postrouting {\n\
         type nat hook postrouting priority 100; policy accept;\n\
         oifname \"br-test\" ip saddr { 127.0.0.0/8, 10.100.0.0/16 } ct status dnat masquerade \
         comment \"answers to forwarded connections come back by the host\"\n\
         ip saddr 10.100.0.0/16 ip daddr != 10.100.0.0/16 oifname != \"br-test\" masquerade \
         comment \"VMs leave under the host's address\"\n\
         }\n\
         }\n"
    );
}

#[test]
fn a_guarded_link_forwards_to_the_bridge_only() {
    let guarded = [GuardedLink { index: 3, is_bridge: false }, GuardedLink { index: 4, is_bridge: true }];
    for egress in [Egress::Masquerade, Egress::Routed] {
        let script = script(&firewall(egress), &guarded);
        for rule in [
            "iif 3 oifname != \"br-test\" ct state != { established, related } drop",
            "iif 4 oif != 4 oifname != \"br-test\" ct state != { established, related } drop",
        ] {
            assert!(script.contains(rule), "no `{rule}` in {script}");
        }
    }
}

#[test]
fn other_networks_of_the_worker_are_kept_apart_and_are_no_strangers_to_guards() {
    let peers = ["br-a", "br-b"].map(|name| LinkName::parse(name).unwrap()).to_vec();
    let script = script(
        &Firewall { peers, ..firewall(Egress::Masquerade) },
        &[GuardedLink { index: 3, is_bridge: false }],
    );
    for rule in [
        "iifname \"br-test\" oifname { \"br-a\", \"br-b\" } counter drop",
        "iif 3 oifname != { \"br-test\", \"br-a\", \"br-b\" } ct state != { established, related } drop",
        "iifname { \"br-a\", \"br-b\" } accept comment \"guests of other networks: no port leads on\"",
    ] {
        assert!(script.contains(rule), "no `{rule}` in {script}");
    }
}

#[test]
fn isolation_is_by_rules_and_services_are_let_in() {
    let apart = Firewall {
        between_vms: BetweenVms::Isolated,
        services: vec!["tcp/8080".parse().unwrap(), "udp/53".parse().unwrap()],
        names: true,
        ..firewall(Egress::Isolated)
    };
    let script = script(&apart, &[]);
    for rule in [
        "iifname \"br-test\" oifname != \"br-test\" drop",
        "oifname \"br-test\" iifname != \"br-test\" drop",
        "iifname \"br-test\" oifname \"br-test\" drop",
        "tcp dport 8080 accept",
        "udp dport 53 accept",
        "ip daddr 10.100.0.1 meta l4proto { tcp, udp } th dport 53 accept",
    ] {
        assert!(script.contains(rule), "no `{rule}` in {script}");
    }
    for rule in ["leave under the host's address", "hook prerouting priority -100"] {
        assert!(!script.contains(rule), "`{rule}` in {script}");
    }
}

#[test]
fn with_an_uplink_the_host_forwards_for_its_own_guests_alone() {
    let with_uplink = Firewall {
        has_uplink: true,
        router: None,
        host_ipv6: HostIpv6::Served("fd12:3456:789a::/64".parse().unwrap()),
        ..firewall(Egress::Masquerade)
    };
    let text = script(&with_uplink, &[]);
    for (protocol, guests, network) in
        [("ip", "@guests", "10.100.0.0/16"), ("ip6", "@guests6", "fd12:3456:789a::/64")]
    {
        for rule in [
            format!("iifname \"br-test\" oifname != \"br-test\" {protocol} saddr != {guests} counter drop"),
            format!("oifname \"br-test\" iifname != \"br-test\" {protocol} daddr != {guests} counter drop"),
            format!(
                "{protocol} saddr {guests} {protocol} daddr != {network} oifname != \"br-test\" masquerade"
            ),
        ] {
            assert!(text.contains(&rule), "no `{rule}` in {text}");
        }
    }
    let routed = script(&Firewall { egress: Egress::Routed, ..with_uplink }, &[]);
    assert!(
        routed.contains("ip saddr != @guests counter drop") && !routed.contains("ip saddr @guests ip daddr")
    );
}

#[test]
fn a_rule_that_is_missing_from_a_listing_is_missed() {
    let firewall = firewall(Egress::Masquerade);
    let guarded = [GuardedLink { index: 3, is_bridge: false }];
    let shows = |guarded: &[GuardedLink], text: &str| firewall.shows_every_rule(guarded, &Listing::new(text));
    let whole = script(&firewall, &guarded);
    assert!(shows(&guarded, &whole));
    assert!(!shows(&guarded, &script(&firewall, &[])));
    assert!(!shows(&guarded, "table ip procurator {\n}\n"));
}

#[test]
fn with_ipv6_there_is_a_table_of_its_family() {
    let with_ipv6 = Firewall {
        host_ipv6: HostIpv6::Served("fd12:3456:789a::/64".parse().unwrap()),
        ipv6_stack: Ipv6Stack::Present,
        ipv6_guard: Some(Ipv6Guard { of_vms: vec![3, 7], others: vec![5] }),
        services: vec!["tcp/8080".parse().unwrap()],
        names: true,
        ..firewall(Egress::Masquerade)
    };
    let script = script(&with_ipv6, &[]);
    let (before, ip6) = script.split_once("table ip6 procurator {\n").unwrap();
    assert!(before.contains("delete table ip6 procurator\n"), "{before}");
    let (ip6, _) = ip6.split_once("table bridge procurator {\n").unwrap();
    for rule in [
        "set restricted6 { type ipv6_addr; }",
        "ip6 saddr != fd12:3456:789a::/64 drop",
        "ip6 saddr @restricted6 goto egress",
        "iif 5 oif 5 accept\niif != { 3, 7 } oif != { 3, 7 } ct state != { established, related } drop comment \"this host forwards for VMs only\"",
        "ip6 daddr fd12:3456:789a::1 meta l4proto { tcp, udp } th dport 53 accept",
        "tcp dport 8080 accept",
        "counter drop comment \"the host is closed to VMs\"",
        "ip6 saddr fd12:3456:789a::/64 ip6 daddr != fd12:3456:789a::/64 oifname != \"br-test\" masquerade",
    ] {
        assert!(ip6.contains(rule), "no `{rule}` in {ip6}");
    }
}
