//! What runs already when a manager starts, or is found running later: machines of an earlier worker, with their interfaces
//! and addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use host_network::UnknownNic;
use ipam::{Lease, Wish};
use machine_host::{Adopted, Adoption, FoundMachine, MachineHost, Recognize, Stranger};
use tracing::{info, warn};
use uuid::Uuid;
use vm_model::VmId;

use super::registry::Registry;
use crate::failure::chain;
use crate::records::{LeaseBooks, Leases, RecordStore, SealKey, VmRecord};
use crate::supervisor::{HostContext, RunningMachine, noted_uuid};

/// What is known of VMs by which machines are recognized. All else is told by the processes that run them, and any of them may
/// be its guest's by now.
pub(super) struct KnownVms {
    vms: BTreeMap<VmId, KnownVm>,
    /// VMs whose records cannot be used.
    damaged: BTreeSet<VmId>,
    store: RecordStore,
}

/// What is on record of a VM.
struct KnownVm {
    uuid: Uuid,
    /// Whether a run of it has begun and not ended.
    runs: bool,
    /// By what its newest run's notes are sealed; none where an earlier worker began that.
    seal_key: Option<SealKey>,
}

impl KnownVms {
    pub(super) fn new<'a>(
        records: &[VmRecord],
        damaged: impl Iterator<Item = &'a VmId>,
        store: RecordStore,
    ) -> Self {
        let known = |record: &VmRecord| {
            let VmRecord { assignment, uuid, seal_key, running_since, .. } = record;
            let known = KnownVm { uuid: *uuid, runs: running_since.is_some(), seal_key: *seal_key };
            (assignment.id.clone(), known)
        };
        Self { vms: records.iter().map(known).collect(), damaged: damaged.cloned().collect(), store }
    }

    /// Takes over machines of the VMs on record, and the ends of machines whose VMs are gone, which are only to be forgotten.
    pub(super) fn recognize(self) -> Recognize {
        Arc::new(move |found| self.judge(found))
    }

    fn judge(&self, found: &FoundMachine<'_>) -> Result<(), String> {
        let noted = noted_uuid(found.vm, found.notes).map_err(|problem| chain(&problem))?;
        let Some(KnownVm { uuid, runs, seal_key }) = self.vms.get(found.vm) else {
            // Its VM was removed, and the worker ended before it told the machine's host that the end is noticed.
            return if found.has_ended && !self.damaged.contains(found.vm) {
                Ok(())
            } else {
                Err("there is no usable record of it".to_owned())
            };
        };
        if noted.is_some_and(|noted| noted != *uuid) {
            return Err("it is of another VM of this name".to_owned());
        }
        match seal_key {
            Some(key) if !key.has_sealed(found.notes) => {
                return Err("what is noted with it is not what a worker noted when the VM was started last"
                    .to_owned());
            }
            // An end that was sealed is that of this run, whoever may hold the lock by now.
            Some(_) if found.has_ended => return Ok(()),
            // Earlier workers noted no identity with some, and sealed nothing.
            None if found.has_ended && noted.is_none() => return Ok(()),
            None if !found.has_ended && !runs => {
                return Err(
                    "by its record the VM does not run, and nothing else says that it does".to_owned()
                );
            }
            Some(_) | None => {}
        }
        // Of two machines of a name, the one with the lock is the VM's.
        match self.store.other_holder(found.vm, found.pid) {
            Some(holder) => Err(format!("process {holder} holds the lock of this VM")),
            None => Ok(()),
        }
    }
}

/// Takes over the machines that run already. Everything else that runs is left alone, and told.
pub(super) async fn take_over(
    machines: &dyn MachineHost,
    known: KnownVms,
) -> (BTreeMap<VmId, RunningMachine>, Vec<Stranger>) {
    let (on_record, store): (BTreeSet<VmId>, _) = (known.vms.keys().cloned().collect(), known.store.clone());
    let Adoption { machines: found, mut strangers } = machines.adopt(known.recognize()).await;
    let mut running: BTreeMap<VmId, RunningMachine> = BTreeMap::new();
    for machine in found.into_iter().filter_map(|adopted| usable(adopted, &mut strangers)) {
        let vm = machine.notes.assignment.id.clone();
        if on_record.contains(&vm) && running.get(&vm).is_none_or(|other| machine.is_newer_than(other)) {
            running.insert(vm, machine);
        }
        // Dropping one that has ended tells its host that this is noticed.
    }
    name_vms(&mut strangers, &store);
    tell(&strangers);
    (running, strangers)
}

