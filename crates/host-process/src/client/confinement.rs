//! The control group of one host process: what it may take, what it takes, and whether it was ended for taking too much.
//!
//! ```text
//!   /sys/fs/cgroup/procurator.slice/procurator-vm-NAME.scope/vm   below a scope that systemd hands over (Delegate=)
//!   /sys/fs/cgroup/procurator/NAME                                where nobody manages services
//! ```
//!
//! systemd writes the files of a scope itself, again whenever it reloads. What lies below a scope that it has handed over it
//! leaves alone; so the process is moved one group down, and limits are written there.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use cgroups::{BlockDevice, Controller, Controllers, Group, GroupError, Hierarchy, needed, plan};
use machine_host::MachineLimits;
use rustix::process::{Pid, Resource, Rlimit, geteuid, getrlimit, prlimit};
use rustix::thread::{CapabilitySet, capabilities};
use vm_model::{Bytes, HostUse, ResourceLimits, error_chain};

use super::placement::Placement;

/// What all groups are in where nobody manages services.
const BASE: &str = "procurator";
/// The group in a scope.
const IN_SCOPE: &str = "vm";

/// Where host processes have their control groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Groups {
    /// Nowhere, and why.
    Unavailable(String),
    /// Each below the scope that systemd made for it.
    InScopes(Hierarchy),
    /// Each in this group.
    Below {
        /// The hierarchy.
        hierarchy: Hierarchy,
        /// The group of all.
        base: Group,
    },
}

impl Groups {
    /// Where processes that are part of `placement` can have groups on this host.
    pub fn observe(placement: &Placement) -> Self {
        let hierarchy = match Hierarchy::observe() {
            Ok(hierarchy) => hierarchy,
            Err(problem) => return Self::Unavailable(error_chain(&problem)),
        };
        match placement {
            Placement::SystemdScope(_) => Self::InScopes(hierarchy),
            Placement::Beside => {
                Self::below(hierarchy).unwrap_or_else(|problem| Self::Unavailable(error_chain(&problem)))
            }
        }
    }

    /// What of `limits` could not be enforced on this host, and why, for processes that are `jailed` or not. Looks only.
    pub fn foresee(limits: &ResourceLimits, jailed: bool) -> Option<String> {
        let of_groups = || {
            let missing = match Hierarchy::observe() {
                Ok(hierarchy) => needed(limits).without(hierarchy.controllers()),
                Err(problem) => return Some(error_chain(&problem)),
            };
            (!missing.is_empty()).then(|| lacks(&missing))
        };
        let grouped = if needed(limits).is_empty() { None } else { of_groups() };
        grouped.or_else(|| unlimited_descriptors(limits, jailed))
    }

    /// Groups in one of our own in `hierarchy`, in which those are removed that processes before left.
    ///
    /// # Errors
    /// Nothing can be made there.
    pub fn below(hierarchy: Hierarchy) -> Result<Self, GroupError> {
        let root = Group::at(hierarchy.mount().to_owned());
        let base = root.child(BASE);
        base.ensure()?;
        for group in [&root, &base] {
            let (_, refused) = group.enable(
                &Controller::ALL.into_iter().filter(|one| hierarchy.controllers().has(*one)).collect(),
            );
            for problem in refused {
                tracing::warn!(error = error_chain(&problem), "not everything can be limited");
            }
        }
        if let Ok(removed @ 1..) = base.sweep() {
            tracing::info!(removed, "control groups of processes that are gone were removed");
        }
        Ok(Self::Below { hierarchy, base })
    }

    /// Removes the group of all, where no process is left in it: whoever comes next makes it again.
    pub(super) fn leave(&self) {
        if let Self::Below { base, .. } = self {
            // Both are refused for processes that go on, which the next worker finds there.
            let _ = base.sweep();
            let _ = base.remove();
        }
    }

    /// What of `limits` cannot be enforced here, and why.
    pub(super) fn cannot_limit(&self, limits: &ResourceLimits) -> Option<String> {
        let controllers = match self {
            Self::Unavailable(problem) => {
                // Descriptors are limited without groups.
                return (!needed(limits).is_empty()).then(|| problem.clone());
            }
            Self::InScopes(hierarchy) => hierarchy.controllers().clone(),
            Self::Below { base, .. } => base.handed_down(),
        };
        let missing = needed(limits).without(&controllers);
        (!missing.is_empty()).then(|| lacks(&missing))
    }

    /// Moves process `pid`, which was started under `name`, to a group of its own, where it can have one.
    pub(super) fn confine(&self, name: &str, pid: u32) -> Confinement {
        let moved = match self {
            Self::Unavailable(_) => None,
            Self::InScopes(hierarchy) => hierarchy.group_of(pid).and_then(|scope| in_scope(&scope, pid)),
            Self::Below { base, .. } => {
                let group = base.child(short(name));
                Some(group.join(pid).map(|()| group))
            }
        };
        let group = moved.transpose().unwrap_or_else(|problem| {
            tracing::warn!(
                pid,
                error = error_chain(&problem),
                "a host process has no control group of its own"
            );
            None
        });
        Confinement::new(group, pid)
    }

    /// Process `pid` in the group that a worker before moved it to, where it has one of its own.
    pub(super) fn find(&self, pid: u32) -> Confinement {
        let path = match self {
            Self::Unavailable(_) => None,
            Self::InScopes(hierarchy) => hierarchy.group_of(pid).filter(|path| path.ends_with(IN_SCOPE)),
            Self::Below { hierarchy, base } => {
                hierarchy.group_of(pid).filter(|path| path.parent() == Some(base.path()))
            }
        };
        Confinement::new(path.map(Group::at), pid)
    }
}

