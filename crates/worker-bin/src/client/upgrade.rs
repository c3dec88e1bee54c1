//! `upgrade --check`: which running VMs would survive if this program took the place of the worker that runs.
//!
//! The worker tells which VMs run, whatever its release. The processes that hold them are asked by this program itself, as it
//! would when it takes them over.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use admin::VmView;
use anyhow::{Context, Result, bail};
use host_process::client::{SeenAnswer, SeenMachine, SeenProcess, look_at_processes};
use serde::Serialize;
use vm_model::{VmId, error_chain};
use worker::vms::check_notes;

use super::table::Table;

/// What a restart of the worker by this program does to one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    id: VmId,
    survives: bool,
    #[serde(flatten)]
    fate: Fate,
}

/// Where a machine runs, and what follows from that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "runs_in")]
enum Fate {
    /// A host process that this program can take over.
    HostProcess { pid: Option<u32>, version: u32, build: String },
    /// A host process that is launching it for the worker that runs, and gives that up when this ends.
    UnderWay { pid: Option<u32> },
    /// A process that this program cannot take over.
    Stranger { pid: Option<u32>, problem: String },
    /// A host process that the worker ends with itself, because it is told to stop its guests or runs the others itself.
    StoppedHostProcess { pid: Option<u32> },
    /// The worker itself.
    Worker,
}

/// VMs by the process that has their locks open.
type LockHolders = BTreeMap<u32, Vec<VmId>>;

/// Looks at the host processes of `directory` and judges each of `vms` that has a machine. `guests_go_on` is whether they do
/// when the worker that runs now ends in order, where it tells.
pub(super) async fn check(
    vms: &[VmView],
    directory: &Path,
    guests_go_on: Option<bool>,
) -> Result<Vec<Verdict>> {
    let processes = look_at_processes(directory).await;
    let processes = processes.with_context(|| format!("cannot read {}", directory.display()))?;
    let holders =
        processes.iter().filter_map(|process| Some((process.pid?, locks_of(process.pid?)))).collect();
    let mut verdicts = judge(vms, &processes, &holders);
    if guests_go_on == Some(false) {
        verdicts.iter_mut().for_each(Verdict::stop);
    }
    Ok(verdicts)
}

/// The verdict on each of `vms` that has a machine. Pure.
fn judge(vms: &[VmView], processes: &[SeenProcess], holders: &LockHolders) -> Vec<Verdict> {
    let has_machine =
        |vm: &&VmView| matches!(vm.phase.as_str(), "booting" | "running" | "paused" | "stopping");
    let verdict = |vm: &VmView| {
        let mut fates = processes.iter().filter_map(|process| fate_in(&vm.id, process, holders));
        let fate = fates.next().unwrap_or_else(|| unseen(vm.process.as_ref().map(|process| process.pid)));
        Verdict { id: vm.id.clone(), survives: matches!(fate, Fate::HostProcess { .. }), fate }
    };
    vms.iter().filter(has_machine).map(verdict).collect()
}

/// What becomes of a VM that no process is found to run, though the worker speaks with process `pid` about it, where it has one.
fn unseen(pid: Option<u32>) -> Fate {
    match pid {
        Some(_) => {
            Fate::Stranger { pid, problem: "its socket is gone, by which it would be reached".to_owned() }
        }
        None => Fate::Worker,
    }
}

/// What becomes of `vm` if it runs in `process`; `None` if it does not.
fn fate_in(vm: &VmId, process: &SeenProcess, holders: &LockHolders) -> Option<Fate> {
    let pid = process.pid;
    match &process.answer {
        SeenAnswer::Welcome { version, build, machines } => {
            let SeenMachine { notes, launching, .. } = machines.iter().find(|machine| machine.vm == *vm)?;
            if *launching {
                return Some(Fate::UnderWay { pid });
            }
            Some(match check_notes(vm, notes) {
                Ok(()) => Fate::HostProcess { pid, version: version.0, build: build.clone() },
                Err(problem) => Fate::Stranger { pid, problem: error_chain(&problem) },
            })
        }
        SeenAnswer::Problem(problem) => {
            let holds = holders.get(&pid?)?.contains(vm);
            holds.then(|| Fate::Stranger { pid, problem: problem.clone() })
        }
    }
}

/// The VMs whose locks process `pid` has open: those it runs, also where it says nothing.
fn locks_of(pid: u32) -> Vec<VmId> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let files = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    files.filter_map(|file| vm_of_lock(&file)).collect()
}

/// `<state-dir>/vms/<id>/lock` is the lock of `<id>`.
fn vm_of_lock(file: &Path) -> Option<VmId> {
    let directory = file.parent().filter(|_| file.ends_with("lock"))?;
    let id = directory.file_name().filter(|_| directory.parent().is_some_and(|vms| vms.ends_with("vms")))?;
    VmId::parse(id.to_str()?).ok()
}

/// The verdicts for people.
pub(super) fn table(verdicts: &[Verdict]) -> String {
    if verdicts.is_empty() {
        return "no VM runs\n".to_owned();
    }
    let mut table = Table::new(["ID", "RESTART OF THE WORKER", "WHY"]);
    for Verdict { id, survives, fate } in verdicts {
        let outcome = if *survives { "survives" } else { "needs a restart" };
        table.row([id.to_string(), outcome.to_owned(), fate.explained()]);
    }
    table.to_string()
}

impl Verdict {
    /// The worker stops the VM's guest before it ends.
    fn stop(&mut self) {
        if let Fate::HostProcess { pid, .. } = self.fate {
            (self.survives, self.fate) = (false, Fate::StoppedHostProcess { pid });
        }
    }
}