fn usable(adopted: Adopted, strangers: &mut Vec<Stranger>) -> Option<RunningMachine> {
    let pid = adopted.pid;
    RunningMachine::of(adopted)
        .map_err(|(vm, problem)| strangers.push(stranger(vm, pid, chain(&problem))))
        .ok()
}

fn stranger(vm: VmId, pid: u32, problem: String) -> Stranger {
    Stranger { vms: vec![vm], pid: Some(pid), place: "a host process".to_owned(), problem }
}

/// Finds out by their locks which VMs processes run that do not tell.
fn name_vms(strangers: &mut [Stranger], store: &RecordStore) {
    for stranger in strangers.iter_mut().filter(|stranger| stranger.vms.is_empty()) {
        stranger.vms = stranger.pid.map_or_else(Vec::new, |pid| store.locked_by(pid));
    }
}

fn tell(strangers: &[Stranger]) {
    for Stranger { vms, pid, place, problem } in strangers {
        let ends_with = pid.map(|pid| format!("kill {pid}"));
        warn!(?vms, pid, place, problem, ends_with, "what runs there is left alone");
    }
}

/// Takes over what answers later, as long as the manager is there.
pub(super) async fn take_over_late(
    machines: Arc<dyn MachineHost>,
    context: Weak<HostContext>,
    registry: Weak<Registry>,
) {
    loop {
        let Adoption { machines: found, mut strangers } = machines.adopt_late().await;
        let (Some(context), Some(registry)) = (context.upgrade(), registry.upgrade()) else { return };
        for adopted in found {
            let Some(machine) = usable(adopted, &mut strangers) else { continue };
            let (vm, pid) = (machine.notes.assignment.id.clone(), machine.pid);
            if let Err(machine) = registry.hand_over(machine)
                && !machine.has_ended()
            {
                strangers.push(stranger(vm, pid, "nobody waits for this machine".to_owned()));
            }
        }
        name_vms(&mut strangers, &context.records);
        if *context.strangers.borrow() != strangers {
            info!(left = strangers.len(), "processes that could not be taken over have changed");
            tell(&strangers);
            context.strangers.send_replace(strangers);
            context.changes.note();
        }
    }
}

/// Sees to it that nobody else is given the addresses of the VMs that run.
pub(super) fn hold_addresses(leases: &LeaseBooks, running: &BTreeMap<VmId, RunningMachine>) {
    running.values().for_each(|machine| machine.hold_addresses(leases));
}

/// Sees to it that nobody else is given the addresses of interfaces that are there, and whose VMs are not known to run in this
/// network: their records are lost, their processes silent, or the network had another name when they started. Who holds such an
/// address from before and does not run, as `runs` has it, gets another. The next start that does not find them gives the addresses up.
pub(super) fn hold_unknown(leases: &Leases, unknown: &[UnknownNic], runs: impl Fn(&VmId) -> bool) {
    let mut by_vm: BTreeMap<&VmId, Vec<(&str, Wish)>> = BTreeMap::new();
    for UnknownNic { vm, nic, mac, address, .. } in unknown {
        let wish = Wish { ip: Some(*address), mac: Some(*mac) };
        by_vm.entry(vm).or_default().push((nic, wish));
    }
    for (vm, present) in by_vm {
        let nics: Vec<&str> = present.iter().map(|(nic, _)| *nic).collect();
        match leases.seize(vm, &present, |holder| !runs(holder)) {
            Ok(lost) => {
                warn!(vm_id = %vm, ?nics, "interfaces that were not taken over are there, and nobody else gets their addresses");
                for Lease { vm: holder, nic, address, .. } in lost {
                    warn!(vm_id = %holder, nic, %address, in_use_by = %vm, "the VM gets another address: a guest that runs has its former one");
                }
            }
            Err(problem) => {
                warn!(vm_id = %vm, ?nics, error = chain(&problem), "an address in use may be given to another VM");
            }
        }
    }
}

