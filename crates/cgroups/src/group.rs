//! One control group: a directory that the kernel gives files.
//!
//! A group that is gone is no error where it was to be removed or only looked at: a service manager removes what it made as
//! soon as it is empty.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use vm_model::{Bytes, HostUse};

use crate::usage::{field, usage};
use crate::{Controller, Controllers, GroupError, Setting};

/// How often a group is made anew that somebody removed before a process was in it: whoever sweeps empty groups cannot tell it
/// from one that was left.
const JOIN_ATTEMPTS: usize = 4;

/// A control group by its directory, whether it is there or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    path: PathBuf,
}

impl Group {
    /// The group whose directory is `path`.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The group `name` in this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self { path: self.path.join(name) }
    }

    /// Makes it, if it is not there. What it is in is there.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn ensure(&self) -> Result<(), GroupError> {
        match fs::create_dir(&self.path) {
            Err(problem) if problem.kind() == ErrorKind::AlreadyExists => Ok(()),
            made => made.map_err(|source| GroupError::Make { path: self.path.clone(), source }),
        }
    }

    /// Makes it, if it is not there, and moves process `pid` to it with all its threads.
    ///
    /// # Errors
    /// The kernel refuses either.
    pub fn join(&self, pid: u32) -> Result<(), GroupError> {
        let mut attempt = 1;
        loop {
            self.ensure()?;
            match fs::write(self.path.join("cgroup.procs"), pid.to_string()) {
                Err(problem) if problem.kind() == ErrorKind::NotFound && attempt < JOIN_ATTEMPTS => {
                    attempt += 1
                }
                moved => {
                    return moved.map_err(|source| GroupError::Join { pid, path: self.path.clone(), source });
                }
            }
        }
    }

    /// Hands `wanted` to the groups in this one, which may have no process of its own. Answers those that they have now, and
    /// what became of the others.
    pub fn enable(&self, wanted: &Controllers) -> (Controllers, Vec<GroupError>) {
        let mut refused = Vec::new();
        for controller in wanted.without(&self.handed_down()).iter() {
            let value = format!("+{}", controller.name());
            if let Err(source) = fs::write(self.path.join("cgroup.subtree_control"), value) {
                let path = self.path.clone();
                refused.push(GroupError::Enable { controller: controller.name(), path, source });
            }
        }
        (self.handed_down(), refused)
    }

    /// The controllers that it has.
    pub fn controllers(&self) -> Controllers {
        Controllers::parse(&self.read("cgroup.controllers").unwrap_or_default())
    }

    /// The controllers that groups in it have.
    pub fn handed_down(&self) -> Controllers {
        Controllers::parse(&self.read("cgroup.subtree_control").unwrap_or_default())
    }

    /// Writes `settings`, each of them whatever becomes of the others. Less memory than is in use for good is not written: the
    /// kernel would kill for it.
    pub fn apply(&self, settings: &[Setting]) -> Vec<GroupError> {
        settings.iter().filter_map(|setting| self.write(setting).err()).collect()
    }

    fn write(&self, setting: &Setting) -> Result<(), GroupError> {
        let is_limit = setting.controller == Controller::Memory && setting.file == "memory.max";
        if is_limit
            && let (Ok(wanted), Some(used)) = (setting.value.parse(), self.memory_in_use())
            && wanted < used
        {
            return Err(GroupError::InUse { wanted, used });
        }
        let path = self.path.join(setting.file);
        let written = fs::write(&path, &setting.value);
        written.map_err(|source| GroupError::Write { path, value: setting.value.clone(), source })
    }

    /// Memory that cannot be had back by forgetting pages of files, in bytes.
    fn memory_in_use(&self) -> Option<u64> {
        let current: u64 = self.read("memory.current")?.trim().parse().ok()?;
        let statistics = self.read("memory.stat")?;
        // Pages of files in memory (`shmem`) are among those of files, and cannot be forgotten.
        let forgettable = field(&statistics, "file").saturating_sub(field(&statistics, "shmem"));
        Some(current.saturating_sub(forgettable).saturating_sub(field(&statistics, "slab_reclaimable")))
    }

    /// Whether a process is in it, or in a group in it. One that is gone has none.
    pub fn is_populated(&self) -> bool {
        self.read("cgroup.events").is_some_and(|events| field(&events, "populated") != 0)
    }

    /// The processes in it, groups in it left out.
    pub fn processes(&self) -> Vec<u32> {
        let text = self.read("cgroup.procs").unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills every process in it and in groups in it.
    ///
    /// # Errors
    /// The kernel refuses it; before 5.14 it does not know how.
    pub fn kill(&self) -> Result<(), GroupError> {
        let path = self.path.join("cgroup.kill");
        match fs::write(&path, "1") {
            Err(problem) if problem.kind() == ErrorKind::NotFound && !self.path.exists() => Ok(()),
            written => written.map_err(|source| GroupError::Write { path, value: "1".to_owned(), source }),
        }
    }

    /// Whether the kernel killed something in it at its own limit of memory, or at one of a group in it.
    pub fn was_out_of_memory(&self) -> bool {
        let events = self.read("memory.events").unwrap_or_default();
        // `oom_kill` alone also counts what the kernel killed because the whole host ran out.
        field(&events, "oom") != 0 && field(&events, "oom_kill") != 0
    }

    /// The memory that it may have; `None` where that is not limited, or not known.
    pub fn memory_max(&self) -> Option<Bytes> {
        self.read("memory.max")?.trim().parse().ok().map(Bytes::new)
    }

    /// What it uses; `None` where it is gone.
    pub fn usage(&self) -> Option<HostUse> {
        self.path.is_dir().then(|| usage(|file| self.read(file)))
    }

    /// Removes it. One with processes stays.
    ///
    /// # Errors
    /// The kernel keeps it.
    pub fn remove(&self) -> Result<(), GroupError> {
        match fs::remove_dir(&self.path) {
            Err(problem) if problem.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|source| GroupError::Remove { path: self.path.clone(), source }),
        }
    }

    /// Removes every group in this one that has no processes; answers how many. What was begun to be used meanwhile stays.
    ///
    /// # Errors
    /// It cannot be listed.
    pub fn sweep(&self) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let group = Self::at(entry.path());
            if entry.file_type()?.is_dir() && !group.is_populated() && group.remove().is_ok() {
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.path.join(file)).ok()
    }
}

#[cfg(test)]
mod tests;
