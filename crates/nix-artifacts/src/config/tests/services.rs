//! The devices by which guest and host help each other.

use vm_model::{BalloonSpec, Bytes, GuestServices, Overrides};

use super::super::*;
use super::{parse, refusal};

#[test]
fn what_is_not_spoken_of_is_as_by_default() {
    let services = parse("{}").expect("accepted").machine.services;
    assert_eq!(services, GuestServices::default());
    assert!(services.panic_device);
    let off = parse(r#"{"pvpanic": false, "balloon": null}"#).expect("accepted").machine.services;
    assert_eq!(off, GuestServices { panic_device: false, ..GuestServices::default() });
}

#[test]
fn a_socket_device_is_wished_for_and_not_described() {
    let parsed = parse(r#"{"vsock": {"cid": 7, "socket": "/run/x.sock"}}"#).expect("accepted");
    assert_eq!((parsed.vsock, parsed.machine.services.vsock), (Some(VsockRequest { cid: 7 }), None));
    assert_eq!(parse(r#"{"vsock": {}}"#).expect("accepted").vsock, Some(VsockRequest { cid: 3 }));
    assert_eq!(parse("{}").expect("accepted").vsock, None);
}

#[test]
fn a_virtio_console_is_there_when_its_mode_says_so() {
    for (text, expected) in [
        ("{}", false),
        (r#"{"console": {}}"#, false),
        (r#"{"console": {"mode": null}}"#, false),
        (r#"{"console": {"mode": "Off"}}"#, false),
        (r#"{"console": {"mode": "Null"}}"#, false),
        (r#"{"console": {"mode": "Tty"}}"#, true),
        (r#"{"console": {"mode": "Pty", "id": null}}"#, true),
        (r#"{"console": {"mode": "File"}}"#, true),
        (r#"{"serial": {"mode": "Off"}, "console": {"mode": "Socket"}}"#, true),
    ] {
        assert_eq!(parse(text).expect("accepted").machine.services.console, expected, "{text}");
    }
}

#[test]
fn a_watchdog_is_there_when_it_is_asked_for() {
    for (text, expected) in
        [("{}", false), (r#"{"watchdog": false}"#, false), (r#"{"watchdog": true}"#, true)]
    {
        assert_eq!(parse(text).expect("accepted").machine.services.watchdog, expected, "{text}");
    }
}

#[test]
fn a_balloon_is_as_large_as_the_memory_at_most() {
    let text = r#"{"memory": {"size": 33554432}, "balloon": {"size": 33554432, "deflate_on_oom": true}}"#;
    let mut machine = parse(text).expect("accepted").machine;
    let size = Bytes::from_mib(32);
    let expected = BalloonSpec { size, deflate_on_oom: true, free_page_reporting: false };
    assert_eq!(machine.services.balloon, Some(expected));
    insta::assert_snapshot!(
        refusal(r#"{"memory": {"size": 33554432}, "balloon": {"size": 33558528}}"#),
        @r#""vm-config.json": $.balloon.size is 33558528, but the memory has 33554432 bytes; accepted is at most 33554432"#
    );
    let smaller = Overrides { memory_bytes: Some(Bytes::from_mib(16)), ..Overrides::default() };
    let error = apply_overrides(&mut machine, &smaller).expect_err("the balloon does not fit");
    insta::assert_snapshot!(error, @"override memory_bytes is 16777216; accepted is at least the balloon's 33554432 bytes");
}
