//! What is said of probes, credentials, OEM strings and rollouts, and that no secret gets into a message.

use std::num::{NonZeroU16, NonZeroU32};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use vm_model::{
    CREDENTIAL_BYTES_MAX, HttpCheck, OEM_STRINGS_BYTES_MAX, ProbeCheck, ProbeRole, ProbeTiming,
    RolloutFailure, RolloutSpec, SYSTEMD_NOTIFY_PORT,
};

use super::super::extract::ParsedConfig;
use super::super::*;
use super::{parse, parse_all, refusal};

/// Says what must never be shown.
const SECRET: &str = "hunter2";

fn with_settings(procurator: &Value) -> String {
    json!({"net": [{}], "procurator": procurator}).to_string()
}

fn accepted(procurator: &Value) -> ParsedConfig {
    parse(&with_settings(procurator)).expect("accepted")
}

fn refused(procurator: &Value) -> String {
    refusal(&with_settings(procurator))
}

/// Why this probe is refused, without the part that all refusals begin with.
fn refused_probe(probe: &Value) -> String {
    let text = refused(&json!({"health": {"probes": [probe]}}));
    text.strip_prefix("\"vm-config.json\": $.procurator.health.probes[0].").unwrap_or(&text).to_owned()
}

fn strings(parsed: &ParsedConfig) -> Vec<&str> {
    parsed.machine.services.oem_strings.iter().collect()
}

#[test]
fn every_kind_of_probe_is_read() {
    let parsed = accepted(&json!({"health": {"probes": [
        {"id": "boot", "role": "startup", "kind": "console", "marker": "login:", "period_s": 1, "failure_threshold": 90},
        {"id": "ssh", "role": "liveness", "kind": "tcp", "port": 22, "timeout_s": 5, "initial_delay_s": 3},
        {"id": "web", "role": "readiness", "kind": "http", "port": 8080, "path": "/up?x=1", "host": "web.example",
         "status_min": 204, "status_max": 204, "body_contains": "ok", "success_threshold": 2},
        {"id": "agent", "role": "readiness", "kind": "vsock", "port": 4_000_000},
        {"id": "unit", "role": "readiness", "kind": "systemd", "unit": "ssh-access.target"}
    ]}}));
    let probes = parsed.settings.health.expect("probes").probes;
    let checks: Vec<_> = probes.iter().map(|probe| (probe.id.as_str(), probe.role, &probe.check)).collect();
    let port = |port| NonZeroU16::new(port).expect("a port");
    let http = ProbeCheck::Http(HttpCheck {
        port: port(8080),
        path: "/up?x=1".to_owned(),
        host: Some("web.example".to_owned()),
        least_status: 204,
        greatest_status: 204,
        body_contains: Some("ok".to_owned()),
    });
    assert_eq!(
        checks,
        [
            ("boot", ProbeRole::Startup, &ProbeCheck::Console { marker: "login:".to_owned() }),
            ("ssh", ProbeRole::Liveness, &ProbeCheck::Tcp { port: port(22) }),
            ("web", ProbeRole::Readiness, &http),
            ("agent", ProbeRole::Readiness, &ProbeCheck::Vsock { port: 4_000_000 }),
            (
                "unit",
                ProbeRole::Readiness,
                &ProbeCheck::Systemd { unit: Some("ssh-access.target".to_owned()) }
            ),
        ]
    );
    let (second, defaults) = (Duration::from_secs, ProbeTiming::default());
    let times = |count| NonZeroU32::new(count).expect("not 0");
    let expected = ProbeTiming { period: second(1), failure_threshold: times(90), ..defaults };
    assert_eq!(probes[0].timing, expected);
    assert_eq!(probes[1].timing, ProbeTiming { timeout: second(5), initial_delay: second(3), ..defaults });
    assert_eq!(probes[2].timing, ProbeTiming { success_threshold: times(2), ..defaults });
    assert_eq!(probes[4].timing, ProbeTiming { failure_threshold: times(1), ..defaults });
}

