//! What the process may use of the kernel's tables, and who is killed first where memory runs out.

use std::error::Error;
use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::order::JailOrder;

/// How the kernel weighs this process (proc_pid_oom_score_adj(5)).
const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";
/// In thousandths of the host's memory: a guest of any size counts as larger than what serves all of them.
const HANDICAP: i32 = 300;
/// The most that the kernel takes.
const MOST: i32 = 1000;

pub(super) fn be_killed_early() -> Result<(), Box<dyn Error>> {
    let present: i32 = fs::read_to_string(OOM_SCORE_ADJ)?.trim().parse()?;
    Ok(fs::write(OOM_SCORE_ADJ, present.saturating_add(HANDICAP).min(MOST).to_string())?)
}

/// Core files are off: they would hold the guest's memory. The size of files is not bounded, because guest memory is one.
pub(super) fn set(order: &JailOrder) -> Result<(), Box<dyn Error>> {
    lower(Resource::Core, 0)?;
    if let Some(descriptors) = order.descriptors {
        lower(Resource::Nofile, descriptors)?;
    }
    if let Some(threads) = order.threads {
        lower(Resource::Nproc, threads)?;
    }
    if let Some(locked) = order.locked {
        lower(Resource::Memlock, locked)?;
    }
    Ok(())
}

/// Bounds `resource` by `most`, or by what bounds it already where that is less.
fn lower(resource: Resource, most: u64) -> Result<(), Box<dyn Error>> {
    let bound = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
    Ok(setrlimit(resource, Rlimit { current: Some(bound), maximum: Some(bound) })?)
}
