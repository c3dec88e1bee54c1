//! `check-config --assignments`: whether an assignments file would be taken, entry by entry.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;
use vm_model::{AssignmentSet, VmId};

use crate::assignments::{Seen, look_at};
use crate::client::{print, print_json};
use crate::printable::printable;

/// Something that is wrong with an assignments file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    /// The VM whose entry it is in; absent where the whole file is refused.
    pub(super) vm: Option<VmId>,
    /// What is wrong, where, and what is accepted.
    pub(super) problem: String,
}

#[derive(Serialize)]
struct Answer<'a> {
    file: &'a Path,
    vms: usize,
    faults: &'a [Problem],
}

/// Says what is wrong with `file`.
pub(super) fn run(file: &Path, json: bool) -> Result<()> {
    let (vms, faults) = check(file);
    if json {
        print_json(&Answer { file, vms, faults: &faults })?;
    } else {
        let mut text = String::new();
        for fault in &faults {
            let _ = writeln!(text, "{}: {}", file.display(), printable(&fault.problem));
        }
        if faults.is_empty() {
            let _ = writeln!(text, "{}: sound (VMs: {vms})", file.display());
        }
        print(&text)?;
    }
    match faults.len() {
        0 => Ok(()),
        1 => bail!("{}: one fault", file.display()),
        count => bail!("{}: {count} faults", file.display()),
    }
}

/// What is wrong with `file`.
pub(super) fn problems(file: &Path) -> Vec<Problem> {
    check(file).1
}

/// How many VMs the file assigns, and what is wrong with it.
fn check(file: &Path) -> (usize, Vec<Problem>) {
    let whole = |problem: String| (0, vec![Problem { vm: None, problem }]);
    match look_at(file) {
        Seen::Missing(problem) | Seen::Unusable(problem) => whole(problem),
        Seen::Text(text) => match AssignmentSet::parse(&text) {
            Err(problem) => whole(problem.to_string()),
            Ok(set) => {
                let refused = set.refused.into_iter();
                let problems = refused.map(|entry| Problem { vm: Some(entry.id), problem: entry.problem });
                (set.vms.len(), problems.collect())
            }
        },
    }
}