impl Fate {
    fn explained(&self) -> String {
        let process =
            |pid: &Option<u32>| pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
        match self {
            Self::HostProcess { pid, version, build } => {
                format!("{} ({build}) is taken over; both speak version {version}", process(pid))
            }
            Self::UnderWay { pid } => {
                format!("{} is starting it; the next worker starts it anew", process(pid))
            }
            Self::Stranger { pid, problem } => {
                format!("{} cannot be taken over by this program: {problem}", process(pid))
            }
            Self::StoppedHostProcess { pid } => {
                format!("the worker that runs now ends {} with itself, as it is set to", process(pid))
            }
            Self::Worker => "it runs in the worker's own process and ends with it".to_owned(),
        }
    }
}

/// Fails where a VM does not survive.
pub(super) fn conclude(verdicts: &[Verdict]) -> Result<()> {
    match verdicts.iter().filter(|verdict| !verdict.survives).count() {
        0 => Ok(()),
        lost => bail!("{lost} of {} running VMs do not survive a restart of the worker", verdicts.len()),
    }
}

#[cfg(test)]
mod tests {
    use host_process::wire::Version;
    use serde_json::json;

    use super::*;

    fn vm(id: &str, phase: &str) -> VmView {
        let json = json!({
            "id": id, "phase": phase, "desired": "running", "reason": null, "address": null, "mac": null,
            "tap": null, "store_path": "/nix/store/x", "hash": "sha256-x=", "generation": 3, "restarts": 0,
            "last_stop": null, "timings": {}, "warnings": [], "unverified": [], "metrics": null,
        });
        serde_json::from_value(json).expect("the form of an older worker")
    }

    /// The same, of which the worker says that process `pid` runs it.
    fn held_by(pid: u32, vm: VmView) -> VmView {
        let process = json!({ "pid": pid, "jailed": false, "seccomp": "trap" });
        VmView { process: serde_json::from_value(process).expect("a process"), ..vm }
    }

    fn notes(id: &str) -> String {
        json!({
            "version": 1,
            "assignment": { "id": id, "hash": "", "store_path": "/nix/store/x" },
            "launched_at": 0,
            "nics": [],
            "memory": { "size": 1, "backing": "shared_memfd", "prefault": false },
            "shape": { "vcpus": 1, "memory": 1, "cmdline": "", "disks": [] },
        })
        .to_string()
    }

    fn process(pid: u32, machines: &[(&str, String)]) -> SeenProcess {
        let machines = machines.iter().map(|(vm, notes)| SeenMachine {
            vm: VmId::new(vm),
            notes: notes.clone(),
            launching: false,
        });
        let answer = SeenAnswer::Welcome {
            version: Version(1),
            build: "host-process 0.1.0".to_owned(),
            machines: machines.collect(),
        };
        SeenProcess { place: format!("/run/{pid}.sock"), pid: Some(pid), answer }
    }

    #[test]
    fn each_machine_is_judged_by_the_process_it_runs_in() {
        let newer = r#"{"version":9}"#.to_owned();
        let stranger = SeenProcess {
            place: "/run/9.sock".to_owned(),
            pid: Some(9),
            answer: SeenAnswer::Problem("it refuses: no common version".to_owned()),
        };
        let processes = [process(7, &[("a", notes("a")), ("b", newer)]), process(8, &[]), stranger];
        let holders = BTreeMap::from([(9, vec![VmId::new("c")])]);
        let vms = [
            vm("a", "running"),
            vm("b", "paused"),
            vm("c", "booting"),
            vm("d", "running"),
            vm("e", "stopped"),
            vm("f", "restarting"),
            held_by(10, vm("g", "running")),
        ];
        let verdicts = judge(&vms, &processes, &holders);
        let expected = "\
ID  RESTART OF THE WORKER  WHY
a   survives               process 7 (host-process 0.1.0) is taken over; both speak version 1
b   needs a restart        process 7 cannot be taken over by this program: what is noted with it has version 9; versions up to 1 are understood
c   needs a restart        process 9 cannot be taken over by this program: it refuses: no common version
d   needs a restart        it runs in the worker's own process and ends with it
g   needs a restart        process 10 cannot be taken over by this program: its socket is gone, by which it would be reached
";
        assert_eq!(table(&verdicts), expected);
        let error = conclude(&verdicts).expect_err("four are lost").to_string();
        assert_eq!(error, "4 of 5 running VMs do not survive a restart of the worker");
        assert!(conclude(&verdicts[..1]).is_ok());
        let json = serde_json::to_value(&verdicts[0]).expect("plain values");
        let expected = json!({
            "id": "a", "survives": true, "runs_in": "host_process", "pid": 7, "version": 1,
            "build": "host-process 0.1.0",
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn nothing_survives_a_worker_that_stops_its_guests() {
        let mut verdicts =
            judge(&[vm("a", "running")], &[process(7, &[("a", notes("a"))])], &BTreeMap::new());
        verdicts.iter_mut().for_each(Verdict::stop);
        let told = table(&verdicts);
        assert!(told.contains("needs a restart") && told.contains("ends process 7 with itself"), "{told}");
        assert!(conclude(&verdicts).is_err());
    }

    #[test]
    fn without_a_running_vm_all_is_well() {
        let verdicts = judge(&[vm("a", "failed")], &[], &BTreeMap::new());
        assert_eq!(table(&verdicts), "no VM runs\n");
        assert!(conclude(&verdicts).is_ok());
    }

    #[test]
    fn a_lock_tells_its_vm() {
        assert_eq!(vm_of_lock(Path::new("/var/lib/procurator/vms/web-1/lock")), Some(VmId::new("web-1")));
        for other in
            ["/var/lib/procurator/worker.lock", "/var/lib/lock", "/vms/web-1/console", "/vms/No!/lock"]
        {
            assert_eq!(vm_of_lock(Path::new(other)), None, "{other}");
        }
    }
}
