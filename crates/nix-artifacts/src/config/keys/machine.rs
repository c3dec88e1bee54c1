//! Keys about processors, memory, what is booted, the platform, and the worker's own.

use vm_model::{EGRESS_RULES_MAX, HugePageSize, OEM_STRINGS_MAX, PCI_DEVICES_MAX, PORT_FORWARDS_MAX};

use super::{
    KeyRule, Literal, MAX_CMDLINE, MAX_DISK, MAX_HOST_CPU, MAX_VCPUS, MEMORY_SIZE, SECTOR, ValueKind,
};
use Literal::{Empty, False, Integer, Text, True};
use ValueKind::{Boolean, FilePath, List, Section};

const VCPUS: ValueKind = ValueKind::Integer { least: 1, most: MAX_VCPUS };
const CMDLINE: ValueKind = ValueKind::Text { most: MAX_CMDLINE };
const HUGE_PAGES: &[u64] = &[HugePageSize::TwoMib.bytes().get(), HugePageSize::OneGib.bytes().get()];
const CORE_SCHEDULING: &[&str] = &["Vm", "Vcpu", "Off"];
const RESTART: &[&str] = &["always", "on-failure", "never"];

/// The rows.
#[rustfmt::skip]
pub(super) static KEYS: &[KeyRule] = &[
    KeyRule::supported("cpus", Section, "Processors."),
    KeyRule::supported("cpus.boot_vcpus", VCPUS, "vCPUs of the machine. Default: 1."),
    KeyRule::supported("cpus.max_vcpus", VCPUS,
        "At least `boot_vcpus`, which is the default. vCPUs cannot be added later, so more than `boot_vcpus` gives a warning."),
    KeyRule::supported("cpus.max_phys_bits", ValueKind::Integer { least: 36, most: 52 },
        "Guest-physical address bits offered to the guest. Default: the host's."),
    KeyRule::supported("cpus.topology", Section,
        "What the guest is told of who shares what; vCPUs take the places in order, threads first. Must multiply to `max_vcpus`. Default: one package with one thread a core."),
    KeyRule::supported("cpus.topology.threads_per_core", VCPUS, "Default: 1."),
    KeyRule::supported("cpus.topology.cores_per_die", VCPUS, "Default: 1."),
    KeyRule::supported("cpus.topology.dies_per_package", VCPUS, "Default: 1."),
    KeyRule::supported("cpus.topology.packages", VCPUS, "Default: 1."),
    KeyRule::refused("cpus.kvm_hyperv", &[False], "Hyper-V enlightenments are missing"),
    KeyRule::supported("cpus.affinity", List { most: 64 },
        "Where vCPUs may run, each named at most once. Default: where the host's scheduler puts them."),
    KeyRule::supported("cpus.affinity[].vcpu", ValueKind::Integer { least: 0, most: MAX_VCPUS - 1 },
        "The vCPU's number, below `max_vcpus`. Required."),
    KeyRule::supported("cpus.affinity[].host_cpus", ValueKind::Integers { most: MAX_HOST_CPU },
        "Numbers of host CPUs. The machine does not start on a host that lacks one of them, or that keeps one from the worker. Required."),
    KeyRule::supported("cpus.features", Section, "Processor features that have to be asked for."),
    KeyRule::refused("cpus.features.amx", &[False], "AMX is not offered to guests"),
    KeyRule::ignored("cpus.nested", &[False], "virtualization inside the guest is not offered"),
    KeyRule::supported("cpus.core_scheduling", ValueKind::Choice(CORE_SCHEDULING),
        "What may run beside a vCPU on the other threads of its host core: threads of this machine (`Vm`), nothing (`Vcpu`), anything (`Off`). Without effect where cores have one thread or the kernel has no core scheduling. Default: `Vm`."),
    KeyRule::refused("cpus.profile", &[Text("Host"), Text("host")], "the guest gets the host's processor"),

    KeyRule::supported("memory", Section, "Memory."),
    KeyRule::supported("memory.size", MEMORY_SIZE,
        "Bytes. Default: 536870912 (512 MiB)."),
    KeyRule::supported("memory.shared", Boolean,
        "`true` takes one shared memory file, whatever `thp` and `mergeable` say. Default: what has transparent huge pages on the host, a shared memory file if it has, else private memory; a shared memory file if neither has."),
    KeyRule::supported("memory.mergeable", Boolean,
        "`true` takes private memory and offers it to the host's same-page merging. Default: false."),
    KeyRule::supported("memory.thp", Boolean,
        "`true` takes private memory and asks for transparent huge pages; `false` takes a shared memory file, whose huge pages are the host's to decide about. Default: what has them on the host."),
    KeyRule::supported("memory.prefault", Boolean, "`true` makes every page present before the first instruction. Default: false."),
    KeyRule::supported("memory.hugepages", Boolean,
        "`true` takes one shared memory file of huge pages that the host has set aside, reserved when the machine starts; `memory.size` must be a multiple of one. They go before `thp` and `mergeable` and cannot have a balloon. Default: false."),
    KeyRule::supported("memory.hugepage_size", ValueKind::OneOf(HUGE_PAGES),
        "Bytes of a huge page; only with `hugepages`. Default: 2097152."),
    KeyRule::ignored("memory.hotplug_method", &[Text("Acpi")], "memory cannot be added later"),
    KeyRule::refused("memory.hotplug_size", &[Integer(0)], "memory cannot be added later"),
    KeyRule::refused("memory.hotplugged_size", &[Integer(0)], "memory cannot be added later"),
    KeyRule::ignored("memory.reserve", &[False], "the host's over-commit setting decides"),
    KeyRule::refused("memory.file", &[Empty], "memory never lies on a named file"),
    KeyRule::refused_with("memory.zones", &[Empty],
        "memory is one zone",
        &["id", "size", "file", "shared", "mergeable", "hugepages", "hugepage_size", "host_numa_node", "hotplug_size", "hotplugged_size", "prefault", "reserve"]),

    KeyRule::supported("payload", Section, "What is booted."),
    KeyRule::supported("payload.kernel", FilePath, "ELF with a PVH note or entered as Linux in 64 bits, or bzImage. Default: `vmlinux`."),
    KeyRule::supported("payload.initramfs", FilePath, "Default: `initrd` where that file is there, else none."),
    KeyRule::supported("payload.cmdline", CMDLINE, "The kernel's command line. Default: empty."),
    KeyRule::refused("payload.firmware", &[Empty], "kernels are booted directly, without firmware"),
    KeyRule::refused("payload.igvm", &[Empty], "confidential machines are missing"),
    KeyRule::refused("payload.host_data", &[Empty], "confidential machines are missing"),
    KeyRule::refused_with("payload.fw_cfg_config", &[Empty],
        "there is no fw_cfg device",
        &["e820", "kernel", "cmdline", "initramfs", "acpi_tables", "items"]),
    KeyRule::supported("kernel", Section, "The older spelling of `payload.kernel`; one of the two."),
    KeyRule::supported("kernel.path", FilePath, "As `payload.kernel`."),
    KeyRule::supported("initramfs", Section, "The older spelling of `payload.initramfs`; one of the two."),
    KeyRule::supported("initramfs.path", FilePath, "As `payload.initramfs`."),
    KeyRule::supported("cmdline", Section, "The older spelling of `payload.cmdline`; one of the two."),
    KeyRule::supported("cmdline.args", CMDLINE, "As `payload.cmdline`."),

    KeyRule::supported("platform", Section, "Properties of the machine as a whole."),
    KeyRule::refused("platform.num_pci_segments", &[Integer(1)], "there is one PCI segment"),
    KeyRule::refused("platform.iommu_segments", &[Empty], "there is no virtual IOMMU"),
    KeyRule::ignored("platform.iommu_address_width_bits", &[Integer(64)], "there is no virtual IOMMU"),
    KeyRule::refused("platform.system_serial_number", &[Empty], "the worker writes the SMBIOS tables"),
    KeyRule::refused("platform.serial_number", &[Empty], "the worker writes the SMBIOS tables"),
    KeyRule::refused("platform.system_uuid", &[Empty], "the worker gives every VM a UUID of its own"),
    KeyRule::refused("platform.uuid", &[Empty], "the worker gives every VM a UUID of its own"),
    KeyRule::supported("platform.oem_strings", ValueKind::Texts { most: OEM_STRINGS_MAX },
        "Texts for the guest, as SMBIOS structure 11 has them; at most 61440 bytes together, each with a NUL at its end. Default: none."),
    KeyRule::refused("platform.system_manufacturer", &[Empty], "the worker writes the SMBIOS tables"),
    KeyRule::refused("platform.system_product_name", &[Empty], "the worker writes the SMBIOS tables"),
    KeyRule::refused("platform.system_version", &[Empty], "the worker writes the SMBIOS tables"),
    KeyRule::refused("platform.system_family", &[Empty], "the worker writes the SMBIOS tables"),
    KeyRule::refused("platform.system_sku_number", &[Empty], "the worker writes the SMBIOS tables"),
    KeyRule::refused("platform.chassis_asset_tag", &[Empty], "the worker writes the SMBIOS tables"),
    KeyRule::refused("platform.tdx", &[False], "confidential machines are missing"),
    KeyRule::refused("platform.sev_snp", &[False], "confidential machines are missing"),
    KeyRule::refused("platform.iommufd", &[False], "there is no device passthrough"),
    KeyRule::refused("platform.iommufd_fd", &[], "there is no device passthrough"),
    KeyRule::ignored("platform.vfio_p2p_dma", &[True, False], "there is no device passthrough"),
    KeyRule::refused_with("tdx", &[Empty], "confidential machines are missing", &["firmware"]),
    KeyRule::refused_with("sgx_epc", &[Empty], "enclave memory is missing",
        &["id", "size", "prefault"]),
    KeyRule::refused_with("numa", &[Empty],
        "the guest has one NUMA node",
        &["guest_numa_id", "cpus", "distances", "memory_zones", "pci_segments", "device_id", "sgx_epc_sections"]),
    KeyRule::refused("iommu", &[False], "there is no virtual IOMMU"),
    KeyRule::refused_with("pci_segments", &[Empty],
        "there is one PCI segment",
        &["pci_segment", "mmio32_aperture_weight", "mmio64_aperture_weight"]),
    KeyRule::ignored("gdb", &[False], "there is no debugger port"),
    KeyRule::ignored("landlock_enable", &[False], "the worker confines its threads by its own rules"),
    KeyRule::ignored_with("landlock_rules", &[Empty], "the worker confines its threads by its own rules",
        &["path", "access"]),

    KeyRule::supported("procurator", Section, "What the worker itself needs; Cloud Hypervisor does not know it."),
    KeyRule::supported("procurator.restart", ValueKind::Shorthand { choices: RESTART, member: "policy" },
        "When the VM is started again after it ended. Default: the worker's `auto_restart`."),
    KeyRule::supported("procurator.restart.policy", ValueKind::Choice(RESTART),
        "`always`: whenever it ended by itself; `on-failure`: unless the guest powered itself off; `never`: stays as it ended."),
    KeyRule::supported("procurator.disks", List { most: PCI_DEVICES_MAX }, "What becomes of what a guest writes, and disks that are given by their size."),
    KeyRule::supported("procurator.disks[].id", ValueKind::DeviceId, 
        "The `id` of one of `disks`, each at most once; one of its own, with `size`, is a further disk, blank at first. Required."),
    KeyRule::supported("procurator.disks[].persistence", ValueKind::Choice(&["from_image", "persistent", "ephemeral"]),
        "`from_image`: a copy of the image, kept until the image's content changes; `persistent`: a copy of the image, kept \
         whatever becomes of the image; `ephemeral`: made anew at each start, also that after a reset by the guest. Default: \
         from_image for a disk with an image, persistent (or ephemeral) for one given by `size`."),
    KeyRule::supported("procurator.disks[].size", ValueKind::Bytes { least: SECTOR, most: MAX_DISK, multiple_of: SECTOR },
        "Bytes that the VM's copy has at least: a smaller one grows, none shrinks. Not of a `readonly` disk. Where none of \
         `disks` has the `id`: the size of a further disk, a multiple of 4096. Default: the image's size."),
    KeyRule::supported("procurator.disks[].on_io_error", ValueKind::Choice(&["pause", "report"]),
        "When the host cannot carry out a request (no space, a failing device): `pause` holds the VM until it can; `report` \
         tells the guest. Default: pause."),
    KeyRule::supported("procurator.isolation", ValueKind::Choice(&["shared", "strict"]),
        "With whom the VM may share a process. `shared`: with as many VMs as the worker's `vms_per_host_process` says, also \
         with the worker; `strict`: with nobody. Default: shared."),
    KeyRule::supported("procurator.network", Section, "How the guest's network is set up."),
    KeyRule::supported("procurator.network.address", ValueKind::Choice(&["dhcp", "command-line"]),
        "How the guest learns its address. `dhcp`: by asking; `command-line`: also by `ip=` for its first interface, \
         where its kernel has IP autoconfiguration. Default: dhcp."),
    KeyRule::supported("procurator.net", List { most: PCI_DEVICES_MAX }, "Which of the worker's networks interfaces are in."),
    KeyRule::supported("procurator.net[].id", ValueKind::DeviceId, "The `id` of one of `net`, each at most once. Required."),
    KeyRule::supported("procurator.net[].network", ValueKind::NetworkName,
        "The network that the interface is in: `default`, or one of the worker's `networks`. Default: default."),
    KeyRule::supported("procurator.ports", ValueKind::Texts { most: PORT_FORWARDS_MAX },
        "Ports of the host that lead to the VM's first interface, as `8080:80` (the host's port, the guest's), \
         `127.0.0.1:8080:80` (on one address of the host) or `5353:53/udp`. Default: none."),
    KeyRule::supported("procurator.egress", ValueKind::Texts { most: EGRESS_RULES_MAX },
        "What the VM may open connections to beyond its network, as `10.0.0.0/8`, `1.1.1.1:443` (TCP), `10.0.0.0/8:53/udp`, \
         `2001:db8::/32` or `[2001:db8::1]:443`; an empty list is nothing. Default: everything."),
];
