//! The processes that this program started, as `/proc` tells of them.

use std::fs;

use anyhow::{Context, Result};

/// All of them that run.
pub(crate) fn all() -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for task in fs::read_dir("/proc/self/task").context("cannot list this program's threads")? {
        // A thread may end meanwhile.
        let text = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        children.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    // Those that have ended and were not collected have no memory.
    children.retain(|pid| memory(*pid).is_ok());
    Ok(children)
}

/// The proportional set size of `process`, in bytes.
pub(crate) fn memory(process: u32) -> Result<u64> {
    Ok(figure(process, "smaps_rollup", "Pss:")? << 10)
}

/// How many threads `process` has.
pub(crate) fn threads(process: u32) -> Result<u64> {
    figure(process, "status", "Threads:")
}

/// How long all threads of `process` have run on a processor, in nanoseconds.
pub(crate) fn processor_time(process: u32) -> Result<u64> {
    let mut total: u64 = 0;
    for task in fs::read_dir(format!("/proc/{process}/task")).context("a process is gone")? {
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let ran = text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        total = total.saturating_add(ran.unwrap_or(0));
    }
    Ok(total)
}

fn figure(process: u32, file: &str, name: &str) -> Result<u64> {
    let path = format!("/proc/{process}/{file}");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let value = value.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    value.with_context(|| format!("{path} tells no {name}"))
}
