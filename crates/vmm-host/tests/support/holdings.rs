//! What this process holds, for tests of what is left behind.

use std::collections::BTreeMap;
use std::fs;

/// What a process holds, in numbers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    pub(crate) mappings: usize,
}

pub(crate) fn holdings() -> Holdings {
    let entries = |path: &str| fs::read_dir(path).expect("/proc is mounted").count();
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    Holdings {
        descriptors: entries("/proc/self/fd"),
        threads: entries("/proc/self/task"),
        mappings: maps.lines().count(),
    }
}

/// What is mapped, by name, to say what was left behind.
pub(crate) fn mappings_by_name() -> BTreeMap<String, usize> {
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    let mut names = BTreeMap::new();
    for line in maps.lines() {
        let name = line.split_whitespace().nth(5).unwrap_or("anonymous");
        *names.entry(name.to_owned()).or_default() += 1;
    }
    names
}

/// Resident memory of this process, in KiB.
pub(crate) fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells it");
    line.trim_end_matches("kB").trim().parse().expect("a number of KiB")
}
