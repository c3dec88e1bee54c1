//! `check-config --assignments`: whether an assignments file would be taken, entry by entry.
//!
//! An entry whose store path is on this host is judged by the functions that its VM's start would use. Where there is no such
//! store, the file is meant for another host, and only what the entry itself says is judged.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Result, bail};
use host_network::{Holder, PortTaken};
use nix_artifacts::check_network_access;
use serde::Serialize;
use vm_model::{
    Assignment, AssignmentSet, FailureKind, FailureReason, PortForward, StoreName, Transport, VmId,
    error_chain,
};
use worker::vms::{AssignmentCheck, Judged, VmManagerConfig};

use crate::assignments::{Seen, look_at};
use crate::client::{print, print_json};
use crate::printable::printable;

/// Something that is wrong with an assignments file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    /// The VM whose entry it is in; absent where the whole file is refused.
    pub(super) vm: Option<VmId>,
    /// What is wrong, where, and what is accepted.
    pub(super) problem: String,
}

#[derive(Serialize)]
struct Answer<'a> {
    file: &'a Path,
    vms: usize,
    faults: &'a [Problem],
}

/// The worker that an assignments file is for.
#[derive(Clone, Copy)]
pub(super) struct WorkerFacts<'a> {
    /// Its settings.
    pub(super) manager: &'a VmManagerConfig,
    /// Where it listens, by which key.
    pub(super) listening: &'a [(&'static str, SocketAddr)],
    /// Its process, where it runs already.
    pub(super) process: Option<u32>,
}

/// Says what is wrong with `file`, for a worker with these settings.
pub(super) fn run(file: &Path, worker: WorkerFacts<'_>, json: bool) -> Result<()> {
    let (vms, faults) = check(file, worker);
    if json {
        print_json(&Answer { file, vms, faults: &faults })?;
    } else {
        let mut text = String::new();
        for fault in &faults {
            let _ = writeln!(text, "{}: {}", file.display(), printable(&fault.problem));
        }
        if faults.is_empty() {
            let _ = writeln!(text, "{}: sound (VMs: {vms})", file.display());
        }
        print(&text)?;
    }
    match faults.len() {
        0 => Ok(()),
        1 => bail!("{}: one fault", file.display()),
        count => bail!("{}: {count} faults", file.display()),
    }
}

/// What is wrong with `file`.
pub(super) fn problems(file: &Path, worker: WorkerFacts<'_>) -> Vec<Problem> {
    check(file, worker).1
}

/// How many VMs the file assigns, and what is wrong with it.
fn check(file: &Path, worker: WorkerFacts<'_>) -> (usize, Vec<Problem>) {
    let whole = |problem: String| (0, vec![Problem { vm: None, problem }]);
    match look_at(file) {
        Seen::Missing(problem) | Seen::Unusable(problem) => whole(problem),
        Seen::Text(text) => match AssignmentSet::parse(&text) {
            Err(problem) => whole(problem.to_string()),
            Ok(set) => {
                let refused = set.refused.into_iter();
                let problems = refused.map(|entry| Problem { vm: Some(entry.id), problem: entry.problem });
                let problems = problems.chain(judge(&set.vms, worker)).collect();
                (set.vms.len(), problems)
            }
        },
    }
}

