//! What is refused, and in which words.

use super::{parse, refusal};

#[test]
fn what_is_no_json_object_is_refused() {
    insta::assert_snapshot!(refusal(""), @r#""vm-config.json" is no JSON that can be read: EOF while parsing a value at line 1 column 0"#);
    insta::assert_snapshot!(refusal("{\n  \"cpus\": {,}\n}"), @r#""vm-config.json" is no JSON that can be read: key must be a string at line 2 column 12"#);
    insta::assert_snapshot!(refusal("[]"), @r#""vm-config.json": $ is []; accepted is an object"#);
    insta::assert_snapshot!(refusal("{} {}"), @r#""vm-config.json" is no JSON that can be read: trailing characters at line 1 column 4"#);
    insta::assert_snapshot!(refusal(&"[".repeat(1000)), @r#""vm-config.json" is no JSON that can be read: recursion limit exceeded at line 1 column 128"#);
    insta::assert_snapshot!(refusal(&format!("{{\"cpus\": \"{}\"}}", "x".repeat(1 << 20))), @r#""vm-config.json" has 1048588 bytes; a machine description of at most 1048576 bytes is accepted"#);
}

#[test]
fn unknown_keys_name_the_nearest_one() {
    insta::assert_snapshot!(refusal(r#"{"memroy": {"size": 1}}"#), @r#""vm-config.json": $.memroy (value an object of 1) is no known key; the nearest known one is "memory""#);
    insta::assert_snapshot!(refusal(r#"{"cpus": {"boot_vcpu": 1}}"#), @r#""vm-config.json": $.cpus.boot_vcpu (value 1) is no known key; the nearest known one is "boot_vcpus""#);
    insta::assert_snapshot!(refusal(r#"{"disks": [{"path": "a"}, {"path": "b", "read_only": true}]}"#), @r#""vm-config.json": $.disks[1].read_only (value true) is no known key; the nearest known one is "readonly""#);
    insta::assert_snapshot!(refusal(r#"{"size": 1}"#), @r#""vm-config.json": $.size (value 1) is no known key; the nearest known one is "cpus", and this name is known as "$.memory.size""#);
    insta::assert_snapshot!(refusal(r#"{"a key\n": null}"#), @r#""vm-config.json": $[a key of 6 bytes] (value null) is no known key; the nearest known one is "net""#);
    insta::assert_snapshot!(refusal(&format!("{{{:?}: {:?}}}", "k".repeat(5000), "v".repeat(5000))), @r#""vm-config.json": $[a key of 5000 bytes] (value a text of 5000 bytes) is no known key; the nearest known one is "kernel""#);
}

#[test]
fn a_key_stands_there_once() {
    insta::assert_snapshot!(refusal(r#"{"cpus": null, "cpus": {"boot_vcpus": 2}}"#), @r#""vm-config.json": $.cpus stands there twice, the second time with an object of 1; each key is accepted once"#);
    insta::assert_snapshot!(refusal(r#"{"disks": [{"path": "a", "path": "b"}]}"#), @r#""vm-config.json": $.disks[0].path stands there twice, the second time with a text of 1 bytes; each key is accepted once"#);
}

#[test]
fn values_of_the_wrong_type_or_size_are_refused() {
    insta::assert_snapshot!(refusal(r#"{"cpus": {"boot_vcpus": 0}}"#), @r#""vm-config.json": $.cpus.boot_vcpus is 0; accepted is an integer from 1 to 64"#);
    insta::assert_snapshot!(refusal(r#"{"cpus": {"boot_vcpus": 65}}"#), @r#""vm-config.json": $.cpus.boot_vcpus is 65; accepted is an integer from 1 to 64"#);
    insta::assert_snapshot!(refusal(r#"{"cpus": {"boot_vcpus": -1}}"#), @r#""vm-config.json": $.cpus.boot_vcpus is -1; accepted is an integer from 1 to 64"#);
    insta::assert_snapshot!(refusal(r#"{"cpus": {"boot_vcpus": 1.5}}"#), @r#""vm-config.json": $.cpus.boot_vcpus is 1.5; accepted is an integer from 1 to 64"#);
    insta::assert_snapshot!(refusal(r#"{"cpus": {"boot_vcpus": "2"}}"#), @r#""vm-config.json": $.cpus.boot_vcpus is "2"; accepted is an integer from 1 to 64"#);
    insta::assert_snapshot!(refusal(r#"{"cpus": [1]}"#), @r#""vm-config.json": $.cpus is a list of 1; accepted is an object"#);
    insta::assert_snapshot!(refusal(r#"{"cpus": {"affinity": [{"vcpu": 0, "host_cpus": []}]}}"#), @r#""vm-config.json": $.cpus.affinity[0].host_cpus is []; accepted is a list of 1 to 1024 integers from 0 to 1023"#);
    insta::assert_snapshot!(refusal(r#"{"cpus": {"affinity": [{"vcpu": 0, "host_cpus": [1, 1024]}]}}"#), @r#""vm-config.json": $.cpus.affinity[0].host_cpus is a list of 2; accepted is a list of 1 to 1024 integers from 0 to 1023"#);
    insta::assert_snapshot!(refusal(r#"{"memory": {"hugepages": true, "hugepage_size": 4096}}"#), @r#""vm-config.json": $.memory.hugepage_size is 4096; accepted is 2097152 or 1073741824"#);
    insta::assert_snapshot!(refusal(r#"{"memory": {"size": 99999999999999999999999}}"#), @r#""vm-config.json": $.memory.size is 1e23; accepted is a number of bytes from 16777216 to 17592186044416, a multiple of 4096"#);
    insta::assert_snapshot!(refusal(r#"{"memory": {"size": 16777217}}"#), @r#""vm-config.json": $.memory.size is 16777217; accepted is a number of bytes from 16777216 to 17592186044416, a multiple of 4096"#);
    insta::assert_snapshot!(refusal(r#"{"memory": {"size": "512M"}}"#), @r#""vm-config.json": $.memory.size is "512M"; accepted is a number of bytes from 16777216 to 17592186044416, a multiple of 4096"#);
    insta::assert_snapshot!(refusal(r#"{"memory": {"prefault": 1}}"#), @r#""vm-config.json": $.memory.prefault is 1; accepted is true or false"#);
    insta::assert_snapshot!(refusal(r#"{"payload": {"kernel": ""}}"#), @r#""vm-config.json": $.payload.kernel is ""; accepted is a path relative to the store path, or absolute inside a store root"#);
    insta::assert_snapshot!(refusal(r#"{"payload": {"kernel": "a\u0000b"}}"#), @r#""vm-config.json": $.payload.kernel is a text of 3 bytes; accepted is a path relative to the store path, or absolute inside a store root"#);
    insta::assert_snapshot!(refusal(r#"{"disks": {"path": "a"}}"#), @r#""vm-config.json": $.disks is an object of 1; accepted is a list of objects; all devices together are at most 31"#);
    insta::assert_snapshot!(refusal(r#"{"disks": ["a"]}"#), @r#""vm-config.json": $.disks[0] is a text of 1 bytes; accepted is an object"#);
    insta::assert_snapshot!(refusal(r#"{"disks": [{"path": "a", "rate_limiter_config": {"ops": {"size": 5}}}]}"#), @r#""vm-config.json": $.disks[0].rate_limiter_config.ops.refill_time is missing, but a limit is so much in such a time; accepted is an integer"#);
    insta::assert_snapshot!(refusal(r#"{"disks": [{"path": "a", "queue_size": 100}]}"#), @r#""vm-config.json": $.disks[0].queue_size is 100; accepted is a power of two from 16 to 1024"#);
    insta::assert_snapshot!(refusal(r#"{"disks": [{"path": "a", "image_type": "FixedVhd"}]}"#), @r#""vm-config.json": $.disks[0].image_type is "FixedVhd"; accepted is "Raw", "raw", "Qcow2", "qcow2" or "Unknown""#);
    insta::assert_snapshot!(refusal(r#"{"disks": [{"path": "a", "image_type": "Qcow2"}]}"#), @r#""vm-config.json": $.disks[0].readonly is not set, but a qcow2 image can be read only; accepted is true"#);
    insta::assert_snapshot!(refusal(r#"{"disks": [{"path": "a", "image_type": "Qcow2", "readonly": true, "direct": true}]}"#), @r#""vm-config.json": $.disks[0].direct is true, but a qcow2 image is read through the page cache; accepted is false"#);
    insta::assert_snapshot!(refusal(r#"{"disks": [{"path": "a", "id": "../up"}]}"#), @r#""vm-config.json": $.disks[0].id is "../up"; accepted is 1 to 63 letters, digits, '-', '_' and '.', starting with a letter, digit or '_'"#);
    insta::assert_snapshot!(refusal(r#"{"net": [{"mac": "01:00:5e:00:00:01"}]}"#), @r#""vm-config.json": $.net[0].mac is "01:00:5e:00:00:01"; accepted is the unicast address of one interface, like "52:54:00:12:34:56""#);
    insta::assert_snapshot!(refusal(r#"{"net": [{"ip": "fe80::1"}]}"#), @r#""vm-config.json": $.net[0].ip is "fe80::1"; accepted is the IPv4 address of one host, like "10.100.0.5""#);
    insta::assert_snapshot!(refusal(r#"{"net": [{"mask": "255.0.255.0"}]}"#), @r#""vm-config.json": $.net[0].mask is "255.0.255.0"; accepted is an IPv4 netmask, like "255.255.0.0""#);
    insta::assert_snapshot!(refusal(r#"{"net": [{"tap": "a-name-too-long-for-linux"}]}"#), @r#""vm-config.json": $.net[0].tap is a text of 25 bytes; accepted is 1 to 15 letters, digits, '-', '_' and '.', starting with a letter, digit or '_'"#);
    insta::assert_snapshot!(refusal(r#"{"net": [{"mtu": 68}]}"#), @r#""vm-config.json": $.net[0].mtu is 68; accepted is an integer from 1280 to 65535"#);
    insta::assert_snapshot!(refusal(r#"{"rng": {"src": "/dev/zero"}}"#), @r#""vm-config.json": $.rng.src is "/dev/zero"; accepted is "/dev/urandom" or "/dev/random""#);
    insta::assert_snapshot!(refusal(r#"{"procurator": {"restart": "sometimes"}}"#), @r#""vm-config.json": $.procurator.restart is "sometimes"; accepted is "always", "on-failure" or "never", or an object with the member "policy""#);
}

#[test]
fn what_is_not_supported_says_why() {
    insta::assert_snapshot!(refusal(r#"{"payload": {"firmware": "fw"}}"#), @r#""vm-config.json": $.payload.firmware is "fw", which is not supported yet: kernels are booted directly, without firmware; accepted is an empty value, null or leaving it out"#);
    insta::assert_snapshot!(refusal(r#"{"fs": [{"tag": "t", "socket": "/s"}]}"#), @r#""vm-config.json": $.fs is a list of 1, which is not supported yet: shared directories are missing; accepted is an empty value, null or leaving it out"#);
    insta::assert_snapshot!(refusal(r#"{"debug_console": {"mode": "Tty"}}"#), @r#""vm-config.json": $.debug_console.mode is "Tty", which is not supported yet: there is no debug port; accepted is "Off", "Null", null or leaving it out"#);
    insta::assert_snapshot!(refusal(r#"{"console": {"mode": "tty"}}"#), @r#""vm-config.json": $.console.mode is "tty"; accepted is "Tty", "Pty", "File", "Socket", "Null" or "Off""#);
    insta::assert_snapshot!(refusal(r#"{"platform": {"num_pci_segments": 2}}"#), @r#""vm-config.json": $.platform.num_pci_segments is 2, which is not supported yet: there is one PCI segment; accepted is 1, null or leaving it out"#);
    insta::assert_snapshot!(refusal(r#"{"cpus": {"features": {"amx": true}}}"#), @r#""vm-config.json": $.cpus.features.amx is true, which is not supported yet: AMX is not offered to guests; accepted is false, null or leaving it out"#);
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    insta::assert_snapshot!(refusal(r#"{"payload": {"kernel": "a"}, "kernel": {"path": "b"}}"#), @r#""vm-config.json": $.kernel.path is "b", but $.payload.kernel is set as well; accepted is one of the two"#);
    insta::assert_snapshot!(refusal(r#"{"cpus": {"boot_vcpus": 4, "max_vcpus": 2}}"#), @r#""vm-config.json": $.cpus.max_vcpus is 2, but boot_vcpus is 4; accepted is 4 or more"#);
    insta::assert_snapshot!(refusal(r#"{"cpus": {"boot_vcpus": 4, "topology": {"cores_per_die": 3}}}"#), @r#""vm-config.json": $.cpus.topology is 1 × 3 × 1 × 1, but max_vcpus is 4; accepted is a topology that multiplies to 4"#);
    insta::assert_snapshot!(refusal(r#"{"cpus": {"affinity": [{"vcpu": 1, "host_cpus": [0]}]}}"#), @r#""vm-config.json": $.cpus.affinity[0].vcpu is 1, but max_vcpus is 1 and vCPUs are numbered from 0; accepted is a number below 1"#);
    insta::assert_snapshot!(refusal(r#"{"cpus": {"affinity": [{"vcpu": 0, "host_cpus": [0]}, {"vcpu": 0, "host_cpus": [1]}]}}"#), @r#""vm-config.json": $.cpus.affinity[1].vcpu is 0, but an earlier entry speaks of this vCPU; accepted is one entry for each vCPU"#);
    insta::assert_snapshot!(refusal(r#"{"cpus": {"affinity": [{"vcpu": 0}]}}"#), @r#""vm-config.json": $.cpus.affinity[0].host_cpus is missing, but every entry says which vCPU may run on which host CPUs; accepted is a list of at least one host CPU"#);
    insta::assert_snapshot!(refusal(r#"{"cpus": {"affinity": [{"host_cpus": [0]}]}}"#), @r#""vm-config.json": $.cpus.affinity[0].vcpu is missing, but every entry says which vCPU may run on which host CPUs; accepted is a vCPU's number"#);
    insta::assert_snapshot!(refusal(r#"{"memory": {"hugepage_size": 2097152}}"#), @r#""vm-config.json": $.memory.hugepage_size is 2097152, but hugepages is not true; accepted is leaving it out, or hugepages"#);
    insta::assert_snapshot!(refusal(r#"{"memory": {"hugepages": true, "hugepage_size": 1073741824}}"#), @r#""vm-config.json": $.memory.size is 536870912, but memory is made of huge pages of 1073741824 bytes; accepted is a multiple of 1073741824"#);
    insta::assert_snapshot!(refusal(r#"{"memory": {"hugepages": true}, "balloon": {"size": 0}}"#), @r#""vm-config.json": $.balloon is set, but memory is made of huge pages, which are not given back; accepted is one of the two"#);
    insta::assert_snapshot!(refusal(r#"{"disks": [{"readonly": true}]}"#), @r#""vm-config.json": $.disks[0].path is missing, but every disk has an image; accepted is a path relative to the store path, or absolute inside a store root"#);
    insta::assert_snapshot!(refusal(r#"{"disks": [{"path": "a", "id": "x"}, {"path": "b", "id": "x"}]}"#), @r#""vm-config.json": $.disks[1].id is "x", but $.disks[0].id is the same; accepted is an id that no other device has"#);
    insta::assert_snapshot!(refusal(r#"{"disks": [{"path": "a", "id": "net0"}], "net": [{}]}"#), @r#""vm-config.json": $.net[0].id is "net0", but $.disks[0].id is the same; accepted is an id that no other device has"#);
    insta::assert_snapshot!(refusal(r#"{"net":[{"ip":"10.100.4.4"},{},{"ip":"10.100.4.4"}]}"#), @r#""vm-config.json": $.net[2].ip is "10.100.4.4", but $.net[0].ip is the same; accepted is an address that no other interface has"#);
    insta::assert_snapshot!(refusal(r#"{"net":[{"mac":"52:54:00:00:00:0A"},{"mac":"52:54:00:00:00:0a"}]}"#), @r#""vm-config.json": $.net[1].mac is "52:54:00:00:00:0a", but $.net[0].mac is the same; accepted is a hardware address that no other interface has"#);
    insta::assert_snapshot!(refusal(r#"{"net": [{"num_queues": 3}]}"#), @r#""vm-config.json": $.net[0].num_queues is 3, but receive and transmit queues come in pairs; accepted is an even number"#);
    insta::assert_snapshot!(refusal(r#"{"disks": [{"path": "a"}], "procurator": {"disks": [{"id": "disk1"}]}}"#), @r#""vm-config.json": $.procurator.disks[0].id is "disk1", but no disk has this id; accepted is the id of a disk (the nearest is "disk0"), or a size that makes it a further disk"#);
    insta::assert_snapshot!(refusal(r#"{"procurator": {"disks": [{"id": "disk0"}]}}"#), @r#""vm-config.json": $.procurator.disks[0].id is "disk0", but no disk has this id; accepted is a size that makes it a disk, as the machine has none"#);
    let twice = r#"{"disks": [{"path": "a"}], "procurator": {"disks": [{"id": "disk0"}, {"id": "disk0"}]}}"#;
    insta::assert_snapshot!(refusal(twice), @r#""vm-config.json": $.procurator.disks[1].id is "disk0", but an earlier entry speaks of this disk; accepted is one entry for each disk"#);
    let disk = |members: &str| {
        let root = r#"{"path": "a", "id": "root"}, {"path": "b", "id": "tools", "readonly": true}"#;
        refusal(&format!(
            r#"{{"disks": [{root}], "net": [{{}}], "procurator": {{"disks": [{{{members}}}]}}}}"#
        ))
    };
    insta::assert_snapshot!(disk(r#""id": "tools", "size": 4096"#), @r#""vm-config.json": $.procurator.disks[0].size is 4096, but a disk that is readonly has its image's size; accepted is leaving it out"#);
    insta::assert_snapshot!(disk(r#""id": "root", "size": 1000"#), @r#""vm-config.json": $.procurator.disks[0].size is 1000; accepted is a number of bytes from 512 to 70368744177664, a multiple of 512"#);
    insta::assert_snapshot!(disk(r#""id": "root", "size": 70368744178176"#), @r#""vm-config.json": $.procurator.disks[0].size is 70368744178176; accepted is a number of bytes from 512 to 70368744177664, a multiple of 512"#);
    insta::assert_snapshot!(disk(r#""id": "root", "size": "10G""#), @r#""vm-config.json": $.procurator.disks[0].size is "10G"; accepted is a number of bytes from 512 to 70368744177664, a multiple of 512"#);
    insta::assert_snapshot!(disk(r#""id": "root", "persistence": "forever""#), @r#""vm-config.json": $.procurator.disks[0].persistence is "forever"; accepted is "from_image", "persistent" or "ephemeral""#);
    insta::assert_snapshot!(disk(r#""id": "root", "on_io_error": "ignore""#), @r#""vm-config.json": $.procurator.disks[0].on_io_error is "ignore"; accepted is "pause" or "report""#);
    insta::assert_snapshot!(disk(r#""id": "data", "size": 512"#), @r#""vm-config.json": $.procurator.disks[0].size is 512, but the disk has no image and is made of this size; accepted is a multiple of 4096"#);
    insta::assert_snapshot!(disk(r#""id": "data", "size": 4096, "persistence": "from_image""#), @r#""vm-config.json": $.procurator.disks[0].persistence is "from_image", but none of disks has the id "data", so that this is a disk without an image; accepted is "persistent" or "ephemeral""#);
    insta::assert_snapshot!(disk(r#""id": "net0", "size": 4096"#), @r#""vm-config.json": $.procurator.disks[0].id is "net0", but $.net[0].id is the same; accepted is an id that no other device has"#);
    insta::assert_snapshot!(refusal(r#"{"procurator": {"disks": [{}]}}"#), @r#""vm-config.json": $.procurator.disks[0].id is missing, but every entry speaks of one disk; accepted is the id of a disk"#);
}

#[test]
fn lists_have_an_end() {
    let affinity = vec!["{}"; 65].join(",");
    let error = refusal(&format!(r#"{{"cpus": {{"affinity": [{affinity}]}}}}"#));
    assert!(error.ends_with("accepted is a list of at most 64 objects"), "{error}");
}

#[test]
fn devices_have_slots_on_the_bus() {
    let devices = |disks: usize, nics: usize, more: &str| {
        let (disks, nics) = (vec![r#"{"path":"a"}"#; disks].join(","), vec!["{}"; nics].join(","));
        format!(r#"{{"disks": [{disks}], "net": [{nics}]{more}}}"#)
    };
    let parsed = parse(&devices(30, 0, "")).expect("30 disks and the entropy device");
    assert_eq!(parsed.machine.disks[29].id, "disk29");
    let all =
        r#", "balloon": {}, "vsock": {}, "console": {"mode": "Tty"}, "watchdog": true, "pvpanic": true"#;
    assert!(parse(&devices(10, 16, all)).is_ok());
    insta::assert_snapshot!(refusal(&devices(31, 0, "")), @r#""vm-config.json": $.disks is part of 31 disks, the entropy device: 32 PCI devices on a bus with slots for 31; accepted is at most 30 disks and interfaces together"#);
    insta::assert_snapshot!(refusal(&devices(11, 16, all)), @r#""vm-config.json": $.disks is part of 11 disks, 16 interfaces, the entropy device, the balloon, the socket device, the console, the watchdog: 32 PCI devices on a bus with slots for 31; accepted is at most 26 disks and interfaces together"#);
    insta::assert_snapshot!(refusal(&devices(0, 31, "")), @r#""vm-config.json": $.net is part of 31 interfaces, the entropy device: 32 PCI devices on a bus with slots for 31; accepted is at most 30 disks and interfaces together"#);
    let further = r#", "procurator": {"disks": [{"id": "disk0"}, {"id": "data", "size": 4096}]}"#;
    insta::assert_snapshot!(refusal(&devices(30, 0, further)), @r#""vm-config.json": $.procurator.disks[1] is part of 31 disks, the entropy device: 32 PCI devices on a bus with slots for 31; accepted is at most 30 disks and interfaces together"#);
    // Told before anything that takes long with many of them.
    assert!(refusal(&devices(60_000, 0, "")).contains("60001 PCI devices"));
}

/// A description that says much of what can be said.
fn much() -> serde_json::Value {
    serde_json::json!({
        "cpus": {"boot_vcpus": 2, "affinity": [{"vcpu": 0, "host_cpus": [0]}], "features": {"amx": false}},
        "memory": {"size": 536870912, "shared": true}, "payload": {"kernel": "vmlinux", "cmdline": "quiet"},
        "disks": [{"id": "root", "path": "disk.img", "image_type": "Raw", "serial": "x", "readonly": false}],
        "net": [{"id": "lan", "mac": "52:54:00:00:00:0a", "ip": "10.100.4.4", "mask": "255.255.0.0", "mtu": 1500}],
        "rng": {"src": "/dev/urandom"}, "serial": {"mode": "Tty"}, "console": {"mode": "Off"},
        "platform": {"oem_strings": ["a"], "num_pci_segments": 1}, "watchdog": false,
        "procurator": {
            "restart": "never", "isolation": "strict", "ports": ["80:80"], "egress": ["10.0.0.0/8"],
            "disks": [{"id": "root", "persistence": "persistent", "size": 536870912}],
            "credentials": {"db": {"value": "x"}, "key": {"file": "/etc/x"}},
            "health": {"probes": [{"id": "up", "kind": "http", "role": "liveness", "port": 80, "path": "/", "host": "x"}]},
        },
    })
}

/// Every document that comes of `value` where one value or one key becomes `marker`.
fn marked(value: &serde_json::Value, marker: &str) -> Vec<serde_json::Value> {
    use serde_json::{Map, Value};
    let mut all = vec![Value::from(marker)];
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let mut others: Map<String, Value> = members.clone();
                others.remove(key);
                let with = |key: &str, member: Value| {
                    let mut changed = others.clone();
                    changed.insert(key.to_owned(), member);
                    Value::Object(changed)
                };
                all.extend(marked(member, marker).into_iter().map(|member| with(key, member)));
                all.push(with(marker, member.clone()));
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                all.extend(marked(item, marker).into_iter().map(|item| {
                    let mut items = items.clone();
                    items[index] = item;
                    Value::Array(items)
                }));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    all
}

proptest::proptest! {
    #[test]
    fn a_secret_in_any_place_is_in_no_refusal(
        secret in proptest::prop_oneof!["[a-zA-Z0-9/+_.-]{64,80}", "[a-z0-9]{4,12}[=!$&]{1,3}[a-z0-9]{4,12}"],
    ) {
        assert!(parse(&much().to_string()).is_ok(), "{}", refusal(&much().to_string()));
        for document in marked(&much(), &secret) {
            let said = match parse(&document.to_string()) {
                Ok(parsed) => parsed.warnings.iter().map(ToString::to_string).collect::<String>(),
                Err(problem) => problem,
            };
            proptest::prop_assert!(!said.contains(&secret), "{document}: {said}");
        }
    }
}
