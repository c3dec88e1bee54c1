//! A VM's life, from creation to removal.

use std::fs;

use serde_json::json;
use tiny_guest::TinyGuest;
use vm_model::StopMethod;
use worker::vms::{VmId, VmManager, VmManagerError, VmStatus};

use crate::workbench::{DEADLINE, await_console, await_vm, create, isolated, links, ping, until};

#[test]
fn a_vm_is_created_watched_measured_stopped_started_and_removed() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::power_button());
        let manager = bench.manager();
        let _polling = manager.start_metrics_polling();
        let id = VmId::new("web-1");
        let before = links();

        create(&manager, &id, &artifact).expect("runs");
        assert_eq!(manager.get_vm_status(&id).expect("is there"), VmStatus::Running);
        await_console(&manager, &id, "ready");
        let info = manager.get_vm(&id).expect("is there");
        assert_eq!(info.nics[0].address.to_string(), "10.77.0.2");
        let tap = info.nics[0].tap.clone().expect("attached");
        assert!(links().contains(&tap));
        until("its processor time is seen", || {
            manager
                .get_vm_metrics(&id)
                .is_ok_and(|metrics| metrics.cpu_percent > 0.0 && metrics.memory_size_bytes == 32 << 20)
        });
        assert!(!manager.get_vm_metrics_history(&id).expect("is there").is_empty());

        assert_eq!(manager.stop_vm(&id).expect("stops"), StopMethod::PowerButton);
        assert_eq!(manager.get_vm_status(&id).expect("is there"), VmStatus::Stopped);
        assert_eq!(links(), before, "its interface goes with its machine");
        await_console(&manager, &id, "bye");

        manager.start_vm(&id).expect("runs again");
        assert_eq!(manager.get_vm(&id).expect("is there").nics[0].address.to_string(), "10.77.0.2");
        manager.remove_vm(&id).expect("goes");
        assert!(matches!(manager.get_vm_status(&id), Err(VmManagerError::NoSuchVm { .. })));
        assert_eq!(links(), before);
        assert_eq!(fs::read_dir(&manager.config().vm_artifacts_dir).expect("listed").count(), 0);
        manager.shutdown().expect("ends");
        assert_eq!(links(), ["lo"]);
    });
}

#[test]
fn a_paused_vm_does_nothing_until_it_is_resumed() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::spin());
        let manager = bench.manager();
        let id = VmId::new("spin");
        create(&manager, &id, &artifact).expect("runs");
        await_console(&manager, &id, "ready");
        manager.pause_vm(&id).expect("pauses");
        assert_eq!(manager.get_vm_status(&id).expect("is there"), VmStatus::Paused);
        let (_, first) = exits_and_time(&manager, &id);
        std::thread::sleep(std::time::Duration::from_millis(100));
        let (_, second) = exits_and_time(&manager, &id);
        assert!(second - first < 0.05, "it ran for {}s while paused", second - first);
        manager.resume_vm(&id).expect("resumes");
        until("it runs again", || exits_and_time(&manager, &id).1 > second + 0.05);
        manager.remove_vm(&id).expect("a guest that ignores its power button is killed");
    });
}

/// Exits and processor seconds of the first vCPU, sampled now.
fn exits_and_time(manager: &VmManager, id: &VmId) -> (u64, f64) {
    let polling = manager.start_metrics_polling();
    drop(polling);
    let metrics = manager.get_vm_metrics(id).expect("runs");
    (metrics.vcpus[0].exits, metrics.vcpus[0].seconds)
}

#[test]
fn a_disk_is_the_vms_own_and_keeps_what_the_guest_wrote() {
    isolated(|bench| {
        let artifact =
            bench.artifact("image", &TinyGuest::block(), &json!({ "disks": [{ "path": "disk.img" }] }));
        fs::write(artifact.path.join("disk.img"), [7_u8; 64 << 10]).expect("written");
        let artifact = bench.hashed(artifact.path);
        let manager = bench.manager();
        let id = VmId::new("disk");
        create(&manager, &id, &artifact).expect("runs");
        await_vm(&manager, &id, "off", |info| info.status == VmStatus::Stopped);
        await_console(&manager, &id, "status 0");
        let own = fs::read(bench.path().join("state/volumes/disk/disk0/0.img")).expect("there");
        assert_eq!(own[..512], [7_u8; 512]);
        assert_ne!(own[512..1024], [7_u8; 512], "the guest wrote its second sector");
        assert_eq!(
            fs::read(artifact.path.join("disk.img")).expect("there"),
            [7_u8; 64 << 10],
            "the store is never written"
        );
        let metrics = manager.get_vm_metrics(&id).expect("ran");
        assert!(metrics.disk_read_bytes >= 512 && metrics.disk_write_bytes >= 512, "{metrics:?}");
    });
}

#[test]
fn vms_on_record_come_back_with_their_addresses() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::idle());
        let (a, b) = (VmId::new("a"), VmId::new("b"));
        let manager = bench.manager();
        create(&manager, &a, &artifact).expect("runs");
        create(&manager, &b, &artifact).expect("runs");
        let address = manager.get_vm(&b).expect("there").nics[0].address;
        manager.remove_vm(&a).expect("goes");
        manager.shutdown().expect("ends");
        drop(manager);

        let manager = bench.manager();
        assert_eq!(manager.list_vms().len(), 1);
        await_vm(&manager, &b, "off", |info| info.status == VmStatus::Stopped);
        create(&manager, &b, &artifact).expect("is started again");
        assert_eq!(manager.get_vm(&b).expect("there").nics[0].address, address);
        let other = bench.plain("other", &TinyGuest::idle());
        let error = create(&manager, &b, &other).expect_err("it is something else");
        assert!(error.to_string().contains("remove it before creating it from"), "{error}");
    });
}

