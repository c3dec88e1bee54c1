//! `check-config --assignments`: whether an assignments file would be taken, entry by entry. Artifacts are not read.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use nix_artifacts::check_network_access;
use serde::Serialize;
use serde_json::Value;
use vm_model::{Assignment, AssignmentSet, NetworkAccess, PortForward, VmId, error_chain};
use worker::vms::VmManagerConfig;

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

/// Says what is wrong with `file`, for a worker with these store roots.
pub(super) fn run(file: &Path, store_roots: &[PathBuf], json: bool) -> Result<()> {
    let (vms, faults) = check(file, store_roots);
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
pub(super) fn problems(file: &Path, store_roots: &[PathBuf]) -> Vec<Problem> {
    check(file, store_roots).1
}

/// What the file says of interfaces that are to be in networks which `manager` does not have. Those that artifacts name are
/// not looked at.
pub(super) fn unknown_networks(file: &Path, manager: &VmManagerConfig) -> Vec<String> {
    let Seen::Text(text) = look_at(file) else { return Vec::new() };
    let Ok(set) = AssignmentSet::parse(&text) else { return Vec::new() };
    let networks: Vec<String> = manager.all_networks().iter().map(|(name, _)| name.to_string()).collect();
    let problems = set.vms.iter().flat_map(|assignment| {
        let entries = assignment.procurator.get("net").and_then(Value::as_array).into_iter().flatten();
        let named = entries.filter_map(|entry| entry.get("network")?.as_str());
        let unknown = named.filter(|name| networks.iter().all(|network| network != name));
        unknown.map(|name| {
            format!(
                "an interface of {} is to be in the network {name:?} (procurator.net), which is not configured; there is {}",
                assignment.id,
                networks.join(", ")
            )
        })
    });
    problems.collect()
}

/// How many VMs the file assigns, and what is wrong with it.
fn check(file: &Path, store_roots: &[PathBuf]) -> (usize, Vec<Problem>) {
    let whole = |problem: String| (0, vec![Problem { vm: None, problem }]);
    match look_at(file) {
        Seen::Missing(problem) | Seen::Unusable(problem) => whole(problem),
        Seen::Text(text) => match AssignmentSet::parse(&text) {
            Err(problem) => whole(problem.to_string()),
            Ok(set) => {
                let refused = set.refused.into_iter();
                let problems = refused.map(|entry| Problem { vm: Some(entry.id), problem: entry.problem });
                let problems = problems.chain(judge(&set.vms, store_roots)).collect();
                (set.vms.len(), problems)
            }
        },
    }
}

/// What of sound entries does not work: their store paths, and what they say of the network.
fn judge(vms: &[Assignment], store_roots: &[PathBuf]) -> Vec<Problem> {
    let (mut problems, mut forwards) = (Vec::new(), Vec::new());
    for vm in vms {
        let mut add = |problem: String| {
            problems.push(Problem { vm: Some(vm.id.clone()), problem: format!("{}: {problem}", vm.id) });
        };
        if let Some(problem) = wrong_path(&vm.store_path, store_roots) {
            add(problem);
        }
        match check_network_access(&vm.procurator) {
            Ok(NetworkAccess { forwards: own, .. }) => {
                for forward in own {
                    let taken = forwards
                        .iter()
                        .find(|(_, known): &&(&VmId, PortForward)| known.conflicts_with(&forward));
                    if let Some((other, known)) = taken {
                        add(format!("its port {forward} of the host is {other}'s already ({known})"));
                    }
                    forwards.push((&vm.id, forward));
                }
            }
            Err(problem) => add(error_chain(&problem)),
        }
    }
    problems
}

/// Why `path` is no store path that can be used here.
fn wrong_path(path: &Path, store_roots: &[PathBuf]) -> Option<String> {
    let listed = || store_roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(", ");
    let Some(root) = store_roots.iter().find(|root| path.parent() == Some(root)) else {
        return Some(format!(
            "its store path {} is no entry of a store root of this worker ({})",
            path.display(),
            listed()
        ));
    };
    // Where there is no store at all, the file is checked for another host.
    let is_missing = root.is_dir() && !path.exists();
    is_missing.then(|| format!("its store path {} is not there", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    #[test]
    fn ports_egress_and_store_paths_are_judged_entry_by_entry() {
        let folder = tempfile::tempdir().expect("a directory");
        let root = folder.path().to_path_buf();
        fs::create_dir(root.join("image")).expect("created");
        let vm = |id: &str, path: &str, procurator: serde_json::Value| {
            let mut vm = Assignment::new(VmId::new(id), "", root.join(path));
            vm.procurator = procurator.as_object().expect("an object").clone();
            vm
        };
        let vms = [
            vm("a", "image", json!({"ports": ["8080:80"], "egress": ["10.0.0.0/8"]})),
            vm("b", "image", json!({"ports": ["127.0.0.1:8080:80"]})),
            vm("c", "image", json!({"ports": ["80"]})),
            vm("d", "image", json!({"egress": ["10.0.0.1/8"]})),
            vm("e", "other", json!({})),
            vm("f", "image/inside", json!({})),
        ];
        let problems = judge(&vms, std::slice::from_ref(&root));
        let said: Vec<(&str, &str)> = problems
            .iter()
            .map(|problem| (problem.vm.as_ref().expect("of a VM").as_str(), problem.problem.as_str()))
            .collect();
        assert_eq!(said.len(), 5, "{said:?}");
        for ((vm, said), (id, words)) in said.iter().zip([
            ("b", "b: its port 127.0.0.1:8080:80/tcp of the host is a's already (8080:80/tcp)"),
            ("c", "$.procurator.ports[0] is \"80\"; accepted is"),
            ("d", "$.procurator.egress[0] is \"10.0.0.1/8\""),
            ("e", "is not there"),
            ("f", "is no entry of a store root of this worker"),
        ]) {
            assert_eq!(*vm, id);
            assert!(said.contains(words), "{said}");
        }
        // Of a host without that store nothing is known.
        let elsewhere = [Assignment::new(VmId::new("a"), "", "/nonexistent/store/x")];
        assert_eq!(judge(&elsewhere, &["/nonexistent/store".into()]), []);
    }
}
