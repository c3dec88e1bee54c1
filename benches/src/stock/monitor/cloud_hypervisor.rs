//! Cloud Hypervisor as it is by default: private memory with transparent huge pages, the disk through the page cache.

use std::process::Command;

use super::{MAC, TAP};
use crate::guest::Guest;
use crate::workload::Workload;

/// Where the lab puts it, if the machine that started the lab has one.
pub(super) const PROGRAM: &str = "/lab/bin/cloud-hypervisor";

/// System call filters off: ours has none yet.
pub(super) fn command(guest: &Guest, workload: Workload) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["--memory", "size=256M", "--cpus", "boot=1", "--serial", "tty", "--console", "off"]);
    command.args(["--seccomp", "false", "--kernel"]).arg(&guest.kernel);
    command.arg("--initramfs").arg(&guest.initrd);
    command.args(["--cmdline", &Guest::cmdline(workload)]);
    command.args(["--disk", &format!("path={},image_type=raw", guest.disk.display())]);
    if workload.has_network() {
        command.args(["--net", &format!("tap={TAP},mac={MAC}")]);
    }
    command
}
