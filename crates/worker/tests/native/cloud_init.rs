//! The disk that tells a guest's cloud-init who it is, as the machine has it.

use std::fs;

use serde_json::{Value, json};
use tiny_guest::TinyGuest;
use vm_model::DiskAccess;
use worker::vms::{RestartMode, VmId, VmManager, VmManagerConfig, VmStatus};

use crate::workbench::{Artifact, Workbench, await_console, await_vm, console, create, isolated, until};

/// What user data says in these tests. It must not be shown.
const SECRET: &str = "#cloud-config\npassword: hunter2\n";

/// The disk for cloud-init, read through a descriptor of it that this process has open; nothing if it has none.
fn disk() -> Option<Vec<u8>> {
    let descriptors = fs::read_dir("/proc/self/fd").expect("listed");
    let mut paths = descriptors.map(|entry| entry.expect("an entry").path());
    let path = paths.find(|path| {
        fs::read_link(path).is_ok_and(|target| target.starts_with("/memfd:cloud-init (deleted)"))
    });
    path.map(|path| fs::read(path).expect("it is read"))
}

fn text() -> String {
    String::from_utf8_lossy(&disk().expect("there is a disk")).into_owned()
}

/// What stands in `text` as the value of the key "instance-id".
fn instance(text: &str) -> String {
    let (_, rest) = text.split_once("\"instance-id\": \"").expect("it says which instance it is");
    rest.split_once('"').expect("a text").0.to_owned()
}

/// An image with a writable disk that begins with `seed`, for a guest that resets itself twice and then waits.
fn image(bench: &Workbench, name: &str, seed: u8, procurator: &Value) -> Artifact {
    let more = json!({
        "disks": [{ "path": "disk.img", "id": "root" }], "net": [{ "mtu": 1400 }], "procurator": procurator
    });
    let artifact = bench.artifact(name, &TinyGuest::lives_and_idle(2), &more);
    let mut disk = vec![0; 8192];
    disk[4096] = seed;
    fs::write(artifact.path.join("disk.img"), disk).expect("written");
    bench.hashed(artifact.path)
}

#[test]
fn a_guest_keeps_its_instance_until_its_disk_is_made_anew() {
    isolated(|bench| {
        let told = json!({ "cloud_init": { "user_data": SECRET, "meta_data": { "region": "north" } } });
        let manager = VmManager::new(bench.config()).expect("starts");
        let id = VmId::new("web-1");
        create(&manager, &id, &image(&bench, "first", 1, &told)).expect("runs");
        let info = await_vm(&manager, &id, "reset", |info| info.resets == 2);
        let disk = info.machine.as_ref().and_then(|machine| machine.disks.last()).expect("it has disks");
        assert_eq!((disk.id.as_str(), disk.access), ("cloud-init", DiskAccess::ReadOnly));
        assert_eq!(disk.path.as_os_str(), "/memfd:cloud-init");
        assert!(!format!("{info:?}").contains("hunter2"));
        let first = text();
        let address = info.nics[0].address;
        for part in [
            SECRET,
            "\"local-hostname\": \"web-1\"",
            "\"region\": \"north\"",
            &format!("\"macaddress\": \"{}\"", info.nics[0].mac),
            &format!("\"{address}/24\""),
            "\"via\": \"10.77.0.1\"",
            "\"mtu\": 1400",
        ] {
            assert!(first.contains(part), "{part:?} is not in {first}");
        }

        manager.stop_vm(&id).expect("stops");
        await_no_disk();
        manager.start_vm(&id).expect("runs again");
        assert_eq!(instance(&text()), instance(&first), "its disk is the same");

        manager.remove_vm(&id).expect("goes");
        create(&manager, &id, &image(&bench, "second", 2, &told)).expect("another image");
        assert_ne!(instance(&text()), instance(&first), "its disk was made anew");
        manager.shutdown().expect("ends");
        await_no_disk();
    });
}

/// Machines are taken apart beside what goes on; then nothing is left of the disk.
fn await_no_disk() {
    until("the disk is closed", || disk().is_none());
}

#[test]
fn a_guest_without_other_disks_finds_it_and_cannot_write_to_it() {
    isolated(|bench| {
        let told =
            json!({ "net": [{}], "procurator": { "cloud_init": { "user_data": SECRET, "network": false } } });
        let artifact = bench.artifact("image", &TinyGuest::block(), &told);
        let manager =
            VmManager::new(VmManagerConfig { auto_restart: false, ..bench.config() }).expect("starts");
        let id = VmId::new("reader");
        create(&manager, &id, &artifact).expect("runs");
        await_console(&manager, &id, "flush status");
        let console = console(&manager, &id);
        // 25 sectors of the file system's own and one for each of two files, all of 2048 bytes.
        assert!(console.contains("capacity 0000006c"), "{console}");
        assert!(console.contains("read status 00") && console.contains("write status 01"), "{console}");
        assert!(console.contains("identity status 00 cloud-init"), "{console}");
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_restart_looks_for_what_it_needs_before_the_guest_is_stopped() {
    isolated(|bench| {
        let (directory, aside) = (bench.path().join("credentials"), bench.path().join("aside"));
        let user_data = directory.join("user-data");
        fs::create_dir(&directory).and_then(|()| fs::write(&user_data, SECRET)).expect("written");
        let told = json!({ "procurator": { "cloud_init": { "user_data": { "file": user_data } } } });
        let artifact = bench.artifact("image", &TinyGuest::idle(), &told);
        let manager = VmManager::new(VmManagerConfig {
            auto_restart: false,
            credentials_dir: directory,
            ..bench.config()
        })
        .expect("starts");
        let id = VmId::new("a");
        create(&manager, &id, &artifact).expect("runs");
        for (gone, named) in [(&user_data, "cloud_init.user_data"), (&artifact.path, "image")] {
            fs::rename(gone, &aside).expect("moved away");
            for mode in [RestartMode::Graceful, RestartMode::Hard] {
                let refused = vm_model::error_chain(&manager.restart_vm(&id, mode).expect_err("refused"));
                assert!(refused.contains("goes on as it is") && refused.contains(named), "{refused}");
            }
            fs::rename(&aside, gone).expect("moved back");
        }
        let info = manager.get_vm(&id).expect("there");
        assert_eq!((info.status, info.starts), (VmStatus::Running, 1));
        manager.restart_vm(&id, RestartMode::Hard).expect("nothing is missing");
        assert_eq!(manager.get_vm(&id).expect("there").starts, 2);
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_file_that_others_name_is_not_told_to_a_guest() {
    isolated(|bench| {
        let shadow = bench.path().join("shadow");
        fs::write(&shadow, SECRET).expect("written");
        let told = json!({ "procurator": { "cloud_init": { "user_data": { "file": shadow } } } });
        let artifact = bench.artifact("image", &TinyGuest::idle(), &told);
        let manager = bench.manager();
        let error = create(&manager, &VmId::new("a"), &artifact).expect_err("refused");
        let error = vm_model::error_chain(&error);
        assert!(error.contains("cloud_init.user_data") && error.contains("lies below none"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        manager.shutdown().expect("ends");
    });
}
