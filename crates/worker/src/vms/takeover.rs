//! What runs already when a manager starts: machines of an earlier worker, with their interfaces and addresses.

use std::collections::BTreeMap;

use host_network::{HostNetwork, KeptNic, LinkName, NetworkConfig};
use ipam::Wish;
use machine_host::{Adoption, MachineHost, Stranger};
use tracing::warn;
use uuid::Uuid;
use vm_model::VmId;

use super::VmManagerError;
use super::registry::Registry;
use crate::failure::chain;
use crate::records::{Leases, VmRecord};
use crate::supervisor::{NotedNic, RunningMachine};

/// Takes over the machines of the VMs on record, some of which are `damaged`, that run already. Everything else that runs is
/// left alone, and told.
pub(super) async fn take_over(
    machines: &dyn MachineHost,
    records: &[VmRecord],
    damaged: &BTreeMap<VmId, String>,
) -> (BTreeMap<VmId, RunningMachine>, Vec<Stranger>) {
    let Adoption { machines: found, mut strangers } = machines.adopt().await;
    let known: BTreeMap<&VmId, Uuid> =
        records.iter().map(|record| (&record.assignment.id, record.uuid)).collect();
    let mut running = BTreeMap::new();
    for adopted in found {
        let problem = match RunningMachine::of(adopted) {
            Ok(machine) if is_other(&machine, &known) => {
                (machine.notes.assignment.id, "it is of another VM of this name".to_owned())
            }
            Ok(machine) if running.contains_key(&machine.notes.assignment.id) => {
                (machine.notes.assignment.id, "another machine of this VM was taken over".to_owned())
            }
            Ok(machine) if known.contains_key(&machine.notes.assignment.id) => {
                running.insert(machine.notes.assignment.id.clone(), machine);
                continue;
            }
            // Its VM was removed, and the worker ended before it told the machine's host that the end is noticed: dropping it
            // tells so.
            Ok(machine) if machine.has_ended() && !damaged.contains_key(&machine.notes.assignment.id) => {
                continue;
            }
            Ok(machine) => (machine.notes.assignment.id, "there is no usable record of it".to_owned()),
            Err((vm, problem)) => (vm, chain(&problem)),
        };
        let (vm, problem) = problem;
        strangers.push(Stranger { vms: vec![vm], place: "a host process".to_owned(), problem });
    }
    for Stranger { vms, place, problem } in &strangers {
        warn!(?vms, place, problem, "what runs there is left alone");
    }
    (running, strangers)
}

/// Whether `machine` is known to be of another VM than the one on record by its name.
fn is_other(machine: &RunningMachine, known: &BTreeMap<&VmId, Uuid>) -> bool {
    let (noted, recorded) = (machine.notes.uuid, known.get(&machine.notes.assignment.id));
    noted.is_some() && recorded.is_some() && noted.as_ref() != recorded
}

/// Sees to it that nobody else is given the addresses of the VMs that run, whatever became of the file of leases.
pub(super) fn hold_addresses(leases: &Leases, running: &BTreeMap<VmId, RunningMachine>) {
    for (vm, machine) in running {
        let wish = |noted: &NotedNic| Wish { ip: Some(noted.nic.address), mac: Some(noted.nic.mac) };
        let wishes: Vec<(&str, Wish)> =
            machine.notes.nics.iter().map(|noted| (noted.nic.id.as_str(), wish(noted))).collect();
        if let Err(problem) = leases.ensure(vm, &wishes) {
            warn!(vm_id = %vm, error = chain(&problem), "the addresses of the running VM may be given to another");
        }
    }
}

/// Sets the VMs' network up, around the interfaces of those that run.
pub(super) async fn resume_network(
    config: NetworkConfig,
    running: &BTreeMap<VmId, RunningMachine>,
) -> Result<HostNetwork, VmManagerError> {
    let network = HostNetwork::resume(config, kept_nics(running))
        .await
        .map_err(|problem| VmManagerError::Network(Box::new(problem)))?;
    for warning in &network.report().warnings {
        warn!(%warning, "the VMs' network may not work as it should");
    }
    Ok(network)
}

/// The interfaces of the VMs that run.
fn kept_nics(running: &BTreeMap<VmId, RunningMachine>) -> Vec<KeptNic> {
    let noted =
        running.iter().flat_map(|(vm, machine)| machine.notes.nics.iter().map(move |noted| (vm, noted)));
    let kept = noted.filter_map(|(vm, NotedNic { nic, mask, mtu })| {
        // A name that is none is of no TAP of ours.
        let tap = LinkName::parse(nic.tap.as_deref()?).ok()?;
        let (vm, nic_name) = (vm.clone(), nic.id.clone());
        Some(KeptNic { vm, nic: nic_name, mac: nic.mac, address: nic.address, mask: *mask, mtu: *mtu, tap })
    });
    kept.collect()
}

/// Takes up the VMs on record, with their machines where they have one.
pub(super) fn restore(
    registry: &Registry,
    records: Vec<VmRecord>,
    mut running: BTreeMap<VmId, RunningMachine>,
) {
    for mut record in records {
        match running.remove(&record.assignment.id) {
            Some(machine) if !machine.is_done(&record) => {
                machine.correct(&mut record);
                registry.resume(record, machine);
            }
            Some(_) | None => {
                record.interrupt_rollout();
                registry.restore(record);
            }
        }
    }
}
