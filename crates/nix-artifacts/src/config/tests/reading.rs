//! What accepted configurations mean.

use std::num::NonZeroU16;

use serde_json::json;
use vm_model::{
    BootSpec, Bytes, CoreScheduling, CpuSpec, CpuTopology, DiskAccess, DiskCaching, DiskErasure, DiskFormat,
    DiskOptions, DiskSpec, HugePageSize, MemoryBacking, MemorySpec, NicOffloads, NicOptions, Offload,
    OnIoError, Overrides, RateLimitSpec, SerialMode, TokenBucketSpec, VcpuAffinity, VolumePolicy,
};

use super::super::extract::ParsedConfig;
use super::super::*;
use super::{parse, parse_with, warnings};

fn accepted(json: &serde_json::Value) -> ParsedConfig {
    parse(&json.to_string()).expect("accepted")
}

fn named(path: &str, json_path: &str) -> WantedFile {
    wanted(path, FileOrigin::Key(json_path.to_owned()))
}

fn default_for(path: &str, json_path: &str) -> WantedFile {
    wanted(path, FileOrigin::Default(json_path.to_owned()))
}

fn wanted(path: &str, origin: FileOrigin) -> WantedFile {
    WantedFile::InStore(FileRequest { path: path.into(), origin, stated: StatedImage::Unstated })
}