#[test]
fn many_vms_at_once_do_not_disturb_each_other() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::idle());
        let manager = bench.manager();
        std::thread::scope(|scope| {
            for number in 0..12 {
                let (manager, artifact) = (&manager, &artifact);
                scope.spawn(move || {
                    create(manager, &VmId::new(&format!("vm-{number}")), artifact).expect("runs")
                });
            }
        });
        let vms = manager.list_vms();
        let idle: Vec<_> =
            vms.iter().filter(|vm| vm.status != VmStatus::Running).map(|vm| (&vm.id, &vm.status)).collect();
        assert!(idle.is_empty(), "{idle:?}");
        let addresses: std::collections::BTreeSet<_> = vms.iter().map(|vm| vm.nics[0].address).collect();
        assert_eq!(addresses.len(), 12);
        manager.remove_vm(&VmId::new("vm-5")).expect("goes");
        assert_eq!(manager.list_vms().len(), 11);
        assert!(manager.list_vms().iter().all(|vm| vm.status == VmStatus::Running));
    });
}

#[test]
fn vms_answer_at_their_addresses_until_they_are_gone() {
    isolated(|bench| {
        let with_address =
            json!({ "net": [{ "ip": "10.77.0.99" }], "payload": { "cmdline": "ip=10.77.0.99" } });
        let named = bench.artifact("named", &TinyGuest::network_host(None), &with_address);
        let manager = bench.manager();
        let id = VmId::new("host");
        create(&manager, &id, &named).expect("runs");
        await_console(&manager, &id, "ready");
        assert!(ping("10.77.0.99"), "it answers over the bridge");
        let metrics = manager.get_vm_metrics(&id).expect("runs");
        assert!(metrics.network_rx_bytes > 0 && metrics.network_tx_bytes > 0, "{metrics:?}");
        manager.remove_vm(&id).expect("goes");
        assert!(!ping("10.77.0.99"));
    });
}

#[test]
fn an_interface_has_no_more_pairs_of_queues_than_vcpus_and_serves_a_guest_that_uses_one() {
    isolated(|bench| {
        let limit = json!({ "ops": { "size": 1000, "refill_time": 100 } });
        let nic = json!({ "ip": "10.77.0.98", "num_queues": 8, "offload_csum": false, "rate_limiter_config": limit });
        let more = json!({
            "cpus": { "boot_vcpus": 2 }, "net": [nic], "payload": { "cmdline": "ip=10.77.0.98" },
        });
        let artifact = bench.artifact("several", &TinyGuest::network_host(None), &more);
        let manager = bench.manager();
        let id = VmId::new("several");
        create(&manager, &id, &artifact).expect("runs");
        await_console(&manager, &id, "ready");
        let tap = manager.get_vm(&id).expect("runs").nics[0].tap.clone().expect("attached");
        let shown = ["-details", "-json", "link", "show", &tap];
        let shown = std::process::Command::new("ip").args(shown).output().expect("the command ip");
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        let queues = &shown[0]["linkinfo"]["info_data"];
        assert_eq!((&queues["numqueues"], &queues["numdisabled"]), (&json!(1), &json!(1)), "{queues}");
        assert!(ping("10.77.0.98"), "all frames come over the pair that its driver knows");
        manager.remove_vm(&id).expect("goes");
    });
}

#[test]
fn blocking_calls_refuse_to_block_a_runtime_and_name_their_twin() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::idle());
        let manager = bench.manager();
        let id = VmId::new("twin");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("built");
        runtime.block_on(async {
            let error = create(&manager, &id, &artifact).expect_err("refused");
            assert!(error.to_string().contains("VmManager::create_vm_async"), "{error}");
            manager.create_vm_async(id.clone(), &artifact.hash, &artifact.path).await.expect("runs");
            let removal = tokio::time::timeout(DEADLINE, manager.remove_vm_async(&id)).await;
            removal.expect("in time").expect("goes");
            let error = VmManager::new(bench.config()).expect_err("refused");
            assert!(error.to_string().contains("VmManager::new_async"), "{error}");
        });
    });
}

#[test]
fn a_guest_that_switched_itself_off_stays_so_across_a_restart_of_the_worker() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::hello("x\n"));
        let id = VmId::new("hello");
        let manager = bench.manager();
        create(&manager, &id, &artifact).expect("ran");
        await_vm(&manager, &id, "off", |info| info.status == VmStatus::Stopped);
        manager.shutdown().expect("ends");
        drop(manager);

        let manager = bench.manager();
        await_vm(&manager, &id, "off", |info| info.status == VmStatus::Stopped);
        assert_eq!(manager.get_vm(&id).expect("there").starts, 1, "only the worker before has started it");
        manager.shutdown().expect("a VM that nobody started keeps nobody from ending");
    });
}

#[test]
fn a_start_that_fails_does_not_cost_a_vm_its_address() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::idle());
        let (first, id) = (VmId::new("first"), VmId::new("second"));
        let manager = bench.manager();
        create(&manager, &first, &artifact).expect("runs");
        create(&manager, &id, &artifact).expect("runs");
        let address = manager.get_vm(&id).expect("there").nics[0].address;
        manager.remove_vm(&first).expect("goes");
        manager.shutdown().expect("ends");
        drop(manager);

        let manager = bench.manager();
        let away = bench.path().join("away");
        fs::rename(&artifact.path, &away).expect("moved");
        manager.start_vm(&id).expect_err("its artifact is gone");
        fs::rename(&away, &artifact.path).expect("moved back");
        manager.start_vm(&id).expect("runs");
        assert_eq!(manager.get_vm(&id).expect("there").nics[0].address, address);
    });
}
