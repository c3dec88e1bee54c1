//! What outlives the master: its epoch, and what each worker was told last under which number.
//!
//! The file is either the old or the new one whole. One that cannot be read is never overwritten: a master without its
//! numbers is another master to its workers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use master_protocol::os_random;
use master_protocol::wire::WorkerId;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vm_model::{AssignmentSet, DesiredState, Generation, VmId};

const VERSION: u32 = 1;
const FILE: &str = "master.json";

/// A master's epoch and numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterState {
    /// The lineage of the numbers.
    pub epoch: String,
    /// The master's name, which is the other half of that; absent before it was kept here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What each worker was told.
    pub workers: BTreeMap<WorkerId, Told>,
}

/// What a worker was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The newest assignment, with its number; absent before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<AssignmentSet>,
    /// Whether its VMs are to be off and no new ones are assigned.
    #[serde(default)]
    pub drained: bool,
    /// The states in which its VMs should be when it is drained no longer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub before_drain: BTreeMap<VmId, DesiredState>,
}

/// Why the state cannot be read or kept.
#[derive(Debug, Error)]
pub enum StateError {
    /// The host refuses.
    #[error("cannot {operation} {}", path.display())]
    Host {
        /// What was tried.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no state of a master.
    #[error(
        "{} cannot be used: restore it, or move it away to begin a new epoch, which each worker's host has to accept",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The file is a newer master's.
    #[error("{} has version {version}; this program knows {VERSION}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    state: MasterState,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl MasterState {
    /// A master that has told nobody anything, in a new epoch.
    pub fn new() -> Self {
        Self { epoch: format!("{:016x}", os_random()), name: None, workers: BTreeMap::new() }
    }

    /// The name under which this master goes on: the one that was `asked` for, else the one that its workers know, else
    /// the `certified` one. A certificate with another name makes no other master of it.
    pub fn settle_name(&mut self, asked: Option<String>, certified: Option<String>) -> String {
        let name = asked.or_else(|| self.name.clone()).or(certified);
        self.name.insert(name.unwrap_or_else(|| "master".to_owned())).clone()
    }

    /// The state kept in `directory`, or a new one.
    ///
    /// # Errors
    /// There is one, and it cannot be read.
    pub fn load(directory: &Path) -> Result<Self, StateError> {
        let path = directory.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => return Ok(Self::new()),
            Err(source) => return Err(StateError::Host { operation: "read", path, source }),
        };
        let damaged = |source| StateError::Damaged { path: path.clone(), source };
        let Versioned { version } = serde_json::from_slice(&text).map_err(damaged)?;
        if version != VERSION {
            return Err(StateError::Newer { path, version });
        }
        serde_json::from_slice::<Stored>(&text).map(|stored| stored.state).map_err(damaged)
    }

    /// Puts the state on stable storage in `directory`. Blocks as long as its disk lets it.
    ///
    /// # Errors
    /// The host refuses; the file is then as it was.
    pub fn save(&self, directory: &Path) -> Result<(), StateError> {
        let path = directory.join(FILE);
        let temporary = directory.join(format!("{FILE}.new"));
        let stored = Stored { version: VERSION, state: self.clone() };
        let text = serde_json::to_vec_pretty(&stored)
            .map_err(|source| StateError::Damaged { path: path.clone(), source })?;
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Host { operation, path, source }
        };
        let mut file = File::create(&temporary).map_err(failed("create", &temporary))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(failed("replace", &path))?;
        File::open(directory).and_then(|opened| opened.sync_all()).map_err(failed("sync", directory))
    }
}

impl Default for MasterState {
    fn default() -> Self {
        Self::new()
    }
}

impl Told {
    /// Takes `wanted` as what should run on the worker. What the worker is told from now on, where that is something new.
    ///
    /// Numbers only grow. One that the file gives is the least that is used. A drained worker gets its VMs switched off,
    /// those that are no longer wanted removed, and no new ones.
    pub fn follow(&mut self, wanted: &AssignmentSet) -> Option<&AssignmentSet> {
        let lasting = self.lasting().unwrap_or_default();
        let was_told = |id: &VmId| lasting.vms.iter().find(|vm| vm.id == *id);
        let mut vms = wanted.vms.clone();
        if self.drained {
            vms.retain(|vm| was_told(&vm.id).is_some());
        }
        // An entry that cannot be used changes nothing for its VM.
        let kept = wanted.refused.iter().filter_map(|entry| was_told(&entry.id));
        vms.extend(kept.cloned());
        vms.sort_by(|left, right| left.id.cmp(&right.id));
        self.before_drain.clear();
        if self.drained {
            self.before_drain = vms.iter().map(|vm| (vm.id.clone(), vm.desired)).collect();
            vms.iter_mut().for_each(|vm| vm.desired = DesiredState::Stopped);
        }
        let allow_removals = wanted.allow_removals;
        if let Some(set) = &self.set
            && set.vms == vms
            && set.allow_removals == allow_removals
            && set.drained == self.drained
        {
            return None;
        }
        let after =
            self.set.as_ref().and_then(|set| set.generation).map_or(Generation::new(1), Generation::next);
        let generation = Some(wanted.generation.map_or(after, |least| least.max(after)));
        let drained = self.drained;
        self.set = Some(AssignmentSet { generation, vms, allow_removals, drained, refused: Vec::new() });
        self.set.as_ref()
    }

