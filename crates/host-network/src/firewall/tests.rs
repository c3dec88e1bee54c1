//! The transaction that makes our table, for each way out and each need of guarding.

use super::*;

fn firewall(egress: Egress) -> Firewall {
    Firewall {
        table: "procurator".to_owned(),
        bridge: LinkName::parse("br-test").unwrap(),
        subnet: "10.100.0.0/16".parse().unwrap(),
        egress,
    }
}

#[test]
fn the_transaction_replaces_our_table_whole() {
    assert_eq!(
        firewall(Egress::Masquerade).script(&[]).unwrap(),
        "add table ip procurator\n\
         delete table ip procurator\n\
         table ip procurator {\n\
         chain forward {\n\
         type filter hook forward priority -10; policy accept;\n\
         iifname \"br-test\" oifname != \"br-test\" ip saddr != 10.100.0.0/16 drop \
         comment \"VMs leave from their own network's addresses only\"\n\
         }\n\
         chain postrouting {\n\
         type nat hook postrouting priority 100; policy accept;\n\
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
        let script = firewall(egress).script(&guarded).unwrap();
        for rule in ["iif 3 oifname != \"br-test\" drop", "iif 4 oif != 4 oifname != \"br-test\" drop"] {
            assert!(script.contains(rule), "no `{rule}` in {script}");
        }
    }
}

#[test]
fn no_table_is_needed_without_masquerading_and_guarding() {
    assert_eq!(firewall(Egress::Routed).script(&[]), None);
    assert_eq!(firewall(Egress::Isolated).script(&[GuardedLink { index: 3, is_bridge: false }]), None);
}

#[test]
fn a_rule_that_is_missing_from_a_listing_is_missed() {
    let firewall = firewall(Egress::Masquerade);
    let guarded = [GuardedLink { index: 3, is_bridge: false }];
    let script = firewall.script(&guarded).unwrap();
    assert!(firewall.shows_every_rule(&guarded, Some(&script)));
    assert!(!firewall.shows_every_rule(&guarded, firewall.script(&[]).as_deref()));
    assert!(!firewall.shows_every_rule(&guarded, Some("table ip procurator {\n}\n")));
    assert!(!firewall.shows_every_rule(&guarded, None));
    let routed = self::firewall(Egress::Routed);
    assert!(routed.shows_every_rule(&[], None), "there is nothing to be seen");
}