#[test]
fn an_empty_object_is_the_default_machine() {
    let everything = Conventional { initrd: true, disk_image: true };
    for json in
        ["{}", r#"{"disks": []}"#, r#"{"payload": null, "disks": null, "cpus": {"boot_vcpus": null}}"#]
    {
        let parsed = parse_with(json, everything).expect("accepted");
        let machine = parsed.machine;
        assert_eq!(machine.cpus, CpuSpec::default());
        let memory =
            MemorySpec { size: Bytes::from_mib(512), backing: MemoryBacking::Automatic, prefault: false };
        assert_eq!(machine.memory, memory);
        let boot = BootSpec {
            kernel: default_for("vmlinux", "$.payload.kernel"),
            initrd: Some(default_for("initrd", "$.payload.initramfs")),
            cmdline: String::new(),
        };
        assert_eq!(machine.boot, boot);
        let disk = DiskSpec {
            direct_file: None,
            id: "disk0".to_owned(),
            file: default_for("disk.img", "$.disks"),
            format: DiskFormat::Raw,
            access: DiskAccess::ReadWrite,
            serial: None,
            queue_size: 128,
            options: DiskOptions::default(),
        };
        assert_eq!(machine.disks, [disk]);
        assert_eq!((machine.serial, machine.rng), (SerialMode::Console, true));
        assert_eq!((parsed.nics, parsed.warnings), (vec![], vec![]));
        assert_eq!(parsed.settings, ProcuratorSettings::default());
    }
}

#[test]
fn both_layouts_say_the_same() {
    let today = accepted(&json!({"payload": {"kernel": "k", "initramfs": "i", "cmdline": "c"}}));
    let older =
        accepted(&json!({"kernel": {"path": "k"}, "initramfs": {"path": "i"}, "cmdline": {"args": "c"}}));
    assert_eq!(today.machine.boot.kernel, named("k", "$.payload.kernel"));
    assert_eq!(today.machine.boot.initrd, Some(named("i", "$.payload.initramfs")));
    assert_eq!(older.machine.boot.kernel, named("k", "$.kernel.path"));
    assert_eq!(older.machine.boot.initrd, Some(named("i", "$.initramfs.path")));
    assert_eq!((today.machine.boot.cmdline, older.machine.boot.cmdline), ("c".into(), "c".into()));
    let mixed = accepted(&json!({"payload": {"kernel": "k"}, "cmdline": {"args": "c"}}));
    assert_eq!(mixed.machine.boot.cmdline, "c");
}

#[test]
fn processors_and_memory_are_read() {
    let parsed = accepted(&json!({
        "cpus": {"boot_vcpus": 4, "max_vcpus": 4, "max_phys_bits": 40,
                 "topology": {"threads_per_core": 1, "cores_per_die": 4, "dies_per_package": 1, "packages": 1}},
        "memory": {"size": 134_217_728, "prefault": true},
    }));
    let topology = CpuTopology { threads_per_core: 1, cores_per_die: 4, dies_per_package: 1, packages: 1 };
    let cpus = CpuSpec { max_phys_bits: Some(40), topology: Some(topology), ..CpuSpec::of(4) };
    assert_eq!(parsed.machine.cpus, cpus);
    assert_eq!(parsed.machine.memory.size, Bytes::from_mib(128));
    assert!(parsed.machine.memory.prefault);
    assert_eq!(parsed.warnings, []);
}

#[test]
fn what_may_share_a_core_with_a_vcpu_is_read() {
    let read = |cpus| accepted(&json!({ "cpus": cpus })).machine.cpus.core_scheduling;
    assert_eq!(read(json!({})), CoreScheduling::Vm);
    assert_eq!(read(json!({"core_scheduling": "Vm"})), CoreScheduling::Vm);
    assert_eq!(read(json!({"core_scheduling": "Vcpu"})), CoreScheduling::Vcpu);
    assert_eq!(read(json!({"core_scheduling": "Off"})), CoreScheduling::Off);
}

#[test]
fn places_of_vcpus_are_read() {
    let parsed = accepted(&json!({"cpus": {
        "boot_vcpus": 2, "max_vcpus": 8,
        "affinity": [{"vcpu": 1, "host_cpus": [3, 1023]}, {"vcpu": 7, "host_cpus": [0]}],
        "topology": {"threads_per_core": 2, "packages": 4},
    }}));
    let topology = CpuTopology { threads_per_core: 2, cores_per_die: 1, dies_per_package: 1, packages: 4 };
    let affinity = vec![
        VcpuAffinity { vcpu: 1, host_cpus: vec![3, 1023] },
        VcpuAffinity { vcpu: 7, host_cpus: vec![0] },
    ];
    assert_eq!(parsed.machine.cpus, CpuSpec { topology: Some(topology), affinity, ..CpuSpec::of(2) });

    let mut machine = parsed.machine;
    let vcpus = |count| Overrides { vcpus: Some(count), ..Overrides::default() };
    apply_overrides(&mut machine, &vcpus(8)).expect("there are eight places");
    let refused = apply_overrides(&mut machine, &vcpus(9)).expect_err("there are no more").to_string();
    insta::assert_snapshot!(refused, @"override vcpus is 9; accepted is at most the 8 that the image's cpus.topology has places for");
}

#[test]
fn memory_is_private_only_when_asked_for() {
    for (shared, mergeable, thp, backing, warned) in [
        (false, false, false, MemoryBacking::SharedMemfd, 0),
        (true, false, true, MemoryBacking::SharedMemfd, 0),
        (true, true, false, MemoryBacking::SharedMemfd, 1),
        (false, true, false, MemoryBacking::AnonymousMergeable, 0),
        (false, true, true, MemoryBacking::AnonymousMergeable, 1),
        (false, false, true, MemoryBacking::AnonymousHuge, 0),
    ] {
        let parsed = accepted(&json!({"memory": {"shared": shared, "mergeable": mergeable, "thp": thp}}));
        assert_eq!(parsed.machine.memory.backing, backing, "{shared} {mergeable} {thp}");
        assert_eq!(parsed.warnings.len(), warned, "{shared} {mergeable} {thp}");
    }
    for unstated in [json!({}), json!({"memory": {}}), json!({"memory": {"thp": null, "shared": false}})] {
        assert_eq!(accepted(&unstated).machine.memory.backing, MemoryBacking::Automatic, "{unstated}");
    }
}

#[test]
fn huge_pages_go_before_other_kinds_of_memory() {
    let parsed = accepted(&json!({"memory": {"hugepages": true, "shared": true, "thp": true}}));
    assert_eq!(parsed.machine.memory.backing, MemoryBacking::HugePages(HugePageSize::TwoMib));
    assert_eq!(parsed.warnings, []);
    let mut parsed = accepted(&json!({"memory": {
        "size": 2_147_483_648_u64, "hugepages": true, "hugepage_size": 1_073_741_824, "mergeable": true,
    }}));
    assert_eq!(parsed.machine.memory.backing, MemoryBacking::HugePages(HugePageSize::OneGib));
    assert_eq!(parsed.warnings.len(), 1);
    let memory = |mib| Overrides { memory_bytes: Some(Bytes::from_mib(mib)), ..Overrides::default() };
    apply_overrides(&mut parsed.machine, &memory(1024)).expect("one page");
    let refused = apply_overrides(&mut parsed.machine, &memory(1025)).expect_err("a part of one").to_string();
    insta::assert_snapshot!(refused, @"override memory_bytes is 1074790400; accepted is a multiple of the image's huge pages of 1073741824 bytes");
}

#[test]
fn disks_are_read_in_order_and_named() {
    let parsed = accepted(&json!({
        "disks": [
            {"path": "root.img"},
            {"path": "/nix/store/x/data", "readonly": true, "id": "disk2", "serial": "s1", "queue_size": 256},
            {"path": "third.img", "image_type": "Raw"},
            {"path": "fourth.img", "image_type": "Qcow2", "readonly": true},
        ],
        "procurator": {"restart": "never", "disks": [{"id": "disk0", "persistence": "ephemeral"}, {"id": "disk2"}]},
    }));
    let disks = &parsed.machine.disks;
    let ids: Vec<&str> = disks.iter().map(|disk| disk.id.as_str()).collect();
    assert_eq!(ids, ["disk0", "disk2", "disk3", "disk4"]);
    assert_eq!(disks[0].access, DiskAccess::ReadWrite);
    let second = DiskSpec {
        direct_file: None,
        id: "disk2".to_owned(),
        file: named("/nix/store/x/data", "$.disks[1].path"),
        format: DiskFormat::Raw,
        access: DiskAccess::ReadOnly,
        serial: Some("s1".to_owned()),
        queue_size: 256,
        options: DiskOptions::default(),
    };
    assert_eq!(disks[1], second);
    let stated = disks.iter().map(|disk| match &disk.file {
        WantedFile::InStore(file) => file.stated,
        WantedFile::Blank => panic!("{} has an image", disk.id),
    });
    let stated = stated.collect::<Vec<_>>();
    assert_eq!(stated, [StatedImage::Unstated, StatedImage::Unstated, StatedImage::Raw, StatedImage::Qcow2]);
    let formats = disks.iter().map(|disk| disk.format).collect::<Vec<_>>();
    assert_eq!(formats, [DiskFormat::Raw, DiskFormat::Raw, DiskFormat::Raw, DiskFormat::Qcow2]);
    assert_eq!(parsed.settings.restart, Some(RestartPolicy::Never));
    assert_eq!(parsed.settings.policy("disk0"), VolumePolicy::Ephemeral);
    assert_eq!(parsed.settings.policy("disk2"), VolumePolicy::FromImage);
    assert_eq!(parsed.settings.policy("disk3"), VolumePolicy::FromImage);
}

#[test]
fn what_becomes_of_disks_is_read() {
    let parsed = accepted(&json!({
        "disks": [{"path": "a", "id": "root"}, {"path": "b", "readonly": true}],
        "procurator": {"disks": [
            {"id": "root", "persistence": "persistent", "size": 1_073_742_336, "on_io_error": "report"},
            {"id": "disk1", "on_io_error": "report"},
            {"id": "data", "size": 4096},
            {"id": "scratch", "size": 70_368_744_177_664_u64, "persistence": "ephemeral", "on_io_error": "report"},
        ]},
    }));
    let disks = &parsed.machine.disks;
    let ids: Vec<&str> = disks.iter().map(|disk| disk.id.as_str()).collect();
    assert_eq!(ids, ["root", "disk1", "data", "scratch"]);
    let blank = DiskSpec {
        direct_file: None,
        id: "data".to_owned(),
        file: WantedFile::Blank,
        format: DiskFormat::Raw,
        access: DiskAccess::ReadWrite,
        serial: None,
        queue_size: 128,
        options: DiskOptions::default(),
    };
    assert_eq!(disks[2], blank);
    let report = [OnIoError::Report, OnIoError::Report, OnIoError::Pause, OnIoError::Report];
    assert_eq!(disks.iter().map(|disk| disk.options.on_io_error).collect::<Vec<_>>(), report);
    let told = |id| (parsed.settings.policy(id), parsed.settings.size(id).map(Bytes::get));
    assert_eq!(told("root"), (VolumePolicy::Persistent, Some(1_073_742_336)));
    assert_eq!(told("disk1"), (VolumePolicy::FromImage, None));
    assert_eq!(told("data"), (VolumePolicy::Persistent, Some(4096)));
    assert_eq!(told("scratch"), (VolumePolicy::Ephemeral, Some(64 << 40)));
}

#[test]
fn interfaces_are_read_in_order_and_named() {
    let parsed = accepted(&json!({"cpus": {"boot_vcpus": 2}, "net": [
        {},
        {"id": "lan", "mac": "52:54:00:12:34:56", "ip": "10.100.0.5", "mask": "255.255.0.0", "tap": "tap-lan",
         "mtu": 1400, "queue_size": 512, "num_queues": 4,
         "rate_limiter_config": {"ops": {"size": 5, "refill_time": 100}}, "offload_tso": false, "offload_ufo": true},
    ]}));
    let plain = NicRequest {
        id: "net0".to_owned(),
        mac: None,
        ip: None,
        mask: None,
        tap: None,
        mtu: None,
        queue_size: 256,
        queue_pairs: NonZeroU16::MIN,
        options: NicOptions::default(),
        access: vm_model::NetworkAccess::default(),
        network: vm_model::NetworkName::default(),
    };
    let full = NicRequest {
        id: "lan".to_owned(),
        mac: "52:54:00:12:34:56".parse().ok(),
        ip: "10.100.0.5".parse().ok(),
        mask: "255.255.0.0".parse().ok(),
        tap: Some("tap-lan".to_owned()),
        mtu: Some(1400),
        queue_size: 512,
        queue_pairs: NonZeroU16::new(2).expect("2 is not 0"),
        options: NicOptions {
            rate_limits: RateLimitSpec {
                bandwidth: None,
                operations: Some(TokenBucketSpec { size: 5, one_time_burst: 0, refill_time_ms: 100 }),
            },
            offloads: NicOffloads { tcp_segmentation: Offload::Withheld, ..NicOffloads::default() },
        },
        access: vm_model::NetworkAccess::default(),
        network: vm_model::NetworkName::default(),
    };
    assert_eq!(parsed.nics, [plain, full]);
}

#[test]
fn the_default_address_of_cloud_hypervisor_is_left_aside() {
    let nic = json!({"ip": "192.168.249.1", "mask": "255.255.255.0", "host_mac": null});
    let parsed = accepted(&json!({"net": [nic, nic, {"ip": "192.168.249.1"}]}));
    assert!(parsed.nics.iter().all(|nic| (nic.ip, nic.mask) == (None, None)), "{:?}", parsed.nics);
    assert_eq!(parsed.warnings.len(), 3);
    insta::assert_snapshot!(parsed.warnings[1], @r#"$.net[1].ip is "192.168.249.1", which is left aside: it is Cloud Hypervisor's own default for the host's side, and the worker assigns an address"#);
    // Somebody meant these.
    for (ip, mask) in [("192.168.249.1", "255.255.0.0"), ("192.168.249.2", "255.255.255.0")] {
        let parsed = accepted(&json!({"net": [{"ip": ip, "mask": mask}]}));
        assert_eq!(parsed.nics[0].ip.map(|ip| ip.to_string()).as_deref(), Some(ip));
        assert_eq!(parsed.warnings, []);
    }
}

#[test]
fn every_serial_mode_has_a_meaning() {
    for (mode, expected) in [
        ("Tty", SerialMode::Console),
        ("Pty", SerialMode::Console),
        ("File", SerialMode::Console),
        ("Socket", SerialMode::Console),
        ("Null", SerialMode::Null),
        ("Off", SerialMode::Null),
    ] {
        assert_eq!(accepted(&json!({"serial": {"mode": mode}})).machine.serial, expected, "{mode}");
    }
}

#[test]
fn every_restart_policy_has_two_spellings() {
    for (text, expected) in [
        ("always", RestartPolicy::Always),
        ("on-failure", RestartPolicy::OnFailure),
        ("never", RestartPolicy::Never),
    ] {
        for restart in [json!(text), json!({"policy": text})] {
            let parsed = accepted(&json!({"procurator": {"restart": restart}}));
            assert_eq!(parsed.settings.restart, Some(expected));
        }
    }
    assert_eq!(accepted(&json!({"procurator": {"restart": {}}})).settings.restart, None);
}

#[test]
fn how_a_disk_is_served_is_read() {
    let parsed = accepted(&json!({
        "disks": [
            {"path": "a", "num_queues": 4, "sparse": false, "direct": true, "rate_limiter_config": {
                "bandwidth": {"size": 1_048_576, "one_time_burst": 4096, "refill_time": 100},
                "ops": {"size": 1000, "refill_time": 1000},
            }},
            {"path": "b", "rate_limiter_config": {"ops": {"size": 0, "refill_time": 10}, "bandwidth": null}},
        ],
    }));
    let options: Vec<_> = parsed.machine.disks.iter().map(|disk| disk.options).collect();
    let limited = DiskOptions {
        queue_count: NonZeroU16::new(4).expect("4 is not 0"),
        caching: DiskCaching::Direct,
        erasure: DiskErasure::Withheld,
        rate_limits: RateLimitSpec {
            bandwidth: Some(TokenBucketSpec { size: 1_048_576, one_time_burst: 4096, refill_time_ms: 100 }),
            operations: Some(TokenBucketSpec { size: 1000, one_time_burst: 0, refill_time_ms: 1000 }),
        },
        on_io_error: OnIoError::Pause,
    };
    assert_eq!(options, [limited, DiskOptions::default()]);
}

#[test]
fn what_does_not_change_the_machine_is_left_aside_with_a_word() {
    let json = json!({
        "cpus": {"boot_vcpus": 2, "max_vcpus": 8, "nested": true,
                 "topology": {"threads_per_core": 2, "cores_per_die": 4}},
        "disks": [{"path": "a", "disable_aio": 1, "serial": "123456789012345678901"}],
        "net": [{"host_mac": "52:54:00:12:34:56", "num_queues": 6}, {"num_queues": 4}],
        "serial": {"mode": "File", "file": "/tmp/log"},
        "landlock_enable": true,
    });
    insta::assert_snapshot!(warnings(&json.to_string()).join("\n"), @r#"
$.cpus.nested is true, which is left aside: virtualization inside the guest is not offered
$.disks[0].disable_aio is 1, which is left aside: the worker chooses how to read and write
$.landlock_enable is true, which is left aside: the worker confines its threads by its own rules
$.net[0].host_mac is "52:54:00:12:34:56", which is left aside: the host's side of the TAP keeps the address it gets
$.serial.file is "/tmp/log", which is left aside: the worker records the console itself
$.cpus.max_vcpus is 8, which is left aside: vCPUs cannot be added to a running machine
$.disks[0].serial is "123456789012345678901", which is left aside: the guest reads its first 20 bytes
$.net[0].num_queues is 6, which is left aside: the interface has no more than one pair of queues a vCPU
"#);
}

#[test]
fn a_whole_description_with_every_default_spelled_out_is_quiet() {
    // What Cloud Hypervisor prints for a machine with one disk and one interface, where nothing but these was set.
    let json = json!({
        "cpus": {"boot_vcpus": 1, "max_vcpus": 1, "topology": null, "kvm_hyperv": false, "max_phys_bits": 46,
                 "affinity": null, "features": {"amx": false}, "nested": false, "core_scheduling": "Vm",
                 "profile": "Host"},
        "memory": {"size": 536_870_912, "mergeable": false, "hotplug_method": "Acpi", "hotplug_size": null,
                   "hotplugged_size": null, "shared": false, "hugepages": false, "hugepage_size": null,
                   "prefault": false, "reserve": false, "zones": null, "thp": true},
        "payload": {"firmware": null, "kernel": "vmlinux", "cmdline": "console=ttyS0", "initramfs": null},
        "rate_limit_groups": null,
        "disks": [{"path": "disk.img", "readonly": false, "direct": false, "iommu": false, "num_queues": 1,
                   "queue_size": 128, "vhost_user": false, "vhost_socket": null, "rate_limit_group": null,
                   "rate_limiter_config": null, "id": "_disk0", "disable_io_uring": false, "disable_aio": false,
                   "pci_segment": 0, "pci_device_id": null, "serial": null, "queue_affinity": null,
                   "backing_files": false, "sparse": true, "image_type": "Unknown", "lock_granularity": "ByteRange"}],
        "net": [{"tap": null, "ip": null, "mask": null, "mac": "2e:89:a8:e4:bf:49", "host_mac": null, "mtu": null,
                 "iommu": false, "num_queues": 2, "queue_size": 256, "vhost_user": false, "vhost_socket": null,
                 "vhost_mode": "Client", "id": "_net1", "fds": null, "rate_limiter_config": null, "pci_segment": 0,
                 "pci_device_id": null, "offload_tso": true, "offload_ufo": true, "offload_csum": true}],
        "rng": {"src": "/dev/urandom", "iommu": false, "id": null, "pci_segment": 0, "pci_device_id": null},
        "balloon": null, "generic_vhost_user": null, "fs": null, "pmem": null,
        "serial": {"file": null, "mode": "Null", "socket": null},
        "console": {"file": null, "mode": "Off", "iommu": false, "socket": null, "id": null, "pci_segment": 0},
        "debug_console": {"file": null, "mode": "Off", "iobase": 233},
        "devices": null, "user_devices": null, "vdpa": null, "vsock": null, "pvmemcontrol": null, "pvpanic": false,
        "iommu": false, "numa": null, "watchdog": false, "rtc": null, "gdb": false, "pci_segments": null,
        "platform": {"num_pci_segments": 1, "iommu_segments": null, "iommu_address_width_bits": 64,
                     "serial_number": null, "uuid": null, "oem_strings": null, "tdx": false, "sev_snp": false,
                     "iommufd": false, "iommufd_fd": null, "vfio_p2p_dma": true},
        "tpm": null, "landlock_enable": false, "landlock_rules": null, "ivshmem": null,
    });
    assert_eq!(warnings(&json.to_string()), Vec::<String>::new());
}

#[test]
fn overrides_replace_and_append() {
    let mut machine = accepted(&json!({"payload": {"cmdline": "console=ttyS0"}})).machine;
    let overrides = Overrides {
        vcpus: Some(3),
        memory_bytes: Some(Bytes::from_mib(64)),
        cmdline_append: Some("quiet".to_owned()),
    };
    apply_overrides(&mut machine, &overrides).expect("in range");
    assert_eq!((machine.cpus.boot_vcpus, machine.memory.size), (3, Bytes::from_mib(64)));
    assert_eq!(machine.boot.cmdline, "console=ttyS0 quiet");
    machine.boot.cmdline.clear();
    apply_overrides(&mut machine, &overrides).expect("in range");
    assert_eq!(machine.boot.cmdline, "quiet");
}

#[test]
fn overrides_obey_the_bounds_of_the_keys() {
    let refused = |overrides: Overrides| {
        let mut machine = accepted(&json!({"payload": {"cmdline": "x".repeat(2000)}})).machine;
        apply_overrides(&mut machine, &overrides).expect_err("out of range").to_string()
    };
    let vcpus = |count| Overrides { vcpus: Some(count), ..Overrides::default() };
    let memory = |size| Overrides { memory_bytes: Some(Bytes::new(size)), ..Overrides::default() };
    let appended = |text: String| Overrides { cmdline_append: Some(text), ..Overrides::default() };
    insta::assert_snapshot!(refused(vcpus(0)), @"override vcpus is 0; accepted is an integer from 1 to 64");
    insta::assert_snapshot!(refused(vcpus(65)), @"override vcpus is 65; accepted is an integer from 1 to 64");
    insta::assert_snapshot!(refused(memory(134_217_729)), @"override memory_bytes is 134217729; accepted is a number of bytes from 16777216 to 17592186044416, a multiple of 4096");
    insta::assert_snapshot!(refused(appended("y".repeat(47))), @"override cmdline_append is a text of 47 bytes; accepted is text without NUL that makes a command line of at most 2047 bytes");
    insta::assert_snapshot!(refused(appended("a\0b".to_owned())), @"override cmdline_append is a text of 3 bytes; accepted is text without NUL that makes a command line of at most 2047 bytes");
}