/// What of sound entries does not work on a host with these settings.
fn judge(vms: &[Assignment], worker: WorkerFacts<'_>) -> Vec<Problem> {
    let WorkerFacts { manager, listening, .. } = worker;
    let (mut problems, mut forwards): (_, Vec<(&VmId, PortForward)>) = (Vec::new(), Vec::new());
    let mut check = AssignmentCheck::new(&present_roots(manager));
    for vm in vms {
        let mut add = |problem: String| {
            problems.push(Problem { vm: Some(vm.id.clone()), problem: format!("{}: {problem}", vm.id) });
        };
        if let Some(problem) = wrong_path(&vm.store_path, manager) {
            add(problem);
        }
        let Judged { problem, forwards: own, taken, elsewhere } = match &mut check {
            Ok(check) if vm.store_path.exists() => check.judge(vm),
            Ok(_) | Err(_) => judge_entry(vm),
        };
        problem.into_iter().for_each(|problem| add(problem.message));
        taken.iter().filter_map(|taken| told_of(taken, worker)).for_each(&mut add);
        elsewhere.iter().map(|held| error_chain(held)).for_each(&mut add);
        for forward in own {
            if let Some((key, address)) = own_listener(listening, &forward) {
                add(format!(
                    "its port {forward} of the host is the worker's own ({key} = {address}): another one is accepted"
                ));
            }
            if let Some((other, known)) = forwards.iter().find(|(_, known)| known.conflicts_with(&forward)) {
                add(format!("its port {forward} of the host is {other}'s already ({known})"));
            }
            forwards.push((&vm.id, forward));
        }
    }
    let without_address = check.map(|check| check.judge_addresses()).unwrap_or_default();
    problems.extend(without_address.into_iter().map(|(id, problem)| {
        let problem = format!("{id}: {}", problem.message);
        Problem { vm: Some(id), problem }
    }));
    problems
}

/// What the entry itself says, where its artifact is not here.
fn judge_entry(vm: &Assignment) -> Judged {
    match check_network_access(&vm.procurator) {
        Ok(access) => Judged { forwards: access.forwards, ..Judged::default() },
        Err(problem) => {
            let problem = FailureReason::new(FailureKind::Artifact, error_chain(&problem));
            Judged { problem: Some(problem), ..Judged::default() }
        }
    }
}

/// What is told of a port on which a program listens; nothing where that is the worker's by its settings, of which more is told.
fn told_of(taken: &PortTaken, worker: WorkerFacts<'_>) -> Option<String> {
    if own_listener(worker.listening, &taken.forward).is_some() {
        return None;
    }
    match taken.holder {
        Holder::Program { process, .. } if Some(process) == worker.process => Some(format!(
            "its port {} of the host is one on which the worker that runs listens ({}): another one is accepted",
            taken.forward, taken.listener
        )),
        Holder::Program { .. } | Holder::ThisWorker | Holder::Unknown => Some(error_chain(taken)),
    }
}

/// The worker's own address that `forward` would go before, with its key.
fn own_listener<'a>(
    listening: &'a [(&'static str, SocketAddr)],
    forward: &PortForward,
) -> Option<&'a (&'static str, SocketAddr)> {
    listening.iter().find(|(_, address)| is_at(*address, forward))
}

/// Whether `forward` would go before a listener of the worker at this address.
fn is_at(address: SocketAddr, forward: &PortForward) -> bool {
    let (listened, forwarded) = (address.ip(), forward.address);
    let is_of_ipv4 = listened.is_ipv4() || listened.is_unspecified();
    let share_an_address =
        listened.is_unspecified() || forwarded.is_none_or(|forwarded| IpAddr::V4(forwarded) == listened);
    forward.transport == Transport::Tcp
        && forward.host_port.get() == address.port()
        && is_of_ipv4
        && share_an_address
}

/// The settings with those store roots alone that are on this host.
fn present_roots(manager: &VmManagerConfig) -> VmManagerConfig {
    let roots = manager.store_roots.iter().filter(|root| root.is_dir());
    VmManagerConfig { store_roots: roots.cloned().collect(), ..manager.clone() }
}

/// Why `path` is no store path that can be used here.
fn wrong_path(path: &Path, manager: &VmManagerConfig) -> Option<String> {
    let store_roots = &manager.store_roots;
    let listed = || store_roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(", ");
    let Some(root) = store_roots.iter().find(|root| path.parent() == Some(root)) else {
        return Some(format!(
            "its store path {} is no entry of a store root of this worker ({})",
            path.display(),
            listed()
        ));
    };
    // Where there is no store at all, the file is checked for another host.
    let is_missing = root.is_dir() && !path.exists();
    let is_fetched = manager.fetch.is_some() && is_store_path(path);
    (is_missing && !is_fetched).then(|| format!("its store path {} is not there", path.display()))
}

