//! Faults with their lines, the same verdict as `run`, and origins.

use std::fs;

use super::*;
use crate::settings::keys::{Key, Kind, NAME};

fn faults(text: &str) -> Vec<Fault> {
    Document::parse(text).faults()
}

#[test]
fn every_fault_is_named_with_its_line_what_is_accepted_and_the_nearest_key() {
    let text = "brigde = 'x'\nstop_timeout_seconds = 0\n\n[network]\nsubnet = \"10.0.0.0/31\"\nvhost = true\n\
                [limits]\nmemory_overcommit_ratio = 1.5\n[netwrok]\na = 1\n";
    let told: Vec<String> =
        faults(text).iter().map(|fault| format!("{} {fault}", fault.line.unwrap_or(0))).collect();
    assert_eq!(
        told,
        [
            "1 brigde = 'x': is no known key; the nearest known key is network.bridge",
            "2 stop_timeout_seconds = 0: is not accepted; accepted is 1 to 86400",
            "5 network.subnet = \"10.0.0.0/31\": is not accepted; accepted is an IPv4 network like \
             \"10.100.0.0/16\", with a prefix length of 8 to 30",
            "6 network.vhost = true: is no known key; the nearest known key is network.vhost_net",
            "9 netwrok: is no known key; the nearest known key is network",
        ]
    );
    let text =
        "[networks.storage]\nbridge = 'br-s'\nvhost_net = true\nnta = false\n[networks.Lan]\nbridge = 'x'\n";
    let told: Vec<String> = faults(text).iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "networks.storage.vhost_net = true: is no known key; the nearest known key is network.vhost_net",
            "networks.storage.nta = false: is no known key; the nearest known key is networks.storage.nat",
            "networks.Lan: is no network; accepted is a table whose name is 1 to 32 of a-z, 0-9 and '-', neither starting \
             nor ending with '-'",
        ]
    );
    let broken = faults("a = 1\nb = = 2\n");
    assert_eq!((broken.len(), broken[0].line), (1, Some(2)), "{broken:?}");
    assert_eq!(faults("subnet = 'x'")[0].nearest.as_deref(), Some("network.subnet"));
}

/// Values around the border of each kind, and of other types.
fn values(kind: &Kind) -> Vec<String> {
    let mut values: Vec<String> =
        ["1", "-1", "0.5", "true", "'x'", "''", "'/x'", "['/x']", "[1]", "1979-05-27", "{}", "'off'", "1e9"]
            .map(str::to_owned)
            .into();
    match kind {
        Kind::Integer { least, most } => {
            values.extend([least - 1, *least, *most, most + 1].map(|value| value.to_string()));
        }
        Kind::Choice(choices) => values.extend(choices.iter().map(|choice| format!("'{choice}'"))),
        Kind::Cores => {
            values.extend(["0.009", "0.01", "1024", "1024.001", "0.0005", "nan"].map(str::to_owned))
        }
        Kind::Ratio => {
            values.extend(["0.004", "0.005", "100.004", "100.006", "101", "nan", "inf"].map(str::to_owned))
        }
        Kind::UserRange => {
            values.extend(["'1000-4294967294'", "'999-1000'", "'7-x'", "'9-1'"].map(str::to_owned));
        }
        Kind::Domain => values.extend(["'vm.internal'", "'-x'", "'a..b'", "'x.'"].map(str::to_owned)),
        Kind::LinkName => values.extend(["'br0'", "'a/b'", "'sixteen-bytes-xx'"].map(str::to_owned)),
        Kind::Services => {
            values.extend(["['tcp/80', 'udp/53']", "['tcp/0']", "['sctp/9']", "'tcp/80'"].map(str::to_owned))
        }
        Kind::Ipv6Subnet => {
            values.extend(["'fd12::/64'", "'fd12::/48'", "'fe80::/64'", "'10.0.0.0/16'"].map(str::to_owned));
        }
        Kind::Ipv4Address => {
            values.extend(["'10.0.0.1'", "'10.0.0.1/8'", "'fd12::1'", "'host'"].map(str::to_owned));
        }
        Kind::AddressRanges => {
            let ranges =
                ["['10.100.0.2-10.100.0.9', '10.100.255.0/24']", "['10.100.0.7']", "['10.0.0.9-10.0.0.2']"];
            values.extend(ranges.map(str::to_owned));
        }
        Kind::Caches => {
            values.extend(
                ["['https://cache.example', 'file:///x']", "['cache.example']", "[]"].map(str::to_owned),
            );
        }
        Kind::PublicKeys => values.extend([format!("['{PUBLIC_KEY}']"), "['a-1:AAAA']".to_owned()]),
        Kind::HostAndPort => values.extend(["'m:1'", "'m:x'", "'[::1]:7443'"].map(str::to_owned)),
        Kind::AddressAndPort => values.extend(["'127.0.0.1:1'", "'m:1'", "'[::1]:65536'"].map(str::to_owned)),
        Kind::Boolean | Kind::AbsolutePath | Kind::Path | Kind::Paths | Kind::Text | Kind::Subnet => {}
    }
    values
}

const PUBLIC_KEY: &str = "a-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// A file that says `value` of `key`, and what the reader misses without.
fn with_required(key: &Key, value: &str) -> String {
    let line = format!("{} = {value}\n", key.name.replace(NAME, "lan"));
    let required = [("bridge", "'br-lan'"), ("subnet", "'10.101.0.0/16'")];
    let line = match key.name {
        "fetch.caches" => format!("{line}fetch.trusted_keys = ['{PUBLIC_KEY}']\n"),
        _ => line,
    };
    let others = required.iter().filter(|(name, _)| key.named_in().is_some() && key.parts().1 != *name);
    line + &others.map(|(name, value)| format!("networks.lan.{name} = {value}\n")).collect::<String>()
}

