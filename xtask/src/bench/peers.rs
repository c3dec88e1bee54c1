//! Other virtual machine monitors doing the same work: a process each, from its start to the guest's first byte.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::packages;

/// What the guest says; none of the programs prints such a byte of itself.
const FIRST_BYTE: u8 = 0x06;

/// A virtual machine monitor on `PATH`.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    path: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    CloudHypervisor,
    Firecracker,
}

/// What a process takes of the host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Footprint {
    /// Proportional set size in bytes.
    pub(super) memory: u64,
    pub(super) threads: u64,
}

/// One run of a peer.
pub(super) struct Run {
    pub(super) first_byte: Duration,
    /// While the guest halts.
    pub(super) footprint: Footprint,
}

/// The monitors that are on `PATH`.
pub(super) fn find() -> Vec<Peer> {
    [("cloud-hypervisor", Kind::CloudHypervisor), ("firecracker", Kind::Firecracker)]
        .into_iter()
        .filter_map(|(name, kind)| Some(Peer { name, path: packages::find_program(name)?, kind }))
        .collect()
}

impl Peer {
    /// Starts a machine of 128 MiB with `kernel`, waits for its first byte, and ends it.
    ///
    /// System call filters are off: the measured program has none either.
    pub(super) fn run(&self, kernel: &Path) -> Result<Run> {
        let mut command = Command::new(&self.path);
        match self.kind {
            Kind::CloudHypervisor => command
                .args(["--memory", "size=128M", "--cpus", "boot=1", "--serial", "tty", "--console", "off"])
                .args(["--seccomp", "false", "--kernel"])
                .arg(kernel),
            Kind::Firecracker => command
                .args(["--no-api", "--no-seccomp", "--config-file"])
                .arg(firecracker_configuration(kernel)?),
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let begun = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        let result = wait_for_first_byte(&mut child, begun);
        // Whether it still runs does not matter.
        let _ = child.kill();
        child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        result.with_context(|| format!("{} did not start its guest", self.name))
    }
}

fn wait_for_first_byte(child: &mut Child, begun: Instant) -> Result<Run> {
    let mut output = child.stdout.take().context("it was started with a pipe")?;
    let mut buffer = [0; 4096];
    loop {
        let length = output.read(&mut buffer)?;
        if length == 0 {
            bail!("it ended");
        }
        if buffer[..length].contains(&FIRST_BYTE) {
            let first_byte = begun.elapsed();
            // The guest halts by then.
            std::thread::sleep(Duration::from_millis(20));
            return Ok(Run { first_byte, footprint: footprint(child.id())? });
        }
    }
}

/// Writes the configuration beside the kernel, if it is not there yet.
fn firecracker_configuration(kernel: &Path) -> Result<PathBuf> {
    let path = kernel.with_extension("firecracker.json");
    if !path.exists() {
        let configuration = json!({
            "boot-source": { "kernel_image_path": kernel, "boot_args": "" },
            "machine-config": { "vcpu_count": 1, "mem_size_mib": 128 },
            "drives": [],
        });
        fs::write(&path, configuration.to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(path)
}

/// What the process takes of the host now.
pub(super) fn footprint(process: u32) -> Result<Footprint> {
    let read = |file: &str| {
        let path = format!("/proc/{process}/{file}");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    let kilobytes = figure(&read("smaps_rollup")?, "Pss:").context("the kernel tells no PSS")?;
    let threads = figure(&read("status")?, "Threads:").context("the kernel tells no count of threads")?;
    Ok(Footprint { memory: kilobytes << 10, threads })
}

/// The number after `name` at the start of a line.
fn figure(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_their_whole_name() {
        let rollup = "Rss:    900 kB\nPss:    512 kB\nPss_Dirty:  7 kB\n";
        assert_eq!(figure(rollup, "Pss:"), Some(512));
        assert_eq!(figure(rollup, "Swap:"), None);
    }

    #[test]
    fn this_very_process_has_a_footprint() {
        let own = footprint(std::process::id()).expect("/proc is mounted");
        assert!(own.memory > 0 && own.threads >= 1, "{own:?}");
    }
}