/// Whether a binary cache may have `path`, by its name.
fn is_store_path(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.parse::<StoreName>().is_ok())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

    use host_network::GuestAddresses;
    use serde_json::json;
    use vm_model::NetworkName;
    use worker::vms::{NetworkSettings, UplinkSettings};

    use super::*;

    /// A store with one image, whose description says `config`, and the settings of a worker that uses it.
    fn store(config: &serde_json::Value) -> (tempfile::TempDir, VmManagerConfig) {
        let folder = tempfile::tempdir().expect("a directory");
        let (root, credentials) = (folder.path().join("store"), folder.path().join("credentials"));
        let image = root.join("image");
        fs::create_dir_all(&image).and_then(|()| fs::create_dir(&credentials)).expect("created");
        fs::write(image.join("vm-config.json"), config.to_string()).expect("written");
        fs::write(image.join("vmlinux"), "a kernel").expect("written");
        fs::write(image.join("disk.img"), [0; 4096]).expect("written");
        let manager = VmManagerConfig {
            store_roots: vec![root],
            credentials_dir: credentials,
            ..VmManagerConfig::default()
        };
        (folder, manager)
    }

    fn vm(manager: &VmManagerConfig, id: &str, path: &str, procurator: serde_json::Value) -> Assignment {
        let mut vm = Assignment::new(VmId::new(id), "", manager.store_roots[0].join(path));
        vm.procurator = procurator.as_object().expect("an object").clone();
        vm
    }

    /// Where the worker of these tests listens.
    const LISTENING: [(&str, SocketAddr); 2] = [
        ("metrics.listen", SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9090))),
        ("web.listen", SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 7444, 0, 0))),
    ];

    /// Whose entries are refused, and with which words.
    fn assert_refused(vms: &[Assignment], manager: &VmManagerConfig, expected: &[(&str, &str)]) {
        let problems = judge(vms, WorkerFacts { manager, listening: &LISTENING, process: None });
        let said: Vec<(&str, &str)> = problems
            .iter()
            .map(|problem| (problem.vm.as_ref().expect("of a VM").as_str(), problem.problem.as_str()))
            .collect();
        assert_eq!(said.len(), expected.len(), "{said:#?}");
        for ((vm, said), (id, words)) in said.iter().zip(expected) {
            assert_eq!(vm, id);
            assert!(said.contains(words), "{words:?} is not in {said}");
        }
    }

    #[test]
    fn ports_egress_and_store_paths_are_judged_entry_by_entry() {
        let (_folder, manager) = store(&json!({ "net": [{}] }));
        let vm = |id: &str, path: &str, procurator| vm(&manager, id, path, procurator);
        let vms = [
            vm("a", "image", json!({"ports": ["8080:80"], "egress": ["10.0.0.0/8"]})),
            vm("b", "image", json!({"ports": ["127.0.0.1:8080:80"]})),
            vm("c", "image", json!({"ports": ["80"]})),
            vm("d", "image", json!({"egress": ["10.0.0.1/8"]})),
            vm("e", "other", json!({})),
            vm("f", "image/inside", json!({})),
        ];
        assert_refused(
            &vms,
            &manager,
            &[
                ("b", "b: its port 127.0.0.1:8080:80/tcp of the host is a's already (8080:80/tcp)"),
                ("c", "$.procurator.ports[0] is \"80\"; accepted is"),
                ("d", "$.procurator.egress[0] is \"10.0.0.1/8\""),
                ("e", "is not there"),
                ("f", "is no entry of a store root of this worker"),
            ],
        );
    }

    #[test]
    fn ports_of_the_worker_and_of_programs_are_no_vms() {
        let (_folder, manager) = store(&json!({ "net": [{}] }));
        let program = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
        let listened = program.local_addr().expect("an address").port();
        let vm = |id: &str, port: &str| vm(&manager, id, "image", json!({ "ports": [port] }));
        let mut stopped = vm("f", &format!("{listened}:80"));
        stopped.desired = vm_model::DesiredState::Stopped;
        let vms = [
            vm("a", "127.0.0.2:7444:443"),
            vm("b", "127.0.0.1:9090:80"),
            vm("c", "127.0.0.2:9090:80"),
            vm("d", "7444:80/udp"),
            vm("e", &format!("{listened}:80")),
            stopped,
        ];
        let taken = format!("listens on 127.0.0.1:{listened}/tcp of this host");
        assert_refused(
            &vms,
            &manager,
            &[
                ("a", "is the worker's own (web.listen = [::]:7444)"),
                ("b", "is the worker's own (metrics.listen = 127.0.0.1:9090)"),
                ("e", &taken),
                ("f", "is e's already"),
            ],
        );
    }

    #[test]
    fn every_port_that_is_taken_is_told_and_the_running_worker_is_no_foreign_program() {
        let (_folder, manager) = store(&json!({ "net": [{}] }));
        let listeners =
            ["127.0.0.1:0", "127.0.0.1:0"].map(|at| std::net::TcpListener::bind(at).expect("listens"));
        let ports = listeners.each_ref().map(|at| at.local_addr().expect("an address").port());
        let both = ports.map(|port| format!("{port}:80"));
        let vms = [vm(&manager, "a", "image", json!({ "ports": both }))];
        let told = ports.map(|port| format!("listens on 127.0.0.1:{port}/tcp of this host"));
        assert_refused(&vms, &manager, &[("a", &told[0]), ("a", &told[1])]);

        let settings = [("metrics.listen", listeners[0].local_addr().expect("an address"))];
        let worker = WorkerFacts { manager: &manager, listening: &settings, process: Some(1) };
        let problems = judge(&vms, worker);
        let said: Vec<&str> = problems.iter().map(|problem| problem.problem.as_str()).collect();
        assert_eq!(said.len(), 2, "{said:#?}");
        assert!(
            said[0].contains(&told[1]) && said[1].contains("the worker's own (metrics.listen"),
            "{said:#?}"
        );
        let forward = "8080:80".parse().expect("a port");
        let holder = Holder::Program { name: "procurator-work".to_owned(), process: 1 };
        let taken = PortTaken { forward, holder, listener: "0.0.0.0:8080/tcp".to_owned() };
        let told = told_of(&taken, worker).expect("told");
        assert!(told.contains("the worker that runs listens (0.0.0.0:8080/tcp)"), "{told}");
    }

    #[test]
    fn addresses_that_several_vms_wish_for_are_refused() {
        let (_folder, manager) = store(&json!({ "net": [{ "mac": "52:54:00:00:00:01" }] }));
        let vms = ["a", "b", "c"].map(|id| vm(&manager, id, "image", json!({})));
        let twice = "a/net0 of the network";
        assert_refused(&vms, &manager, &[("b", twice), ("c", twice)]);
    }

    #[test]
    fn what_a_binary_cache_may_have_is_not_missing() {
        let (_folder, mut manager) = store(&json!({}));
        let name = "3n58xw4373jp0ljirf06d8077j15pc4j-vm-image";
        let vms = [vm(&manager, "a", name, json!({})), vm(&manager, "b", "image-2", json!({}))];
        assert_refused(&vms, &manager, &[("a", "is not there"), ("b", "is not there")]);
        let fetching =
            format!("[fetch]\ncaches = ['http://127.0.0.1/']\ntrusted_keys = ['k:{}']", "A".repeat(43) + "=");
        manager.fetch = crate::settings::testing::settings(&fetching).manager.fetch;
        assert!(manager.fetch.is_some());
        assert_refused(&vms, &manager, &[("b", "is not there")]);
    }

    #[test]
    fn addresses_that_no_vm_can_have_are_refused() {
        let (_folder, small) = store(&json!({ "net": [{}] }));
        let small = VmManagerConfig { vm_subnet_base: "10.100.0.0/29".to_owned(), ..small };
        let vms = ["a", "b", "c", "d", "e", "f", "g"].map(|id| vm(&small, id, "image", json!({})));
        let none_left = "no address is left for";
        assert_refused(&vms, &small, &[("f", none_left), ("g", none_left)]);
        for (address, problem) in [
            ("10.100.0.1", "it is the gateway address"),
            ("10.100.255.255", "it is the broadcast address"),
            ("192.0.2.1", "it is outside the network"),
        ] {
            let (_folder, manager) = store(&json!({ "net": [{ "ip": address }] }));
            assert_refused(&[vm(&manager, "a", "image", json!({}))], &manager, &[("a", problem)]);
        }
    }

    #[test]
    fn of_a_host_without_that_store_only_the_entry_is_judged() {
        let manager =
            VmManagerConfig { store_roots: vec!["/nonexistent/store".into()], ..VmManagerConfig::default() };
        let vms = [vm(&manager, "a", "x", json!({})), vm(&manager, "b", "x", json!({"ports": ["80"]}))];
        assert_refused(&vms, &manager, &[("b", "$.procurator.ports[0]")]);
    }

    #[test]
    fn what_a_start_would_refuse_is_refused() {
        let config = json!({ "net": [{ "id": "lan" }], "disks": [{ "id": "root", "path": "disk.img" }] });
        let (folder, manager) = store(&config);
        let outside = folder.path().join("outside");
        let large = manager.credentials_dir.join("large");
        fs::write(&outside, "text").expect("written");
        fs::write(&large, vec![b'x'; vm_model::CLOUD_INIT_BYTES_MAX + 1]).expect("written");
        let told = |file: &Path| json!({ "cloud_init": { "user_data": { "file": file } } });
        let disk = |settings: serde_json::Value| json!({ "disks": [settings] });
        let vm = |id: &str, procurator| vm(&manager, id, "image", procurator);
        let mut huge = vm("i", json!({}));
        huge.overrides.memory_bytes = Some(vm_model::Bytes::from_mib(1 << 30));
        let vms = [
            vm("a", told(&outside)),
            vm("b", told(&manager.credentials_dir.join("none"))),
            vm("c", told(&large)),
            vm("d", json!({ "net": [{ "id": "lan", "network": "storage" }] })),
            vm("e", disk(json!({ "id": "root", "persistence": "for ever" }))),
            vm("f", disk(json!({ "id": "data", "persistence": "persistent" }))),
            vm("g", disk(json!({ "id": "root", "size": 4097 }))),
            vm("h", disk(json!({ "id": "root", "persistence": "persistent", "size": 1 << 20 }))),
            huge,
        ];
        assert_refused(
            &vms,
            &manager,
            &[
                ("a", "cloud_init.user_data: "),
                ("b", "cannot open"),
                ("c", "has more than the"),
                ("d", "storage"),
                ("e", "$.procurator.disks[0].persistence"),
                ("f", "data"),
                ("g", "$.procurator.disks[0].size"),
                ("i", "memory"),
            ],
        );
    }

    #[test]
    fn what_no_network_with_an_uplink_can_keep_to_is_refused() {
        let (_folder, manager) = store(&json!({ "net": [{ "id": "net0" }] }));
        let network = |number: u8, addresses| NetworkSettings {
            uplink: Some(UplinkSettings { link: format!("eth{number}"), vlan: None }),
            addresses,
            ..NetworkSettings::new(format!("br-{number}"), format!("10.23{number}.0.0/16"))
        };
        let networks =
            [("lan", network(1, GuestAddresses::Ours)), ("far", network(2, GuestAddresses::External))];
        let networks = networks.map(|(name, network)| (NetworkName::parse(name).expect("a name"), network));
        let manager = VmManagerConfig { networks: networks.into(), ..manager };
        let vm = |id: &str, network: &str, key: &str, list: &[&str]| {
            let interfaces = json!([{ "id": "net0", "network": network }]);
            vm(&manager, id, "image", json!({ "net": interfaces, key: list }))
        };
        let vms = [
            vm("a", "lan", "egress", &["10.0.0.0/8"]),
            vm("b", "far", "ports", &["8080:80"]),
            vm("c", "default", "egress", &["10.0.0.0/8"]),
            vm("d", "lan", "ports", &["8081:80"]),
        ];
        let cannot = "the interface net0 cannot be in the network ";
        let restricted =
            format!("{cannot}\"lan\": it may open connections to the destinations of a list only");
        let unknown = format!("{cannot}\"far\": ports of this host are to lead to it");
        assert_refused(&vms, &manager, &[("a", &restricted), ("b", &unknown)]);
    }
}
