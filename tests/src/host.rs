//! What the worker must give back: what of a host and of a process can leak, as values to compare.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// What of a host the worker changes while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostState {
    /// Network interfaces by name.
    pub interfaces: BTreeSet<String>,
    /// The packet filter's tables.
    pub tables: String,
}

impl HostState {
    /// How it is now.
    ///
    /// # Errors
    /// The host does not say.
    pub fn observe() -> Result<Self> {
        let output = Command::new("nft").args(["list", "tables"]).output().context("cannot start nft")?;
        Ok(Self {
            interfaces: names_in(Path::new("/sys/class/net"))?,
            tables: String::from_utf8_lossy(&output.stdout).into_owned(),
        })
    }

    /// The TAP interfaces among the interfaces.
    ///
    /// # Errors
    /// The host does not say.
    pub fn taps() -> Result<BTreeSet<String>> {
        let mut names = names_in(Path::new("/sys/class/net"))?;
        names.retain(|name| Path::new("/sys/class/net").join(name).join("tun_flags").exists());
        Ok(names)
    }
}

/// What of a process grows with what it forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessState {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
}

impl ProcessState {
    /// How process `pid` is now.
    ///
    /// # Errors
    /// There is no such process.
    pub fn observe(pid: u32) -> Result<Self> {
        let process = Path::new("/proc").join(pid.to_string());
        Ok(Self {
            descriptors: names_in(&process.join("fd"))?.len(),
            threads: names_in(&process.join("task"))?.len(),
        })
    }
}

/// A figure of a file that has one a line, with its name before it: `/proc/meminfo`, `/proc/<pid>/smaps_rollup`.
///
/// # Errors
/// The file has no such figure.
pub fn figure(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    figure_in(&text, name).with_context(|| format!("{path} has no figure {name}"))
}

fn figure_in(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

fn names_in(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect::<std::io::Result<_>>().with_context(|| format!("cannot list {}", folder.display()))
}

/// The process that holds the machine of a VM: one has a thread of its name. Only names of up to 12 bytes are told apart.
///
/// # Errors
/// The host's processes cannot be listed.
pub fn host_process_of(vm: &str) -> Result<Option<i32>> {
    let thread = format!("vm:{vm}");
    for process in fs::read_dir("/proc").context("cannot list processes")? {
        let path = process?.path();
        let id = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        // Processes end while they are looked at.
        let (Some(id), Ok(threads)) = (id, fs::read_dir(path.join("task"))) else { continue };
        let names =
            threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
        if names.into_iter().any(|name| name.trim_end() == thread) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_shows() {
        let pid = std::process::id();
        let before = ProcessState::observe(pid).expect("this process exists");
        let file = fs::File::open("/proc/self/status").expect("it is there");
        let meanwhile = ProcessState::observe(pid).expect("this process exists");
        drop(file);
        assert!(meanwhile.descriptors > before.descriptors);
    }

    #[test]
    fn figures_have_names() {
        let text = "HugePages_Total:      66\nHugePages_Free:       64\nShmemPmdMapped:     2048 kB\n";
        assert_eq!(figure_in(text, "HugePages_Free"), Some(64));
        assert_eq!(figure_in(text, "ShmemPmdMapped"), Some(2048));
        assert_eq!(figure_in(text, "HugePages"), None);
    }

    #[test]
    fn the_loopback_interface_is_no_tap() {
        assert!(names_in(Path::new("/sys/class/net")).expect("listed").contains("lo"));
        assert!(!HostState::taps().expect("listed").contains("lo"));
    }
}