    /// What the worker was told, with each VM in the state that it had before the worker was drained: what should run there
    /// as far as no file says anything else.
    pub fn lasting(&self) -> Option<AssignmentSet> {
        let mut set = self.set.clone()?;
        for vm in &mut set.vms {
            vm.desired = self.before_drain.get(&vm.id).copied().unwrap_or(vm.desired);
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use vm_model::{Assignment, RefusedEntry};

    use super::*;

    fn wanted(names: &[&str]) -> AssignmentSet {
        let vms = names.iter().map(|name| Assignment::new(VmId::new(name), "sha256-x=", "/nix/store/x"));
        AssignmentSet { vms: vms.collect(), ..AssignmentSet::default() }
    }

    fn follow(told: &mut Told, wanted: &AssignmentSet) -> Option<(u64, Vec<(String, DesiredState)>)> {
        let set = told.follow(wanted)?;
        let vms = set.vms.iter().map(|vm| (vm.id.to_string(), vm.desired)).collect();
        Some((set.generation.map(Generation::get).unwrap_or_default(), vms))
    }

    #[test]
    fn a_certificate_with_another_name_makes_no_other_master() {
        let name = |text: &str| Some(text.to_owned());
        let mut state = MasterState::new();
        assert_eq!(state.settle_name(None, name("m1")), "m1");
        assert_eq!(state.settle_name(None, name("m2")), "m1", "its workers know it so");
        assert_eq!(state.settle_name(name("m3"), name("m2")), "m3", "somebody says so");
        assert_eq!(state.settle_name(None, None), "m3");
        assert_eq!(MasterState::new().settle_name(None, None), "master");
    }

    #[test]
    fn numbers_grow_with_each_change_and_only_then() {
        let mut told = Told::default();
        let on = |name: &str| (name.to_owned(), DesiredState::Running);
        assert_eq!(follow(&mut told, &wanted(&[])), Some((1, vec![])), "an empty list is said, too");
        assert_eq!(follow(&mut told, &wanted(&["b", "a"])), Some((2, vec![on("a"), on("b")])));
        assert_eq!(follow(&mut told, &wanted(&["a", "b"])), None, "order means nothing");
        let numbered = AssignmentSet { generation: Some(Generation::new(40)), ..wanted(&["a"]) };
        assert_eq!(follow(&mut told, &numbered), Some((40, vec![on("a")])));
        let lower = AssignmentSet { generation: Some(Generation::new(7)), ..wanted(&["b"]) };
        assert_eq!(follow(&mut told, &lower), Some((41, vec![on("b")])));
    }

    #[test]
    fn a_drained_worker_switches_off_and_gets_nothing_new() {
        let (on, off) = (DesiredState::Running, DesiredState::Stopped);
        let mut told = Told::default();
        follow(&mut told, &wanted(&["a", "b"]));
        told.drained = true;
        let vms = vec![("a".to_owned(), off)];
        assert_eq!(follow(&mut told, &wanted(&["a", "c"])), Some((2, vms)), "b is no longer wanted");
        told.drained = false;
        let vms = vec![("a".to_owned(), on), ("c".to_owned(), on)];
        assert_eq!(follow(&mut told, &wanted(&["a", "c"])), Some((3, vms)));
    }

    #[test]
    fn a_drain_that_is_taken_back_brings_the_states_before_it_without_a_file_too() {
        use DesiredState::{Paused, Running, Stopped};
        let mut told = Told::default();
        let mut first = wanted(&["a", "b", "c"]);
        (first.vms[1].desired, first.vms[2].desired) = (Paused, Stopped);
        follow(&mut told, &first);
        let states = |set: Option<(u64, Vec<(String, DesiredState)>)>| {
            set.map(|(number, vms)| (number, vms.into_iter().map(|(_, state)| state).collect::<Vec<_>>()))
        };
        told.drained = true;
        // An entry that cannot be used is drained like others.
        let refused = vec![RefusedEntry { id: VmId::new("c"), problem: "no hash".to_owned() }];
        let second = AssignmentSet { vms: first.vms[..2].to_vec(), refused, ..AssignmentSet::default() };
        assert_eq!(states(follow(&mut told, &second)), Some((2, vec![Stopped; 3])));
        // The file goes; the master is told to drain once more, and comes back from its state file.
        let lasting = told.lasting().expect("it was told something");
        assert_eq!(follow(&mut told, &lasting), None);
        let json = serde_json::to_string(&told).expect("it serialises");
        let mut told: Told = serde_json::from_str(&json).expect("and parses back");
        told.drained = false;
        let lasting = told.lasting().expect("it was told something");
        assert_eq!(states(follow(&mut told, &lasting)), Some((3, vec![Running, Paused, Stopped])));
        assert!(told.before_drain.is_empty());
    }

    #[test]
    fn an_entry_that_cannot_be_used_changes_nothing_for_its_vm() {
        let mut told = Told::default();
        follow(&mut told, &wanted(&["a", "b"]));
        let refused = vec![RefusedEntry { id: VmId::new("a"), problem: "no hash".to_owned() }];
        assert_eq!(follow(&mut told, &AssignmentSet { refused, ..wanted(&["b"]) }), None);
    }

    #[test]
    fn what_was_kept_is_read_back_and_what_is_damaged_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut state = MasterState::load(directory.path()).expect("a new one");
        assert_ne!(state.epoch, MasterState::new().epoch);
        let mut told = Told::default();
        follow(&mut told, &wanted(&["a"]));
        state.workers.insert("worker-1".parse().expect("valid"), told);
        state.save(directory.path()).expect("kept");
        assert_eq!(MasterState::load(directory.path()).expect("read"), state);
        let file = directory.path().join(FILE);
        for (text, words) in
            [("{", "cannot be used"), ("{\"version\": 9}", "has version 9; this program knows 1")]
        {
            fs::write(&file, text).expect("written");
            let said = MasterState::load(directory.path()).expect_err("unusable").to_string();
            assert!(said.contains(words) && said.contains(FILE), "{said}");
            assert_eq!(fs::read_to_string(&file).expect("there"), text);
        }
    }
}
