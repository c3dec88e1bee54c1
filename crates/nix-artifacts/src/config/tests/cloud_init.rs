//! `procurator.cloud_init`, and that nothing of it is shown.

use std::path::PathBuf;

use serde_json::{Value, json};
use vm_model::{CLOUD_INIT_BYTES_MAX, Secret};

use super::super::extract::ParsedConfig;
use super::super::*;
use super::{parse, parse_all, refusal};

/// Says what must never be shown.
const SECRET: &str = "hunter2";

fn with(cloud_init: &Value) -> String {
    json!({ "procurator": { "cloud_init": cloud_init } }).to_string()
}

fn accepted(cloud_init: &Value) -> ParsedConfig {
    parse(&with(cloud_init)).expect("accepted")
}

fn refused(cloud_init: &Value) -> String {
    let text = refusal(&with(cloud_init));
    text.strip_prefix("\"vm-config.json\": $.procurator.").unwrap_or(&text).to_owned()
}

fn given(text: &str) -> Option<SecretSource> {
    Some(SecretSource::Given(Secret::new(text.as_bytes().to_vec())))
}

#[test]
fn user_data_is_given_or_lies_in_a_file() {
    assert_eq!(accepted(&Value::Null).settings.cloud_init, None);
    let least = accepted(&json!({})).settings.cloud_init.expect("a disk");
    assert_eq!((least.user_data, least.vendor_data, least.network), (None, None, CloudInitNetwork::Told));
    let all = accepted(&json!({
        "user_data": SECRET,
        "vendor_data": { "file": "/etc/procurator/credentials/vendor" },
        "meta_data": { "public-keys": "ssh-ed25519 A\nssh-ed25519 B", "region": "hunter2", "none": null },
        "network": false
    }));
    assert!(!format!("{all:?}").contains(SECRET), "{all:?}");
    let all = all.settings.cloud_init.expect("a disk");
    assert_eq!(all.user_data, given(SECRET));
    let file = PathBuf::from("/etc/procurator/credentials/vendor");
    assert_eq!((all.vendor_data, all.network), (Some(SecretSource::File(file)), CloudInitNetwork::Dhcp));
    let keys: Vec<&str> = all.meta_data.keys().map(String::as_str).collect();
    assert_eq!(keys, ["public-keys", "region"]);
    for same in [json!({ "value": SECRET }), json!({ "base64": "aHVudGVyMg==" })] {
        let settings = accepted(&json!({ "user_data": same })).settings.cloud_init.expect("a disk");
        assert_eq!(settings.user_data, given(SECRET));
    }
}

#[test]
fn an_assignment_has_the_last_word() {
    let own = json!({ "user_data": "own", "meta_data": { "a": "1", "b": "2" } });
    let laid = json!({ "cloud_init": { "user_data": { "file": "/run/x" }, "meta_data": { "a": "3" } } });
    let laid = laid.as_object().expect("an object");
    let parsed = parse_all(&with(&own), Conventional::default(), laid).expect("accepted");
    let settings = parsed.settings.cloud_init.expect("a disk");
    assert_eq!(settings.user_data, Some(SecretSource::File("/run/x".into())));
    assert_eq!(settings.meta_data.into_values().collect::<Vec<_>>(), ["3", "2"]);
}

#[test]
fn refusals_say_what_is_accepted_and_show_nothing() {
    let long = SECRET.repeat(CLOUD_INIT_BYTES_MAX / SECRET.len() + 1);
    insta::assert_snapshot!(refused(&json!({ "user_data": long })), @r#"cloud_init.user_data cannot be used (its value is not shown); accepted is text of at most 65536 bytes without NUL, or an object that says where it comes from"#);
    insta::assert_snapshot!(refused(&json!({ "user_data": { "value": long } })), @"cloud_init.user_data.value cannot be used (its value is not shown); accepted is text of at most 65536 bytes without NUL");
    insta::assert_snapshot!(refused(&json!({ "user_data": { "base64": SECRET } })), @"cloud_init.user_data.base64 cannot be used (its value is not shown): it is no Base64; accepted is at most 65536 bytes in Base64 with padding");
    insta::assert_snapshot!(refused(&json!({ "user_data": { "file": "hunter2" } })), @r#"cloud_init.user_data.file cannot be used (its value is not shown): it is no path of a file of the host; accepted is an absolute path without "..""#);
    insta::assert_snapshot!(refused(&json!({ "vendor_data": { "value": SECRET, "file": "/x" } })), @r#"cloud_init.vendor_data cannot be used (its value is not shown): it has 2 contents; accepted is exactly one of "value", "base64" and "file""#);
    insta::assert_snapshot!(refused(&json!({ "usr_data": SECRET })), @r#"cloud_init.usr_data (value (not shown)) is no known key; the nearest known one is "user_data""#);
    insta::assert_snapshot!(refused(&json!({ "meta_data": { "instance-id": SECRET } })), @"cloud_init.meta_data.instance-id cannot be used (its value is not shown): the worker says which instance it is; accepted is leaving it out");
    insta::assert_snapshot!(refused(&json!({ "network": SECRET })), @"cloud_init.network cannot be used (its value is not shown); accepted is true or false");
    for cloud_init in [
        json!(SECRET),
        json!([SECRET]),
        json!({ "user_data": [SECRET] }),
        json!({ "user_data": { "vlaue": SECRET } }),
        json!({ "user_data": 5 }),
        json!({ "meta_data": SECRET }),
        json!({ "meta_data": { "a": [SECRET] } }),
        json!({ "meta_data": { "a/b": SECRET } }),
        json!({ "meta_data": { "a": "hunter2\u{7f}" } }),
        json!({ "meta_data": { "a": long } }),
        json!({ "credentials": SECRET }),
    ] {
        let text = refused(&cloud_init);
        assert!(!text.contains(SECRET), "{text}");
    }
    for procurator in [
        json!({ "cluod_init": { "user_data": SECRET } }),
        json!({ "user_data": SECRET }),
        json!({ "disks": { "cloud_init": { "user_data": SECRET } } }),
        json!({ "cloud_init": with(&json!({ "user_data": SECRET })) }),
    ] {
        let text = refusal(&json!({ "procurator": procurator }).to_string());
        assert!(!text.contains(SECRET), "{text}");
    }
    let top = refusal(&json!({ "cloud_init": { "user_data": SECRET } }).to_string());
    assert!(top.contains("$.procurator.cloud_init") && !top.contains(SECRET), "{top}");
}

#[test]
fn the_disk_has_a_name_and_a_slot_of_its_own() {
    let named =
        |id: &str| json!({ "disks": [{ "path": "a", "id": id }], "procurator": { "cloud_init": {} } });
    assert!(parse(&named("root").to_string()).is_ok());
    insta::assert_snapshot!(refusal(&named("cloud-init").to_string()), @r#""vm-config.json": $.procurator.cloud_init cannot be used (its value is not shown): another device has the id "cloud-init", which is that of the disk for it; accepted is another id for that device"#);
    let disks: Vec<Value> = (0..29).map(|_| json!({ "path": "a" })).collect();
    let full = |cloud_init: Value| {
        json!({ "disks": disks, "net": [{}], "procurator": { "cloud_init": cloud_init } }).to_string()
    };
    assert!(parse(&full(Value::Null)).is_ok());
    assert!(refusal(&full(json!({}))).contains("the disk for cloud-init"));
}
