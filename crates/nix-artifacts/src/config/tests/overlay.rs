//! An assignment's settings laid over the description's: what wins, and whom a refusal names.

use serde_json::{Value, json};
use vm_model::{Bytes, Isolation, VolumePolicy};

use super::super::extract::ParsedConfig;
use super::super::*;
use super::parse_all;

/// The description with these settings, and these of the assignment.
fn laid(own: &Value, assignment: &Value) -> Result<ParsedConfig, String> {
    let description =
        json!({"disks": [{"path": "a", "id": "root"}, {"path": "b", "id": "log"}], "procurator": own});
    let assignment = assignment.as_object().expect("an object");
    parse_all(&description.to_string(), Conventional::default(), assignment)
}

fn settings(own: &Value, assignment: &Value) -> ProcuratorSettings {
    laid(own, assignment).expect("accepted").settings
}

fn refused(own: &Value, assignment: &Value) -> String {
    laid(own, assignment).expect_err("refused")
}

#[test]
fn members_are_replaced_one_by_one_and_null_removes() {
    let own = json!({"restart": "never", "network": {"address": "command-line"}});
    let both = settings(&own, &json!({"restart": {"policy": "always"}}));
    assert_eq!((both.restart, both.address), (Some(RestartPolicy::Always), AddressDelivery::CommandLine));
    let removed = settings(&own, &json!({"restart": null, "network": {"address": null}}));
    assert_eq!((removed.restart, removed.address), (None, AddressDelivery::Dhcp));
    assert_eq!(settings(&Value::Null, &json!({"restart": "never"})).restart, Some(RestartPolicy::Never));
    assert_eq!(settings(&own, &json!({})), settings(&own, &json!({"limits": null})));
}

#[test]
fn isolation_is_shared_unless_either_says_strict() {
    let own = json!({"isolation": "strict"});
    assert_eq!(settings(&Value::Null, &json!({})).isolation, Isolation::Shared);
    assert_eq!(settings(&own, &json!({})).isolation, Isolation::Strict);
    assert_eq!(settings(&Value::Null, &own).isolation, Isolation::Strict);
    assert_eq!(settings(&own, &json!({"isolation": "shared"})).isolation, Isolation::Shared);
    let refusal = refused(&json!({"isolation": "lax"}), &json!({}));
    assert!(
        refusal.ends_with(r#"$.procurator.isolation is "lax"; accepted is "shared" or "strict""#),
        "{refusal}"
    );
}

#[test]
fn what_this_worker_would_refuse_can_be_taken_away() {
    let own = json!({"limits": {"cpu": 0}});
    assert!(laid(&own, &json!({})).is_err());
    assert!(laid(&own, &json!({"limits": null})).is_ok());
}

#[test]
fn disks_merge_by_their_id() {
    let own = json!({"disks": [{"id": "root", "size": 4096, "persistence": "persistent"}, {"id": "log", "size": 512}]});
    let laid = json!({"disks": [{"id": "new", "size": 8192}, {"id": "log", "persistence": "ephemeral", "size": null},
                                {"id": "root", "size": 1024}]});
    let settings = settings(&own, &laid);
    let told: Vec<_> = settings.disks.iter().map(|disk| (disk.id.as_str(), disk.policy, disk.size)).collect();
    assert_eq!(
        told,
        [
            ("root", VolumePolicy::Persistent, Some(Bytes::new(1024))),
            ("log", VolumePolicy::Ephemeral, None),
            ("new", VolumePolicy::Persistent, Some(Bytes::new(8192))),
        ]
    );
}

#[test]
fn a_refusal_names_whose_value_it_is_and_where_it_stands_there() {
    let own = json!({"disks": [{"id": "root"}, {"id": "log", "persistence": "persistent"}]});
    insta::assert_snapshot!(refused(&own, &json!({"disks": [{"id": "log", "size": 5}]})), @"assignment: $.procurator.disks[0].size is 5; accepted is a number of bytes from 512 to 70368744177664, a multiple of 512");
    insta::assert_snapshot!(refused(&own, &json!({"disks": [{"id": "other"}]})), @r#"assignment: $.procurator.disks[0].id is "other", but no disk has this id; accepted is the id of a disk (the nearest is "root"), or a size that makes it a further disk"#);
    insta::assert_snapshot!(refused(&own, &json!({"disks": [{"id": "log"}, {"id": "log"}]})), @r#"assignment: $.procurator.disks[1].id is "log", but an earlier entry speaks of this disk; accepted is one entry for each disk"#);
    insta::assert_snapshot!(refused(&own, &json!({"disks": [{"size": 4096}]})), @"assignment: $.procurator.disks[0].id is missing, but every entry speaks of one disk; accepted is the id of a disk");
    insta::assert_snapshot!(refused(&own, &json!({"disk": []})), @r#"assignment: $.procurator.disk (value []) is no known key; the nearest known one is "disks""#);
    insta::assert_snapshot!(refused(&own, &json!({"limits": {"cpu": 0}})), @r#"assignment: $.procurator.limits.cpu is 0; accepted is a number from 0.01 to 1024 with three decimals at most"#);
    insta::assert_snapshot!(refused(&Value::Null, &json!({"restart": "sometimes"})), @r#"assignment: $.procurator.restart is "sometimes"; accepted is "always", "on-failure" or "never", or an object with the member "policy""#);
    let wrong = json!({"disks": [{"id": "root"}, {"id": "log", "size": 5}]});
    insta::assert_snapshot!(refused(&wrong, &json!({"disks": [{"id": "root", "size": 512}]})), @r#""vm-config.json": $.procurator.disks[1].size is 5; accepted is a number of bytes from 512 to 70368744177664, a multiple of 512"#);
    insta::assert_snapshot!(refused(&json!([]), &json!({"restart": "never"})), @r#""vm-config.json": $.procurator is []; accepted is an object"#);
}
