//! Where the unified hierarchy is mounted, and what it can limit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::Controllers;

/// The unified hierarchy of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    mount: PathBuf,
    /// What its root can hand to groups below it.
    controllers: Controllers,
}

/// Why nothing can be limited.
#[derive(Debug, Error)]
pub enum Unavailable {
    /// There is no cgroup v2.
    #[error("this host has no cgroup v2")]
    NoHierarchy,
    /// There is, and other hierarchies have its controllers.
    #[error("the cgroup v2 at {} has none of the controllers cpu, io, memory and pids: cgroup v1 has them", mount.display())]
    NoControllers {
        /// Where it is mounted.
        mount: PathBuf,
    },
    /// It could not be looked at.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// What was looked at.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
}

impl Hierarchy {
    /// The hierarchy of this host, if it has controllers.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn observe() -> Result<Self, Unavailable> {
        let path = PathBuf::from("/proc/self/mountinfo");
        let mounts = fs::read_to_string(&path).map_err(|source| Unavailable::Unreadable { path, source })?;
        let mount = mount_in(&mounts).ok_or(Unavailable::NoHierarchy)?;
        let hierarchy = Self::at(mount)?;
        if hierarchy.controllers.is_empty() {
            return Err(Unavailable::NoControllers { mount: hierarchy.mount });
        }
        Ok(hierarchy)
    }

    /// The hierarchy that is mounted at `mount`, with whatever controllers it has.
    ///
    /// # Errors
    /// No hierarchy is there.
    pub fn at(mount: PathBuf) -> Result<Self, Unavailable> {
        let path = mount.join("cgroup.controllers");
        let text = fs::read_to_string(&path).map_err(|source| Unavailable::Unreadable { path, source })?;
        Ok(Self { mount, controllers: Controllers::parse(&text) })
    }

    /// Where it is mounted.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// What it can limit.
    pub fn controllers(&self) -> &Controllers {
        &self.controllers
    }

    /// The directory of the group that process `pid` is in; `None` where the process is gone.
    pub fn group_of(&self, pid: u32) -> Option<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Some(self.mount.join(unified_path(&text)?.trim_start_matches('/')))
    }
}

/// The path, in the unified hierarchy, of a process whose `/proc/<pid>/cgroup` is `text` (cgroups(7)).
pub fn unified_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Where `mountinfo` (proc_pid_mountinfo(5)) has the unified hierarchy.
fn mount_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let is_unified = file_system.split(' ').next() == Some("cgroup2");
        let path = mount.split(' ').nth(4)?;
        // A mount point with escapes is none that anybody chose for control groups.
        (is_unified && !path.contains('\\')).then(|| PathBuf::from(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Controller;

    #[test]
    fn the_unified_hierarchy_is_found_among_mounts() {
        let pure = "25 1 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(mount_in(pure), Some(PathBuf::from("/sys/fs/cgroup")));
        let hybrid = "30 1 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      31 1 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_in(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_in("30 1 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"), None);
        assert_eq!(mount_in("nonsense\n - cgroup2"), None);
    }

    #[test]
    fn a_process_is_found_in_either_form_of_hierarchies() {
        assert_eq!(unified_path("0::/procurator.slice/a.scope\n"), Some("/procurator.slice/a.scope"));
        assert_eq!(unified_path("4:memory:/x\n0::/\n"), Some("/"));
        assert_eq!(unified_path("4:memory:/x\n"), None);
    }

    #[test]
    fn what_a_hierarchy_can_limit_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        Hierarchy::at(directory.path().to_owned()).expect_err("no hierarchy");
        fs::write(directory.path().join("cgroup.controllers"), "cpuset cpu memory hugetlb\n")
            .expect("written");
        let there = Hierarchy::at(directory.path().to_owned()).expect("a hierarchy");
        assert!(there.controllers().has(Controller::Cpu) && !there.controllers().has(Controller::Io));
        assert_eq!(there.controllers().to_string(), "cpu, memory");
    }
}
