//! vCPUs of whole machines: started by the guest, numbered, placed.

use tiny_guest::TinyGuest;
use vm_model::{CpuSpec, CpuTopology, MachineExit};

use super::harness::{self, hypervisor, run, spec};
use super::*;

/// What a guest says that found processors of these APIC ids.
fn found(ids: impl IntoIterator<Item = u8>) -> String {
    let ids: Vec<String> = ids.into_iter().map(|id| format!(" {id:02x}")).collect();
    format!("processors {:02x}\nids{}\n", ids.len(), ids.concat())
}

fn topology(threads_per_core: u8, cores_per_die: u8, dies_per_package: u8, packages: u8) -> CpuTopology {
    CpuTopology { threads_per_core, cores_per_die, dies_per_package, packages }
}

#[test]
fn the_guest_starts_its_other_processors() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut spec = spec(&TinyGuest::processors(4));
    spec.cpus.boot_vcpus = 4;
    let ended = run(&hypervisor, spec);
    assert_eq!((ended.exit, ended.console), (MachineExit::PoweredOff, found(0..4)));
}

#[test]
fn processors_have_the_ids_of_their_places() {
    let Some(hypervisor) = hypervisor() else { return };
    for (levels, vcpus, ids) in [
        (topology(2, 3, 1, 2), 12, vec![0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]),
        // Places that no vCPU takes at boot.
        (topology(1, 3, 2, 2), 7, vec![0, 1, 2, 4, 5, 6, 8]),
    ] {
        let mut spec = spec(&TinyGuest::processors(vcpus));
        spec.cpus = CpuSpec { topology: Some(levels), ..CpuSpec::of(vcpus) };
        let ended = run(&hypervisor, spec);
        assert_eq!((ended.exit, ended.console), (MachineExit::PoweredOff, found(ids)), "{levels:?}");
    }
}

#[test]
fn a_topology_that_cannot_be_is_refused() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut spec = spec(&TinyGuest::idle());
    spec.cpus = CpuSpec { topology: Some(topology(2, 1, 1, 1)), ..CpuSpec::of(3) };
    let error = harness::build(&hypervisor, spec).unwrap_err();
    assert_eq!(error.failure_kind(), vm_model::FailureKind::Artifact);
    let source = std::error::Error::source(&error).expect("it says why").to_string();
    assert_eq!(source, "a processor topology of 2 places cannot hold 3 vCPUs");
}

#[test]
fn many_vcpus_wait_for_their_start() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut spec = spec(&TinyGuest::hello("many"));
    spec.cpus.boot_vcpus = most_vcpus(&hypervisor);
    let ended = run(&hypervisor, spec);
    assert_eq!((ended.exit, ended.console.as_str()), (MachineExit::PoweredOff, "many"));
}

/// As many as configurations may ask for, where the host has them.
fn most_vcpus(hypervisor: &Hypervisor) -> u8 {
    u8::try_from(hypervisor.facts().max_vcpus.min(64)).expect("at most 64")
}