#[test]
fn systemd_needs_a_socket_device_and_is_told_where_to_report() {
    let notify = format!("io.systemd.credential:vmm.notify_socket=vsock-stream:2:{SYSTEMD_NOTIFY_PORT}");
    let parsed = accepted(&json!({"health": {"systemd": true}}));
    assert_eq!(parsed.vsock, Some(VsockRequest { cid: 3 }));
    assert_eq!(strings(&parsed), [notify.as_str()]);
    let health = parsed.settings.health.expect("a probe");
    assert_eq!((health.probes.len(), health.probes[0].id.as_str()), (1, "systemd"));
    assert!(health.listens_to_systemd());

    let described = r#"{"vsock": {"cid": 9}, "procurator": {"health": {"systemd": true}}}"#;
    assert_eq!(parse(described).expect("accepted").vsock, Some(VsockRequest { cid: 9 }));
    let vsock = accepted(
        &json!({"health": {"probes": [{"id": "a", "role": "liveness", "kind": "vsock", "port": 1}]}}),
    );
    assert_eq!((vsock.vsock, strings(&vsock)), (Some(VsockRequest { cid: 3 }), vec![]));
    for nothing in [json!({}), json!({"health": {}}), json!({"health": {"systemd": false, "probes": []}})] {
        let parsed = accepted(&nothing);
        assert_eq!((parsed.settings.health, parsed.vsock), (None, None));
    }
    let taken = json!({"health": {"systemd": true}, "credentials": {"vmm.notify_socket": {"value": "x"}}});
    assert!(refused(&taken).contains("needs this name for itself"));
}

#[test]
fn a_socket_device_that_probes_need_takes_a_slot() {
    let disks: Vec<Value> = (0..29).map(|_| json!({"path": "a"})).collect();
    let with =
        |health: Value| json!({"disks": disks, "net": [{}], "procurator": {"health": health}}).to_string();
    assert!(parse(&with(json!({}))).is_ok());
    assert!(refusal(&with(json!({"systemd": true}))).contains("the socket device"));
}

