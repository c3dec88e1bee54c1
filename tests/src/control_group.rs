//! Control groups of VMs (cgroup v2), as the kernel shows them: what a group's files say, and which groups there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{BOOT_DEADLINE, SHORT_DEADLINE, host_process_of, until};

/// Where the hierarchy is mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// What all groups are in where nobody manages services.
const BASE: &str = "/sys/fs/cgroup/procurator";
/// Each period of the kernel's limit of processor time.
const PERIOD_MICROSECONDS: u64 = 100_000;
/// Over so many periods it is looked at what a group takes.
const PERIODS: u64 = 50;

/// One group by its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlGroup(PathBuf);

impl ControlGroup {
    /// The group of the process that runs a VM.
    ///
    /// # Errors
    /// No process runs it.
    pub fn of(vm: &str) -> Result<Self> {
        let process = host_process_of(vm)?.with_context(|| format!("{vm} has no host process"))?;
        Self::of_process(process)
    }

    /// The group that process `pid` is in.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of_process(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/cgroup");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let group = text.lines().find_map(|line| line.strip_prefix("0::/"));
        Ok(Self(Path::new(MOUNT).join(group.with_context(|| format!("{path} has no cgroup v2: {text}"))?)))
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What one of its files says, without the end of the last line.
    ///
    /// # Errors
    /// There is no such file.
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.0.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.trim_end().to_owned())
    }

    /// The number behind `name` in a file of lines `name number`, or of lines `… name=number …`, one a device: their sum.
    ///
    /// # Errors
    /// There is no such file, or no such number in it.
    pub fn figure(&self, file: &str, name: &str) -> Result<u64> {
        let text = self.read(file)?;
        let words = text.split([' ', '\n', '=']);
        let values: Vec<_> = words
            .clone()
            .zip(words.skip(1))
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value)
            .collect();
        ensure!(!values.is_empty(), "{file} has no {name}: {text}");
        let sum = values.iter().map(|value| value.parse::<u64>()).sum::<Result<u64, _>>();
        sum.with_context(|| format!("{file} has no number {name}: {text}"))
    }

    /// Fails unless each of `files` says what it is to.
    ///
    /// # Errors
    /// Tells the first that does not.
    pub fn says(&self, files: &[(&str, &str)]) -> Result<()> {
        for (file, expected) in files {
            let found = self.read(file)?;
            ensure!(found == *expected, "{file} says {found:?}, not {expected:?}");
        }
        Ok(())
    }

    /// Fails unless the group, whose guest burns, takes `thousandths` of a processor, give or take a tenth. The kernel counts
    /// the time that was taken, and the periods in which it was limited.
    ///
    /// # Errors
    /// Tells both.
    pub fn takes_its_quota(&self, thousandths: u64) -> Result<()> {
        let periods = || self.figure("cpu.stat", "nr_periods");
        let passed = |period: u64| {
            let now = periods()?;
            ensure!(now >= period, "period {now} of {period}");
            Ok(())
        };
        // What was left over from before the limit is used up.
        let settled = periods()? + 2;
        until("a limited period passes", SHORT_DEADLINE, || passed(settled))?;
        let (used, begun) = (self.figure("cpu.stat", "usage_usec")?, periods()?);
        until("limited periods pass", BOOT_DEADLINE, || passed(begun + PERIODS))?;
        let (used_then, ended) = (self.figure("cpu.stat", "usage_usec")?, periods()?);
        let (taken, allowed) = (used_then - used, (ended - begun) * PERIOD_MICROSECONDS * thousandths / 1000);
        println!("{taken} µs taken of {allowed} µs in {} periods", ended - begun);
        ensure!(taken * 10 >= allowed * 9 && taken * 10 <= allowed * 11, "{taken} µs taken of {allowed} µs");
        Ok(())
    }

    /// The group of all VMs' where nobody manages services, whether it is there or not.
    pub fn of_vms() -> Self {
        Self(BASE.into())
    }

    /// The groups of VMs where nobody manages services, by name. None where there is no group for them.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn of_all_vms() -> Result<BTreeSet<String>> {
        if !Path::new(BASE).exists() {
            return Ok(BTreeSet::new());
        }
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(BASE).with_context(|| format!("cannot list {BASE}"))? {
            let entry = entry.with_context(|| format!("cannot list {BASE}"))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                names.insert(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_their_names() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("cpu.stat"), "usage_usec 12\nnr_periods 3\n").expect("written");
        fs::write(folder.path().join("io.stat"), "254:0 rbytes=7 wbytes=9\n254:16 rbytes=1 wbytes=2\n")
            .expect("written");
        let group = ControlGroup(folder.path().to_owned());
        assert_eq!(group.figure("cpu.stat", "nr_periods").expect("a figure"), 3);
        assert_eq!(group.figure("io.stat", "wbytes").expect("a figure"), 11);
        assert!(group.figure("io.stat", "rios").is_err());
    }
}