#[test]
fn the_table_and_the_reader_have_the_same_verdict() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("worker.toml");
    for key in KEYS {
        for value in values(&key.kind) {
            let text = with_required(key, &value);
            fs::write(&path, &text).expect("written");
            let (flags, _) = flags(Some(&path)).expect("valid");
            let read = Settings::load(flags, None).map_err(|problem| format!("{problem:#}"));
            let by_table = faults(&text);
            match (&read, by_table.is_empty()) {
                (Ok(_), true) | (Err(_), false) => {}
                // These say something of other keys, or are looked at when the network is set up.
                (Err(problem), true) if key.name.starts_with("master.") || key.name.starts_with("web.") => {
                    assert!(!problem.contains("invalid configuration file"), "{text}: {problem}");
                }
                (Ok(_), false) if matches!(key.kind, Kind::LinkName | Kind::Subnet) => {}
                _ => panic!("{text}: the reader says {:?}, the table {by_table:?}", read.err()),
            }
        }
    }
}

#[test]
fn what_does_not_go_together_is_told_on_its_line() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("worker.toml");
    fs::write(&path, "auto_restart = true\n[master]\nplain_tcp = 'unencrypted-and-unauthenticated'\n")
        .expect("written");
    let checked = check(Some(&path), None).expect("read");
    assert_eq!(checked.faults.len(), 1, "{:?}", checked.faults);
    assert!(checked.faults[0].problem.contains("master.address is missing"), "{:?}", checked.faults);
}

#[test]
fn what_run_refuses_is_a_fault_and_what_will_not_work_a_warning() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("worker.toml");
    let text = "store_roots = ['/nonexistent/store']\nassignments = '/nonexistent/vms.json'\n[master]\n\
                address = 'm:1'\ncertificate = '/nonexistent/c'\nkey = '/nonexistent/k'\nauthorities = '/nonexistent/a'\n";
    fs::write(&path, text).expect("written");
    let checked = check(Some(&path), None).expect("read");
    let told: Vec<String> = checked.faults.iter().map(ToString::to_string).collect();
    assert!(told.iter().any(|fault| fault.contains("/nonexistent/store")), "{told:?}");
    assert!(told.iter().any(|fault| fault.contains("/nonexistent/c")), "{told:?}");
    assert_eq!((told.len(), checked.faults[1].line), (2, Some(1)), "{told:?}");
    let told = checked.warnings.join("\n");
    assert!(told.contains("there is no directory /nonexistent"), "{told}");
}

#[test]
fn an_assigned_interface_in_an_unknown_network_is_told_with_those_there_are() {
    let folder = tempfile::tempdir().expect("a directory");
    let (path, assignments) = (folder.path().join("worker.toml"), folder.path().join("vms.json"));
    let artifact = folder.path().join("store/x");
    fs::create_dir_all(&artifact).expect("made");
    fs::write(artifact.join("vmlinux"), "a kernel").expect("written");
    let description = r#"{ "memory": { "size": 33554432 }, "payload": {}, "net": [{ "id": "net0" }] }"#;
    fs::write(artifact.join("vm-config.json"), description).expect("written");
    let vm = |network: &str| {
        serde_json::json!({ "vms": [{ "id": "a", "hash": "sha256-vZsuiNNAbVoV1qgClBpHhRQ8DSbbp6Lz6NMMLS5CqVY=",
            "store_path": artifact, "procurator": { "net": [{ "id": "net0", "network": network }] } }] })
    };
    let storage = "[networks.storage]\nbridge = 'br-s'\nsubnet = '10.8.0.0/16'\n";
    let roots = folder.path().join("store");
    let text = format!(
        "assignments = '{}'\nstore_roots = ['{}']\n{storage}",
        assignments.display(),
        roots.display()
    );
    fs::write(&path, text).expect("written");
    let told = |network: &str| {
        fs::write(&assignments, vm(network).to_string()).expect("written");
        let checked = check(Some(&path), None).expect("read");
        let faults = checked.faults.iter().map(ToString::to_string);
        faults.chain(checked.warnings.iter().cloned()).collect::<Vec<_>>().join("\n")
    };
    assert!(!told("storage").contains("procurator.net"), "{}", told("storage"));
    let lan = told("lan");
    assert!(lan.contains("\"lan\" (procurator.net)") && lan.contains("storage"), "{lan}");
}

#[test]
fn the_printed_configuration_is_one_and_says_where_each_value_comes_from() {
    let text = "stop_timeout_seconds = 0x3c\n[network]\nsubnet = '10.9.0.0/16'\n[networks.storage]\nbridge = 'br-s'\n\
                subnet = '10.8.0.0/16'\n";
    let document = Document::parse(text);
    let set = [
        ("state_dir", "/srv/it".to_owned()),
        ("stop_guests", "no".to_owned()),
        ("store_roots", "/a:/b".to_owned()),
    ];
    let settings = in_force::all(&document, &set);
    let printed = in_force::document(&settings);
    for line in [
        "stop_timeout_seconds = 0x3c  # file",
        "state_dir = \"/srv/it\"  # environment: PROCURATOR_STATE_DIR",
        "store_roots = [\"/a\", \"/b\"]  # environment: PROCURATOR_STORE_ROOTS",
        "stop_guests = false  # environment: PROCURATOR_STOP_GUESTS",
        "subnet = '10.9.0.0/16'  # file",
        "auto_restart = true  # default",
        "# assignments is not set",
        "[networks.storage]",
        "bridge = 'br-s'  # file",
        "dns = false  # default",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line:?} is not in {printed}");
    }
    assert_eq!(faults(&printed), [], "{printed}");
}