#[test]
fn keys_that_do_not_fit_a_probe_are_refused() {
    insta::assert_snapshot!(refused_probe(&json!({"role": "startup", "kind": "tcp", "port": 1})), @"id is missing, but every probe has one; accepted is a name");
    insta::assert_snapshot!(refused_probe(&json!({"id": "a", "kind": "tcp", "port": 1})), @r#"role is missing, but every probe has one; accepted is "startup", "readiness" or "liveness""#);
    insta::assert_snapshot!(refused_probe(&json!({"id": "a", "role": "startup", "kind": "tcp"})), @"port is missing, but it is where the guest is asked; accepted is a port");
    insta::assert_snapshot!(refused_probe(&json!({"id": "a", "role": "startup", "kind": "tcp", "port": 70_000})), @"port is 70000, but it is a port of the network; accepted is an integer from 1 to 65535");
    insta::assert_snapshot!(refused_probe(&json!({"id": "a", "role": "startup", "kind": "tcp", "port": 1, "path": "/"})), @r#"path is set, but a probe of kind "tcp" has no such key; accepted is leaving it out"#);
    insta::assert_snapshot!(refused_probe(&json!({"id": "a", "role": "startup", "kind": "console"})), @"marker is missing, but it is what is looked for; accepted is a text that the guest writes when it is ready");
    insta::assert_snapshot!(refused_probe(&json!({"id": "a", "role": "liveness", "kind": "systemd"})), @r#"role is "liveness", but what a probe of kind "systemd" finds stays true when the guest stops working; accepted is "startup" or "readiness""#);
    insta::assert_snapshot!(refused_probe(&json!({"id": "a", "role": "liveness", "kind": "tcp", "port": 1, "success_threshold": 2})), @"success_threshold is 2, but only readiness that is asked for can need several successes; accepted is 1");
    insta::assert_snapshot!(refused_probe(&json!({"id": "a", "role": "startup", "kind": "http", "port": 1, "path": "/a b"})), @r#"path is "/a b", but it goes into a request; accepted is '/' and printable ASCII without blanks"#);
    insta::assert_snapshot!(refused_probe(&json!({"id": "a", "role": "startup", "kind": "http", "port": 1, "host": "a\r\nX: y"})), @r#"host is a text of 7 bytes, but it goes into a request; accepted is printable ASCII without blanks"#);
    insta::assert_snapshot!(refused_probe(&json!({"id": "a", "role": "startup", "kind": "http", "port": 1, "status_min": 500})), @"status_min is 500, but status_max is 399; accepted is at most status_max");
    insta::assert_snapshot!(refused_probe(&json!({"id": "a", "role": "startup", "kind": "icmp"})), @r#"kind is "icmp"; accepted is "console", "tcp", "http", "vsock" or "systemd""#);
    let twice = json!({"id": "systemd", "role": "startup", "kind": "systemd"});
    insta::assert_snapshot!(refused(&json!({"health": {"systemd": true, "probes": [twice]}})), @r#""vm-config.json": $.procurator.health.probes[0].id is "systemd", but an earlier probe has this id; accepted is one of its own"#);
}

#[test]
fn a_probe_needs_the_device_that_it_goes_through() {
    let without_net = |kind: &str| {
        let probe = json!({"id": "a", "role": "startup", "kind": kind, "port": 80});
        refusal(&json!({"procurator": {"health": {"probes": [probe]}}}).to_string())
    };
    assert!(
        without_net("tcp").contains("no network interface")
            && without_net("http").contains("no network interface")
    );
    let probe = json!({"id": "a", "role": "startup", "kind": "console", "marker": "x"});
    let silent = json!({"serial": {"mode": "Null"}, "procurator": {"health": {"probes": [probe]}}});
    assert!(refusal(&silent.to_string()).contains("is not recorded"));
}

#[test]
fn probes_merge_by_their_id() {
    let own = json!({"health": {"probes": [{"id": "web", "role": "readiness", "kind": "tcp", "port": 80}]}});
    let laid = json!({"health": {"probes": [{"id": "web", "port": 8080}]}});
    let laid = laid.as_object().expect("an object");
    let parsed = parse_all(&with_settings(&own), Conventional::default(), laid).expect("accepted");
    let probes = parsed.settings.health.expect("probes").probes;
    assert_eq!(probes[0].check, ProbeCheck::Tcp { port: NonZeroU16::new(8080).expect("a port") });
}

#[test]
fn credentials_are_given_or_lie_in_files() {
    let parsed = accepted(&json!({"credentials": {
        "a": {"value": SECRET}, "b": {"base64": "/wA="}, "c": {"file": "/run/keys/c"}, "d": null
    }}));
    assert_eq!(strings(&parsed), ["io.systemd.credential:a=hunter2", "io.systemd.credential.binary:b=/wA="]);
    let files: Vec<_> =
        parsed.settings.credential_files.iter().map(|file| (file.name.as_str(), &*file.path)).collect();
    assert_eq!(files, [("c", Path::new("/run/keys/c"))]);
    assert!(!format!("{parsed:?}").contains(SECRET));
}

#[test]
fn refusals_do_not_show_secrets() {
    let long = format!("{SECRET}{}", "x".repeat(CREDENTIAL_BYTES_MAX));
    let wrong = [
        json!({"credentials": {"a": SECRET}}),
        json!({"credentials": {"a": {"value": [SECRET]}}}),
        json!({"credentials": {"a": {"value": long}}}),
        json!({"credentials": {"a": {"base64": SECRET}}}),
        json!({"credentials": {"a": {"vlaue": SECRET}}}),
        json!({"credentials": {"a": {"value": SECRET, "base64": "AAAA"}}}),
        json!({"credentials": {"a": {}}}),
        json!({"credentials": {"a": {"file": "hunter2/relative"}}}),
        json!({"credentials": {"a": {"file": "/run/../hunter2"}}}),
        json!({"credentials": {"a/b": {"value": SECRET}}}),
        json!({"credentials": SECRET}),
        json!({"credentials": [{"value": SECRET}]}),
        json!({"credential": {"a": {"value": SECRET}}}),
        json!({"crdentials": {"a": {"value": SECRET}}}),
        json!({"disks": {"credentials": {"a": {"value": SECRET}}}}),
        json!([{"credentials": {"a": {"value": SECRET}}}]),
        // JSON that was written as text, and credentials in the wrong place.
        json!(json!({"credentials": {"a": {"value": SECRET}}}).to_string()),
        json!({"health": json!({"db": SECRET}).to_string()}),
        json!({"disks": json!([SECRET]).to_string()}),
        json!({"isolation": json!({"a": SECRET}).to_string()}),
        json!({"health": SECRET}),
        json!({"disks": [SECRET]}),
        json!({"db-password": SECRET}),
        json!({"tokens": {"a": [SECRET]}}),
        json!(SECRET),
    ];
    for procurator in wrong {
        let text = refused(&procurator);
        assert!(!text.contains(SECRET), "{text}");
    }
    let strings =
        format!(r#"{{"platform": {{"oem_strings": {{"x": "io.systemd.credential:a={SECRET}"}}}}}}"#);
    assert!(!refusal(&strings).contains(SECRET));
    let twice = format!(
        r#"{{"procurator": {{"credentials": {{"a": {{"value": "{SECRET}"}}, "a": {{"value": "{SECRET}"}}}}}}}}"#
    );
    insta::assert_snapshot!(refusal(&twice), @r#""vm-config.json": $.procurator.credentials.a stands there twice, the second time with (not shown); each key is accepted once"#);
    let two = json!({"credentials": {"a": {"value": SECRET, "file": "/x"}}});
    insta::assert_snapshot!(refused(&two), @r#""vm-config.json": $.procurator.credentials.a cannot be used (its value is not shown): it has 2 contents; accepted is exactly one of "value", "base64" and "file""#);
    let laid = json!({"credentials": {"a": {"value": 5}}});
    let laid = laid.as_object().expect("an object");
    insta::assert_snapshot!(parse_all("{}", Conventional::default(), laid).expect_err("refused"), @"assignment: $.procurator.credentials.a.value cannot be used (its value is not shown); accepted is text of at most 32768 bytes without NUL");
}

#[test]
fn oem_strings_are_taken_as_long_as_the_tables_have_room() {
    let parsed = parse(r#"{"platform": {"oem_strings": ["a", "b=c"]}}"#).expect("accepted");
    assert_eq!(strings(&parsed), ["a", "b=c"]);
    insta::assert_snapshot!(refusal(r#"{"platform": {"oem_strings": ["a", ""]}}"#), @r#""vm-config.json": $.platform.oem_strings[1] is ""; accepted is text, not empty and without NUL"#);
    insta::assert_snapshot!(refusal(r#"{"platform": {"oem_strings": "a"}}"#), @r#""vm-config.json": $.platform.oem_strings is a text of 1 bytes; accepted is a list of at most 255 texts, not empty and without NUL"#);
    let with = |size: usize, value: usize| {
        let credentials = json!({"a": {"value": "x".repeat(value)}});
        json!({"platform": {"oem_strings": ["x".repeat(size)]}, "procurator": {"credentials": credentials}})
            .to_string()
    };
    let prefix = "io.systemd.credential:a=".len();
    let room = OEM_STRINGS_BYTES_MAX - 1 - prefix - 1 - 100;
    assert!(parse(&with(room, 100)).is_ok());
    insta::assert_snapshot!(refusal(&with(room, 101)), @r#""vm-config.json": $.procurator.credentials.a cannot be used (its value is not shown): all strings together would have 61441 bytes, and a machine's tables have room for 61440; accepted is fewer or shorter credentials and texts"#);
    insta::assert_snapshot!(refusal(&with(OEM_STRINGS_BYTES_MAX, 0)), @r#""vm-config.json": $.platform.oem_strings[0] is a text of 61440 bytes, but all strings together would have 61441 bytes, and a machine's tables have room for 61440; accepted is fewer or shorter texts"#);
}

#[test]
fn a_rollout_has_a_deadline_and_an_end() {
    assert_eq!(accepted(&json!({})).settings.rollout, None);
    assert_eq!(accepted(&json!({"rollout": {}})).settings.rollout, Some(RolloutSpec::default()));
    let rollout =
        accepted(&json!({"rollout": {"ready_deadline_s": 30, "on_failure": "keep"}})).settings.rollout;
    let expected = RolloutSpec { ready_deadline: Duration::from_secs(30), on_failure: RolloutFailure::Keep };
    assert_eq!(rollout, Some(expected));
    insta::assert_snapshot!(refused(&json!({"rollout": {"ready_deadline_s": 0}})), @r#""vm-config.json": $.procurator.rollout.ready_deadline_s is 0; accepted is an integer from 1 to 3600"#);
    insta::assert_snapshot!(refused(&json!({"rollout": {"on_failure": "rollback"}})), @r#""vm-config.json": $.procurator.rollout.on_failure is "rollback"; accepted is "roll_back" or "keep""#);
}
