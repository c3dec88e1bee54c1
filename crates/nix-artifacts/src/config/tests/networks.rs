//! Which of the worker's networks interfaces are in.

use serde_json::json;

use super::super::*;
use super::{parse, parse_all, refusal};

#[test]
fn interfaces_are_in_the_default_network_unless_it_is_said() {
    let config =
        r#"{"net": [{}, {"id": "disks"}], "procurator": {"net": [{"id": "disks", "network": "storage"}]}}"#;
    let nics = parse(config).expect("accepted").nics;
    let names: Vec<&str> = nics.iter().map(|nic| nic.network.as_str()).collect();
    assert_eq!(names, ["default", "storage"]);
}

#[test]
fn an_assignment_says_it_too_and_wins() {
    let description = json!({
        "net": [{}, {}],
        "procurator": {"net": [{"id": "net0", "network": "a"}, {"id": "net1", "network": "b"}]},
    });
    let assignment = json!({"net": [{"id": "net1", "network": "c"}]});
    let assignment = assignment.as_object().expect("an object");
    let nics =
        parse_all(&description.to_string(), Conventional::default(), assignment).expect("accepted").nics;
    let names: Vec<&str> = nics.iter().map(|nic| nic.network.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
}

#[test]
fn what_names_no_interface_or_no_network_is_refused_where_it_stands() {
    insta::assert_snapshot!(
        refusal(r#"{"net": [{}], "procurator": {"net": [{"id": "net1", "network": "storage"}]}}"#),
        @r#""vm-config.json": $.procurator.net[0].id is "net1", but no interface has this id; accepted is the id of an interface (the nearest is "net0")"#
    );
    insta::assert_snapshot!(
        refusal(r#"{"net": [{}], "procurator": {"net": [{"id": "net0", "network": "../x"}]}}"#),
        @r#""vm-config.json": $.procurator.net[0].network is "../x"; accepted is 1 to 32 of a-z, 0-9 and '-', neither starting nor ending with '-'"#
    );
    insta::assert_snapshot!(
        refusal(r#"{"net": [{}], "procurator": {"net": [{"id": "net0"}, {"id": "net0"}]}}"#),
        @r#""vm-config.json": $.procurator.net[1].id is "net0", but an earlier entry speaks of this interface; accepted is one entry for each interface"#
    );
    insta::assert_snapshot!(
        refusal(r#"{"procurator": {"net": [{"network": "storage"}]}}"#),
        @r#""vm-config.json": $.procurator.net[0].id is missing, but every entry speaks of one interface; accepted is the id of an interface"#
    );
}
