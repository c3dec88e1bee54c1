//! Virtual machine monitors as processes that do the same work.

mod cloud_hypervisor;
mod firecracker;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::guest::Guest;
use crate::meter::Started;
use crate::workload::{HOST, Workload};

/// Whether shared memory is made of huge pages (Linux `Documentation/admin-guide/mm/transhuge.rst`).
const SHARED_HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
/// The bridge, the TAP and the guest's card of other monitors; ours makes its own.
const BRIDGE: &str = "bench0";
const TAP: &str = "bench-tap";
const MAC: &str = "02:00:00:00:00:02";

/// Whose machine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Monitor {
    /// This project's, with memory as it is by default: one shared memory file.
    Procurator,
    /// The same on a host whose settings allow huge pages for shared memory, as the operations manual recommends.
    ProcuratorSharedHugePages,
    /// This project's, with private memory and transparent huge pages, as Cloud Hypervisor's is by default.
    ProcuratorHugePages,
    /// Cloud Hypervisor's.
    CloudHypervisor,
    /// Firecracker's.
    Firecracker,
}

/// The monitors that are there.
pub(crate) fn find() -> Vec<Monitor> {
    let mut monitors =
        vec![Monitor::Procurator, Monitor::ProcuratorSharedHugePages, Monitor::ProcuratorHugePages];
    monitors.extend(Path::new(cloud_hypervisor::PROGRAM).exists().then_some(Monitor::CloudHypervisor));
    monitors.extend(Path::new(firecracker::PROGRAM).exists().then_some(Monitor::Firecracker));
    monitors
}

impl Monitor {
    /// For programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Procurator => "procurator",
            Self::ProcuratorSharedHugePages => "procurator-shmem-advise",
            Self::ProcuratorHugePages => "procurator-thp",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Firecracker => "firecracker",
        }
    }

    /// What the host has in [`SHARED_HUGE_PAGES`] while it runs.
    fn host_setting(self) -> &'static str {
        match self {
            // As kernels have it when nobody sets it.
            Self::Procurator | Self::ProcuratorHugePages | Self::CloudHypervisor | Self::Firecracker => {
                "never"
            }
            Self::ProcuratorSharedHugePages => "advise",
        }
    }

    /// Starts a machine of one vCPU and 256 MiB whose console is the process's standard output.
    pub(crate) fn start(self, guest: &Guest, workload: Workload) -> Result<Started> {
        let mut command = match self {
            Self::Procurator | Self::ProcuratorSharedHugePages => procurator(guest, workload, "shared")?,
            Self::ProcuratorHugePages => procurator(guest, workload, "thp")?,
            Self::CloudHypervisor => cloud_hypervisor::command(guest, workload),
            Self::Firecracker => firecracker::command(guest, workload)?,
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        fs::write(SHARED_HUGE_PAGES, self.host_setting())
            .with_context(|| format!("cannot set {SHARED_HUGE_PAGES}"))?;
        let at = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {}", self.name()))?;
        if matches!(self, Self::CloudHypervisor | Self::Firecracker) && workload.has_network() {
            join_bridge()?;
        }
        Ok(Started { child, at })
    }
}

fn procurator(guest: &Guest, workload: Workload, memory: &str) -> Result<Command> {
    let this = std::env::current_exe().context("a running program has a path")?;
    let mut command = Command::new(this);
    command.arg("machine").arg(&guest.kernel).arg(&guest.initrd).arg(&guest.disk);
    command.arg(memory).arg(Guest::cmdline(workload));
    Ok(command)
}

/// Gives the TAP the surroundings that ours has: a bridge with the host's address.
fn join_bridge() -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(20);
    let end = Instant::now() + PATIENCE;
    while !Path::new("/sys/class/net").join(TAP).exists() {
        ensure!(Instant::now() < end, "{TAP} did not appear");
        thread::sleep(Duration::from_millis(5));
    }
    if !Path::new("/sys/class/net").join(BRIDGE).exists() {
        busybox(&["brctl", "addbr", BRIDGE])?;
    }
    // Ours takes the address along when it goes.
    busybox(&["ip", "addr", "replace", &format!("{HOST}/24"), "dev", BRIDGE])?;
    busybox(&["ip", "link", "set", BRIDGE, "up"])?;
    busybox(&["brctl", "addif", BRIDGE, TAP])?;
    busybox(&["ip", "link", "set", TAP, "up"])
}

/// Removes what [`join_bridge`] made.
pub(crate) fn leave_bridge() -> Result<()> {
    if Path::new("/sys/class/net").join(BRIDGE).exists() {
        busybox(&["ip", "link", "set", BRIDGE, "down"])?;
        busybox(&["brctl", "delbr", BRIDGE])?;
    }
    Ok(())
}

fn busybox(words: &[&str]) -> Result<()> {
    let status = Command::new("busybox").args(words).status().context("cannot start busybox")?;
    ensure!(status.success(), "busybox {} ended with {status}", words.join(" "));
    Ok(())
}
