//! What passes between a VM and what lies beyond its network.

use super::{parse, refusal};

#[test]
fn ports_lead_to_the_first_interface() {
    let config = r#"{"net": [{}, {}], "procurator": {"ports": ["8080:80", "127.0.0.1:5353:53/udp"]}}"#;
    let nics = parse(config).expect("accepted").nics;
    let forwards =
        |index: usize| nics[index].access.forwards.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(forwards(0), ["8080:80/tcp", "127.0.0.1:5353:53/udp"]);
    assert!(forwards(1).is_empty());
}

#[test]
fn ports_that_cannot_be_had_are_refused_where_they_stand() {
    insta::assert_snapshot!(
        refusal(r#"{"net": [{}], "procurator": {"ports": ["8080:80", "80"]}}"#),
        @r#""vm-config.json": $.procurator.ports[1] is "80"; accepted is [HOST ADDRESS:]HOST PORT:GUEST PORT[/tcp or /udp], like "8080:80" or "127.0.0.1:5353:53/udp""#
    );
    insta::assert_snapshot!(
        refusal(r#"{"net": [{}], "procurator": {"ports": ["8080:80", "127.0.0.1:8080:81"]}}"#),
        @r#""vm-config.json": $.procurator.ports[1] is "127.0.0.1:8080:81", but $.procurator.ports[0] has that port of the host; accepted is each port of the host once"#
    );
    insta::assert_snapshot!(
        refusal(r#"{"procurator": {"ports": ["8080:80"]}}"#),
        @r#""vm-config.json": $.procurator.ports is a list, but the machine has no interface; accepted is ports of a machine with an interface in $.net"#
    );
}

#[test]
fn what_an_assignment_says_of_the_network_is_judged_without_its_artifact() {
    let check = |procurator: serde_json::Value| {
        let procurator = procurator.as_object().expect("an object").clone();
        crate::check_network_access(&procurator).map_err(|problem| problem.to_string())
    };
    // What speaks of the artifact's disks is left to whoever has it.
    let access = check(serde_json::json!({"ports": ["80:80"], "egress": [], "disks": [{"id": "data"}]}));
    let access = access.expect("accepted");
    assert_eq!((access.forwards.len(), access.egress), (1, Some(Vec::new())));
    let problem = check(serde_json::json!({"ports": ["80"]})).expect_err("refused");
    assert!(problem.starts_with("assignment: $.procurator.ports[0] is \"80\"; accepted is"), "{problem}");
}

#[test]
fn what_a_vm_may_reach_holds_for_each_interface() {
    let egress = |text: &str| parse(text).expect("accepted").nics[1].access.egress.clone();
    assert_eq!(egress(r#"{"net": [{}, {}], "procurator": {}}"#), None);
    assert_eq!(egress(r#"{"net": [{}, {}], "procurator": {"egress": []}}"#), Some(Vec::new()));
    let rules = egress(r#"{"net": [{}, {}], "procurator": {"egress": ["10.0.0.0/8", "1.1.1.1:443/tcp"]}}"#);
    let rules: Vec<String> = rules.expect("a list").iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["10.0.0.0/8", "1.1.1.1/32:443/tcp"]);
    insta::assert_snapshot!(
        refusal(r#"{"net": [{}], "procurator": {"egress": ["10.0.0.1/8"]}}"#),
        @r#""vm-config.json": $.procurator.egress[0] is "10.0.0.1/8"; accepted is a network whose address has no bit set behind the prefix, here 10.0.0.0/8, or one address without a prefix"#
    );
}
