//! Firecracker with virtio over PCI, as the others have it, and with the same devices.
//!
//! Its memory is private. It asks for no huge pages of itself, and gets them where the host gives them to everybody, as
//! Debian's kernel does.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::{MAC, TAP};
use crate::guest::Guest;
use crate::workload::Workload;

/// Where the lab puts it, if the machine that started the lab has one.
pub(super) const PROGRAM: &str = "/lab/bin/firecracker";

/// It has no power button and no way to switch off: the guest ends it by a reset through the keyboard controller. The
/// other words keep the guest from looking for a keyboard and a mouse there; they are of its own default command line.
const CMDLINE: &str = "reboot=k i8042.noaux i8042.nomux i8042.dumbkbd";

/// System call filters off: ours has none yet.
pub(super) fn command(guest: &Guest, workload: Workload) -> Result<Command> {
    let network = json!({ "iface_id": "net0", "host_dev_name": TAP, "guest_mac": MAC });
    let configuration = json!({
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 256 },
        "boot-source": {
            "kernel_image_path": guest.kernel,
            "initrd_path": guest.initrd,
            "boot_args": format!("{} {CMDLINE}", Guest::cmdline(workload)),
        },
        // By default it would not offer the guest to flush, which the others do.
        "drives": [{
            "drive_id": "disk0",
            "path_on_host": guest.disk,
            "is_root_device": false,
            "cache_type": "Writeback",
        }],
        "network-interfaces": if workload.has_network() { vec![network] } else { Vec::new() },
        "entropy": {},
    });
    let path = guest.disk.with_file_name("firecracker.json");
    fs::write(&path, configuration.to_string())
        .with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = Command::new(PROGRAM);
    command.args(["--no-api", "--no-seccomp", "--enable-pci", "--config-file"]).arg(path);
    Ok(command)
}