/// Takes up the VMs on record, with their machines where they have one.
pub(super) fn restore(
    registry: &Registry,
    store: &RecordStore,
    records: Vec<VmRecord>,
    mut running: BTreeMap<VmId, RunningMachine>,
) {
    for mut record in records {
        match running.remove(&record.assignment.id) {
            Some(machine) if !machine.is_done(&record) => {
                if machine.correct(&mut record)
                    && let Err(problem) = store.save(&record)
                {
                    warn!(vm_id = %record.assignment.id, error = chain(&problem), "the VM's record was not kept");
                }
                registry.resume(record, machine);
            }
            Some(_) | None => {
                record.interrupt_rollout();
                registry.restore(record);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use vm_model::{Assignment, Timestamp};

    use super::*;
    use crate::records::{RecordWriter, lock_idle_vm};

    fn notes(uuid: Option<Uuid>) -> String {
        let (memory, shape) = (
            json!({ "size": 1, "backing": "shared_memfd", "prefault": false }),
            json!({ "vcpus": 1, "memory": 1, "cmdline": "", "disks": [] }),
        );
        let assignment = json!({ "id": "a", "hash": "", "store_path": "/nix/store/x" });
        json!({
            "version": 1, "assignment": assignment, "uuid": uuid, "launched_at": 0, "nics": [], "memory": memory,
            "shape": shape,
        })
        .to_string()
    }

    #[test]
    fn a_machine_is_recognized_by_the_identity_of_its_vm() {
        let directory = tempfile::tempdir().expect("a directory");
        let writer = RecordWriter::open(directory.path());
        let store = RecordStore::open(&directory.path().join("vms"), writer).expect("a store");
        let mut record = VmRecord::new(Assignment::new(VmId::new("a"), "", "/nix/store/x"));
        record.running_since = Some(Timestamp::now());
        let damaged = VmId::new("damaged");
        let known =
            KnownVms::new(std::slice::from_ref(&record), std::iter::once(&damaged), store).recognize();
        let judge = |vm: &str, notes: &str, has_ended| {
            known(&FoundMachine { vm: &VmId::new(vm), notes, pid: 1, has_ended })
        };
        assert_eq!(judge("a", &notes(Some(record.uuid)), false), Ok(()));
        assert_eq!(judge("a", &notes(None), false), Ok(()), "of an earlier worker");
        let other = judge("a", &notes(Some(Uuid::new_v4())), false);
        assert_eq!(other, Err("it is of another VM of this name".to_owned()));
        assert!(judge("a", "", false).is_err(), "its notes cannot be used");
        let of = |vm: &str| notes(None).replacen(r#""id":"a""#, &format!(r#""id":"{vm}""#), 1);
        assert_eq!(judge("gone", &of("gone"), true), Ok(()), "its end is only to be forgotten");
        for (vm, has_ended) in [("gone", false), ("damaged", false), ("damaged", true)] {
            let refused = judge(vm, &of(vm), has_ended);
            assert_eq!(refused, Err("there is no usable record of it".to_owned()), "{vm} {has_ended}");
        }
    }
    #[test]
    fn what_a_process_tells_of_a_vm_counts_by_its_seal_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let writer = RecordWriter::open(directory.path());
        let store = RecordStore::open(&directory.path().join("vms"), writer).expect("a store");
        let mut record = VmRecord::new(Assignment::new(VmId::new("a"), "", "/nix/store/x"));
        let (key, earlier) = (SealKey::draw().expect("a key"), SealKey::draw().expect("a key"));
        record.seal_key = Some(key);
        record.running_since = Some(Timestamp::now());
        store.save(&record).expect("kept");
        let of_record = |record: &VmRecord| {
            KnownVms::new(std::slice::from_ref(record), std::iter::empty(), store.clone()).recognize()
        };
        let own = std::process::id();
        let judge = |record: &VmRecord, notes: &str, pid, has_ended| {
            of_record(record)(&FoundMachine { vm: &VmId::new("a"), notes, pid, has_ended })
        };
        let true_notes = notes(Some(record.uuid));
        let lock = lock_idle_vm(&store.directory(&VmId::new("a"))).expect("the lock");
        assert_eq!(judge(&record, &key.seal(&true_notes), own, false), Ok(()));
        for (has_ended, forged) in [false, true].into_iter().flat_map(|has_ended| {
            let unsealed = [notes(None), true_notes.clone(), earlier.seal(&true_notes)];
            let changed = key.seal(&true_notes).replace("/nix/store/x", "/nix/store/y");
            unsealed.into_iter().chain([changed]).map(move |forged| (has_ended, forged))
        }) {
            let refused = judge(&record, &forged, own, has_ended).expect_err("refused");
            assert_eq!(
                refused,
                "what is noted with it is not what a worker noted when the VM was started last"
            );
        }
        drop(lock);
        // One that no worker started in this form has no key yet.
        let never_started = VmRecord::new(record.assignment.clone());
        let refused = judge(&never_started, &notes(None), own, false).expect_err("refused");
        assert_eq!(refused, "by its record the VM does not run, and nothing else says that it does");
    }
}