fn lacks(missing: &Controllers) -> String {
    format!("the host's cgroup v2 has no controller {missing}")
}

/// Why descriptors of a process cannot be limited, where that is asked for: a jailed one is another user's.
pub(super) fn unlimited_descriptors(limits: &ResourceLimits, jailed: bool) -> Option<String> {
    limits.descriptors?;
    let may = || {
        let own = capabilities(None).map(|own| own.effective.contains(CapabilitySet::SYS_RESOURCE));
        own.unwrap_or(false)
    };
    let is_refused = jailed && geteuid().is_root() && !may();
    is_refused.then(|| {
        "descriptors of a jailed process are limited by a worker with CAP_SYS_RESOURCE, which this one has not".to_owned()
    })
}

/// The group in the scope at `path`, to which its process is moved. `None` where that is no scope of ours.
fn in_scope(path: &Path, pid: u32) -> Option<Result<Group, GroupError>> {
    path.extension().is_some_and(|kind| kind == "scope").then_some(())?;
    let scope = Group::at(path.to_owned());
    let group = scope.child(IN_SCOPE);
    Some(group.join(pid).map(|()| {
        // Only now: a group with processes of its own cannot hand anything down.
        let (_, refused) = scope.enable(&scope.controllers());
        for problem in refused {
            tracing::warn!(
                pid,
                error = error_chain(&problem),
                "not everything of a host process can be limited"
            );
        }
        group
    }))
}

/// The name of a socket without its ending.
fn short(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// What one host process may take.
#[derive(Debug)]
pub(super) struct Confinement {
    /// Its control group, where it has one of its own.
    group: Option<Group>,
    pid: u32,
    /// The limit of memory that was written last: the group may be gone when it is asked for.
    memory_max: Mutex<Option<Bytes>>,
}

impl Confinement {
    fn new(group: Option<Group>, pid: u32) -> Self {
        let memory_max = Mutex::new(group.as_ref().and_then(Group::memory_max));
        Self { group, pid, memory_max }
    }

    /// Limits the process. Answers what could not be done, in words. Blocks for moments.
    pub(super) fn limit(&self, limits: &MachineLimits) -> Vec<String> {
        let mut problems: Vec<String> =
            limit_descriptors(self.pid, &limits.values).err().into_iter().collect();
        let Some(group) = &self.group else {
            if !needed(&limits.values).is_empty() {
                problems.push("its process has no control group of its own".to_owned());
            }
            return problems;
        };
        let controllers = group.controllers();
        let (devices, unlimited) = devices(limits);
        let refused = group.apply(&plan(&limits.values, &devices, &controllers));
        problems.extend(unlimited);
        problems.extend(refused.iter().map(|problem| error_chain(problem)));
        *self.memory_max.lock().unwrap_or_else(PoisonError::into_inner) = group.memory_max();
        let missing: Controllers = needed(&limits.values).without(&controllers);
        if !missing.is_empty() {
            problems.push(format!("its control group has no controller {missing}"));
        }
        problems
    }

    /// What the process takes; `None` where that is not counted for it alone.
    pub(super) fn usage(&self) -> Option<HostUse> {
        self.group.as_ref()?.usage()
    }

    /// Its limit of memory, where it has one.
    pub(super) fn memory_max(&self) -> Option<Bytes> {
        *self.memory_max.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the kernel killed the process at its own limit of memory, as far as its group still tells.
    pub(super) fn was_out_of_memory(&self) -> bool {
        self.group.as_ref().is_some_and(Group::was_out_of_memory)
    }

    /// Whether `path`, as the kernel's log has it, is its group.
    pub(super) fn is_at(&self, path: &str) -> bool {
        let path = Path::new(path.trim_start_matches('/'));
        let is_named = path.components().next().is_some();
        self.group.as_ref().is_some_and(|group| is_named && group.path().ends_with(path))
    }

    /// Removes the group of the process, which is gone.
    pub(super) fn remove(&self) {
        if let Some(Err(problem)) = self.group.as_ref().map(Group::remove) {
            tracing::warn!(pid = self.pid, error = error_chain(&problem), "a control group is left");
        }
    }
}

/// The devices that the disks of `limits` lie on, where I/O is limited by device, and what cannot be limited so.
fn devices(limits: &MachineLimits) -> (Vec<BlockDevice>, Vec<String>) {
    let mut found = BTreeSet::new();
    let mut problems = Vec::new();
    let wanted = [
        limits.values.io_read_bytes,
        limits.values.io_write_bytes,
        limits.values.io_read_operations,
        limits.values.io_write_operations,
    ];
    let is_limited = wanted.iter().any(Option::is_some);
    for disk in &limits.disks {
        match BlockDevice::of(disk) {
            Ok(Some(device)) => {
                found.insert(device);
            }
            Ok(None) if is_limited => problems.push(format!(
                "the I/O of {} is not limited: its file system lies on no single block device",
                disk.display()
            )),
            // Disks that are made in memory have no file.
            Ok(None) | Err(_) => {}
        }
    }
    (found.into_iter().collect(), problems)
}

/// Limits the descriptors of process `pid`, if that is asked for.
fn limit_descriptors(pid: u32, limits: &ResourceLimits) -> Result<(), String> {
    let Some(most) = limits.descriptors else { return Ok(()) };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("its process has no id")?;
    let most = Some(u64::from(most));
    // The hard limit stays, so that more can be allowed again.
    let hard = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: most, maximum: hard };
    prlimit(Some(pid), Resource::Nofile, limit)
        .map(drop)
        .map_err(|errno| format!("its descriptors are not limited: {}", std::io::Error::from(errno)))
}

#[cfg(test)]
mod tests;
