//! VMs with interfaces in several networks of a host: addresses of each, and refusals that name the networks there are.

use serde_json::{Value, json};
use tiny_guest::TinyGuest;
use vm_model::DesiredState;
use worker::vms::{
    NetworkAddressTranslation, NetworkName, NetworkSettings, VmId, VmInfo, VmManager, VmManagerConfig,
};

use crate::told::{Told, assigned};
use crate::workbench::{Workbench, await_console, create, failed_with, isolated, links, ping};

fn name(text: &str) -> NetworkName {
    NetworkName::parse(text).expect("a name")
}

/// The usual settings, and beside the default network one that is cut off.
fn with_storage(bench: &Workbench) -> VmManagerConfig {
    let nat = NetworkAddressTranslation::Off;
    let storage = NetworkSettings { nat, ..NetworkSettings::new("br-storage", "10.76.0.0/24") };
    VmManagerConfig { auto_restart: false, networks: [(name("storage"), storage)].into(), ..bench.config() }
}

fn nics(info: &VmInfo) -> Vec<String> {
    info.nics.iter().map(|nic| format!("{} {} {}", nic.id, nic.network, nic.address)).collect()
}

/// The bridge that the link `name` is a port of.
fn bridge_of(name: &str) -> String {
    let shown = std::process::Command::new("ip").args(["-json", "link", "show", name]).output();
    let shown: Value = serde_json::from_slice(&shown.expect("the command ip").stdout).expect("JSON");
    shown[0]["master"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_vm_has_an_interface_in_each_network_that_its_description_names() {
    isolated(|bench| {
        let manager = VmManager::new(with_storage(&bench)).expect("starts");
        assert_eq!(links().iter().filter(|link| link.starts_with("br-")).count(), 2, "{:?}", links());
        let more = json!({
            "net": [{ "ip": "10.76.0.9" }, {}, { "id": "lan" }],
            "payload": { "cmdline": "ip=10.76.0.9" },
            "procurator": { "net": [{ "id": "net0", "network": "storage" }, { "id": "lan", "network": "default" }] },
        });
        let artifact = bench.artifact("image", &TinyGuest::network_host(None), &more);
        let id = VmId::new("both");
        create(&manager, &id, &artifact).expect("runs");
        await_console(&manager, &id, "ready");
        let info = manager.get_vm(&id).expect("there");
        assert_eq!(
            nics(&info),
            ["net0 storage 10.76.0.9", "net1 default 10.77.0.2", "lan default 10.77.0.3"]
        );
        let bridges: Vec<String> =
            info.nics.iter().filter_map(|nic| nic.tap.as_deref()).map(bridge_of).collect();
        assert_eq!(bridges, ["br-storage", "br-procurator", "br-procurator"]);
        assert!(ping("10.76.0.9"), "it answers over the bridge of its network");

        manager.stop_vm(&id).expect("stops");
        let mut held = nics(&manager.get_vm(&id).expect("there"));
        held.sort();
        assert_eq!(held, ["lan default 10.77.0.3", "net0 storage 10.76.0.9", "net1 default 10.77.0.2"]);
        manager.remove_vm(&id).expect("goes");
        manager.shutdown().expect("ends");
        assert_eq!(links(), ["lo"]);
    });
}

#[test]
fn what_names_an_unknown_network_is_refused_and_planned_with_those_there_are() {
    isolated(|bench| {
        let node = Told::start(VmManager::new(with_storage(&bench)).expect("starts"));
        let image = bench.plain("image", &TinyGuest::idle());
        let mut vm = assigned("a", &image, DesiredState::Running);
        vm.procurator =
            json!({ "net": [{ "id": "net0", "network": "lan" }] }).as_object().expect("one").clone();
        let words = "the interface net0 is to be in the network \"lan\" (procurator.net), which this worker does not have; \
                     it has \"default\" and \"storage\"";
        node.tell(None, vec![vm.clone()]).expect("taken");
        node.await_phase("a", "failed");
        let failed = node.manager.get_vm(&VmId::new("a")).expect("there");
        assert!(failed_with(&failed, words), "{:?}", failed.status);

        vm.procurator =
            json!({ "net": [{ "id": "net0", "network": "storage" }] }).as_object().expect("one").clone();
        node.tell(None, vec![vm.clone()]).expect("taken");
        node.await_phase("a", "running");
        let running = node.manager.get_vm(&VmId::new("a")).expect("there");
        assert_eq!(nics(&running), ["net0 storage 10.76.0.2"]);
        vm.procurator =
            json!({ "net": [{ "id": "net0", "network": "lan" }] }).as_object().expect("one").clone();
        let planned = format!("{:?}", node.preview(vec![vm]));
        assert!(planned.contains("which this worker does not have"), "{planned}");
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_port_of_the_host_leads_to_one_vm_whichever_network_it_is_in() {
    isolated(|bench| {
        let manager = VmManager::new(with_storage(&bench)).expect("starts");
        let with_port = |network: &str| {
            let net = json!([{ "id": "net0", "network": network }]);
            let more = json!({ "procurator": { "ports": ["8080:80"], "net": net } });
            bench.artifact(network, &TinyGuest::idle(), &more)
        };
        create(&manager, &VmId::new("a"), &with_port("storage")).expect("runs");
        let refused =
            create(&manager, &VmId::new("b"), &with_port("default")).expect_err("refused").to_string();
        assert!(
            refused.contains("8080:80/tcp of b cannot be had") && refused.contains("of a has that port"),
            "{refused}"
        );
        manager.remove_vm(&VmId::new("a")).expect("goes");
        manager.start_vm(&VmId::new("b")).expect("runs");
    });
}
