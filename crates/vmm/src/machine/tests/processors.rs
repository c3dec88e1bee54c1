//! vCPUs of whole machines: started by the guest, numbered, placed.

use std::path::PathBuf;

use rustix::process::Pid;
use rustix::thread::{CoreSchedulingScope, core_scheduling_cookie, gettid};
use tiny_guest::TinyGuest;
use vm_model::{CoreScheduling, CpuSpec, CpuTopology, MachineExit, VcpuAffinity};

use super::harness::{self, Guest, hypervisor, run, spec};
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

/// The thread of this name in this process.
fn thread(name: &str) -> Option<PathBuf> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let named = |task: &PathBuf| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|found| found.trim_end() == name)
    };
    tasks.into_iter().find(named)
}

/// Where the thread of this name may run, as the kernel writes it.
fn allowed_cpus(name: &str) -> Option<String> {
    let status = std::fs::read_to_string(thread(name)?.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    Some(line.trim().to_owned())
}

/// What the kernel lets share a core with the thread of this name: threads of the same number.
fn cookie(name: &str) -> rustix::io::Result<u64> {
    let task = thread(name).expect("it runs");
    let id = task.file_name().unwrap().to_str().unwrap().parse().unwrap();
    core_scheduling_cookie(
        Pid::from_raw(id).expect("no thread has the number zero"),
        CoreSchedulingScope::Thread,
    )
}

/// The first CPU that this thread may use.
fn first_cpu() -> u16 {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    (0..1024).find(|cpu| allowed.is_set(usize::from(*cpu))).expect("this thread runs somewhere")
}

#[test]
fn threads_keep_to_their_host_cpus() {
    let Some(hypervisor) = hypervisor() else { return };
    let (first, everywhere) = (first_cpu(), rustix::thread::sched_getaffinity(None).unwrap().count());
    let mut spec = spec(&TinyGuest::spin());
    spec.cpus = CpuSpec::of(2);
    spec.cpus.affinity = vec![VcpuAffinity { vcpu: 1, host_cpus: vec![first] }];
    let guest = Guest::start_with(&hypervisor, spec, InitialState::Running, |mut options| {
        options.name = "pinned".to_owned();
        options
    });
    guest.wait_for_console("ready\n");
    guest.wait_until("the second thread keeps to its CPU", |_| {
        allowed_cpus("vcpu1:pinned") == Some(first.to_string())
    });
    if everywhere > 1 {
        let free = allowed_cpus("vcpu0:pinned").expect("it runs");
        assert_ne!(free, first.to_string(), "the first was told nothing");
    }
    assert_eq!(guest.kill().exit, MachineExit::Killed);
}

/// On a host without core scheduling or siblings the machines run, and the kernel's refusal is all there is to compare.
#[test]
fn vcpus_share_their_cores_with_whom_they_may() {
    let Some(hypervisor) = hypervisor() else { return };
    let cookies = |core_scheduling, name: &'static str| {
        let mut spec = spec(&TinyGuest::spin());
        spec.cpus = CpuSpec { core_scheduling, ..CpuSpec::of(2) };
        let guest = Guest::start_with(&hypervisor, spec, InitialState::Running, |mut options| {
            options.name = name.to_owned();
            options
        });
        guest.wait_for_console("ready\n");
        let names = [0, 1].map(|vcpu| format!("vcpu{vcpu}:{name}"));
        // The guest's word comes from the first.
        guest.wait_until("both threads run", |_| names.iter().all(|name| thread(name).is_some()));
        let of_both = names.each_ref().map(|name| cookie(name));
        assert_eq!(guest.kill().exit, MachineExit::Killed);
        of_both
    };
    let (machine, other) = (cookies(CoreScheduling::Vm, "one"), cookies(CoreScheduling::Vm, "other"));
    let (apart, free) = (cookies(CoreScheduling::Vcpu, "apart"), cookies(CoreScheduling::Off, "free"));
    assert_eq!(machine[0], machine[1]);
    match core_scheduling_cookie(gettid(), CoreSchedulingScope::Thread) {
        Ok(own) => {
            assert_eq!(free, [Ok(own); 2]);
            assert_ne!(machine[0], Ok(own));
            assert_ne!(machine[0], other[0]);
            assert!(apart[0] != apart[1] && !apart.contains(&Ok(own)), "{apart:?}");
        }
        Err(refusal) => assert_eq!([machine, other, apart, free], [[Err(refusal); 2]; 4]),
    }
}

#[test]
fn a_host_cpu_that_is_not_there_is_named() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut spec = spec(&TinyGuest::idle());
    spec.cpus.affinity = vec![VcpuAffinity { vcpu: 0, host_cpus: vec![first_cpu(), 1023] }];
    let error = harness::build(&hypervisor, spec).unwrap_err();
    assert_eq!(error.failure_kind(), vm_model::FailureKind::Host);
    let source = std::error::Error::source(&error).expect("it says why").to_string();
    assert_eq!(source, "vCPU 0 cannot run on host CPU 1023: this host has no such CPU online");
}

#[test]
fn many_vcpus_wait_for_their_start() {
    let Some(hypervisor) = hypervisor() else { return };
    let mut spec = spec(&TinyGuest::hello("many"));
    spec.cpus.boot_vcpus = most_vcpus(&hypervisor);
    let ended = run(&hypervisor, spec);
    assert_eq!((ended.exit, ended.console.as_str()), (MachineExit::PoweredOff, "many"));
}

#[test]
fn as_many_processors_as_can_be_asked_for_come_up_and_end() {
    let Some(hypervisor) = hypervisor() else { return };
    let vcpus = most_vcpus(&hypervisor);
    let mut spec = spec(&TinyGuest::processors(vcpus));
    spec.cpus.boot_vcpus = vcpus;
    let ended = run(&hypervisor, spec);
    assert_eq!((ended.exit, ended.console), (MachineExit::PoweredOff, found(0..vcpus)));
    assert_eq!(ended.counters.vcpus.len(), usize::from(vcpus));
    assert!(!ended.counters.vcpus.iter().any(|vcpu| vcpu.cpu_time.is_zero()), "{:?}", ended.counters.vcpus);
}

/// As many as configurations may ask for, where the host has them.
fn most_vcpus(hypervisor: &Hypervisor) -> u8 {
    u8::try_from(hypervisor.facts().max_vcpus.min(64)).expect("at most 64")
}
