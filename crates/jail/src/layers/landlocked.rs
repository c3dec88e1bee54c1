//! Landlock (landlock(7)): no file is opened but below what was named beforehand, whatever path or descriptor it is reached by;
//! no TCP, no signal to a process outside, no abstract socket of one.
//!
//! It holds where the layers before do not: a descriptor of a directory leads out of an empty root, and only the
//! permissions of the directories above it would be in the way. Every kernel that has Landlock at all keeps a process to its
//! files. What later ones add (TCP, devices, signals, abstract sockets) the process' network namespace, user and filters keep from
//! it as well.

use std::error::Error;
use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::fs::{Mode, OFlags, open};

use super::Outside;
use super::root::HOST_FILES;

/// The newest form of Landlock whose rules are known here. An older kernel enforces those that it knows.
const KNOWN: ABI = ABI::V6;
/// Where the host keeps the counters of its virtual interfaces: directories in it are handed over, and read.
const INTERFACES: &str = "/sys/devices/virtual/net";

/// What stays allowed: below what.
pub(super) struct Rule {
    below: OwnedFd,
    access: BitFlags<AccessFs>,
}

/// Opens what rules are about. What the host does not have needs no rule.
pub(super) fn open_rules(outside: &Outside) -> Vec<Rule> {
    let rule = |path: &Path, access| {
        let below = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
        Some(Rule { below, access })
    };
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let making = reading
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::RemoveFile;
    let trees = outside.trees.iter().filter_map(|tree| rule(tree, making));
    let files = HOST_FILES.iter().map(|file| Path::new("/").join(file));
    let files = files.filter_map(|file| {
        let access = if file.is_dir() { reading } else { AccessFs::ReadFile.into() };
        rule(&file, access)
    });
    trees.chain(files).chain(rule(Path::new(INTERFACES), reading)).collect()
}

/// Whether the kernel knows every rule that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coverage {
    Full,
    /// It keeps the process to its files, without what later kernels add.
    FilesAlone,
}

/// Allows what `rules` say and the files of this process, and nothing else.
pub(super) fn restrict(mut rules: Vec<Rule>) -> Result<Coverage, Box<dyn Error>> {
    // Of the new root, where there is one.
    let below = open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    rules.push(Rule { below, access: AccessFs::ReadFile | AccessFs::ReadDir });
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    for Rule { below, access } in rules {
        ruleset = ruleset.add_rule(PathBeneath::new(below, access))?;
    }
    match ruleset.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Ok(Coverage::Full),
        RulesetStatus::PartiallyEnforced => Ok(Coverage::FilesAlone),
        RulesetStatus::NotEnforced => Err("this kernel does not have it, or it is switched off".into()),
    }
}
