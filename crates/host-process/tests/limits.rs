//! Real host processes with limits: in control groups on this host's unified hierarchy, whatever controllers it has; and what
//! they take, against what is reckoned of them.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cgroups::Hierarchy;
use host_process::{Groups, HostProcessOptions};
use machine_host::{Enforcement, LaunchRequest, MachineHost, MachineLimits, StopPolicy};
use rustix::process::Signal;
use tiny_guest::TinyGuest;
use vm_model::{Bytes, Cores, CpuSpec, ResourceLimits, VmId};

use support::{anyone, children, directory, has_kvm, host, launch, options, request, signal, until, within};

/// Where this host's unified hierarchy is; `None` where it has none.
fn hierarchy() -> Option<Hierarchy> {
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    let found = mounts.into_iter().find_map(|mount| Hierarchy::at(mount).ok());
    if found.is_none() {
        eprintln!("SKIPPED: this host has no cgroup v2");
    }
    found
}

fn limited(values: ResourceLimits, enforcement: Enforcement) -> MachineLimits {
    MachineLimits { values, disks: Vec::new(), enforcement }
}

fn descriptors(count: u32) -> ResourceLimits {
    ResourceLimits { descriptors: Some(count), ..ResourceLimits::default() }
}

/// The soft limit of open files of process `pid`.
fn descriptors_of(pid: u32) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it is there");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line").to_owned();
    line.split_whitespace().nth(3).expect("a soft limit").to_owned()
}

fn only_child() -> u32 {
    *children().first().expect("its process")
}

#[tokio::test]
async fn a_process_is_in_a_group_that_goes_with_it_however_it_ends() {
    let Some(hierarchy) = hierarchy().filter(|_| has_kvm()) else { return };
    let directory = directory();
    let groups = Groups::below(hierarchy.clone()).expect("groups can be made");
    let host = host(HostProcessOptions { groups, ..options(&directory) });
    for is_killed in [false, true] {
        let machine = launch(&host, "web-1", &TinyGuest::spin()).await;
        let pid = only_child();
        let group = hierarchy.group_of(pid).expect("it runs");
        assert_eq!(group.parent(), Some(hierarchy.mount().join("procurator").as_path()));
        machine.refresh_counters().await;
        assert!(machine.counters().host.is_some(), "what it takes is counted");
        if is_killed {
            signal(pid, Signal::KILL);
        } else {
            machine.stop(StopPolicy::KILL).await.expect("it stops");
        }
        drop(machine);
        until("its group is gone", || !group.exists()).await;
        until("its name is free", || host.counts().hosted == 0).await;
    }
    within(host.shut_down(Duration::from_secs(20))).await;
}

#[tokio::test]
async fn limits_are_there_before_the_machine_and_change_while_it_runs() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    // Limits of another user's process are changed by who has CAP_SYS_RESOURCE, which not every root has.
    let host = host(HostProcessOptions { jail: None, ..options(&directory) });
    within(host.adopt(anyone())).await;
    let limits = limited(descriptors(300), Enforcement::Required);
    let machine = within(host.launch(LaunchRequest { limits, ..request("web-1", &TinyGuest::spin()) })).await;
    let machine = machine.expect("descriptors can be limited anywhere");
    assert_eq!(descriptors_of(only_child()), "300");
    let vm = VmId::new("web-1");
    let problems = within(host.limit(&vm, limited(descriptors(400), Enforcement::Required))).await;
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(descriptors_of(only_child()), "400");
    machine.stop(StopPolicy::KILL).await.expect("it stops");
    let cpu = ResourceLimits { cpu: Cores::from_thousandths(500), ..ResourceLimits::default() };
    let limits = limited(cpu, Enforcement::Required);
    let refused = within(host.launch(LaunchRequest { limits, ..request("db-1", &TinyGuest::spin()) })).await;
    let refused = refused.map(drop).expect_err("there is no group").to_string();
    assert!(refused.contains("its process has no control group of its own"), "{refused}");
    within(host.shut_down(Duration::from_secs(20))).await;
}

/// What process `pid` has of memory for itself besides its guest's, which is a shared memory file: its own pages and its page
/// tables. Pages of its program are shared with other processes.
fn overhead_of(pid: u32) -> Bytes {
    let status =
        fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).expect("it is there");
    let kibibytes = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).expect("a figure")
    };
    Bytes::new((kibibytes("RssAnon") + kibibytes("VmPTE")) << 10)
}

#[tokio::test]
async fn what_a_machine_needs_is_reckoned_with_enough() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    for (vcpus, mib) in [(1, 16), (4, 64), (16, 128)] {
        let mut request = request("web-1", &TinyGuest::spin());
        request.spec.cpus = CpuSpec::of(vcpus);
        request.spec.memory.size = Bytes::from_mib(mib);
        let footprint = request.spec.footprint();
        let machine = within(host.launch(request)).await.expect("it launches");
        let pid = only_child();
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it is there").count();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it is there").count();
        let (overhead, reckoned) = (overhead_of(pid), footprint.overhead);
        eprintln!(
            "{vcpus} vCPUs, {mib} MiB: {overhead}, {threads} threads, {open} descriptors; {footprint:?}"
        );
        assert!(threads <= footprint.threads as usize, "{threads} threads: {footprint:?}");
        assert!(open <= footprint.descriptors as usize, "{open} descriptors: {footprint:?}");
        assert!(overhead <= reckoned, "{overhead}: {footprint:?}");
        machine.stop(StopPolicy::KILL).await.expect("it stops");
        drop(machine);
        until("nothing is left", || children().is_empty()).await;
    }
    within(host.shut_down(Duration::from_secs(20))).await;
}
