//! Host processes in their jails, as the kernel shows them, and as their worker does.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use host_process::{HostProcessOptions, JailDemand, JailError, JailSettings, probe_jail};
use jail::UserRange;
use machine_host::{MachineHost, StopPolicy};
use rustix::fs::Mode;
use rustix::process::umask;
use support::*;
use tiny_guest::TinyGuest;
use vm_model::error_chain;

/// A field of a process' `status` (proc_pid_status(5)).
fn field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
    line.trim_start_matches(':').split_whitespace().next().unwrap_or_default().to_owned()
}

/// The numbers of a process, from this process' namespace inwards.
fn numbers(pid: u32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("the kernel tells");
    line.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

#[tokio::test]
async fn each_process_is_a_user_of_its_own_with_no_rights() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let machines =
        [launch(&host, "a", &TinyGuest::spin()).await, launch(&host, "b", &TinyGuest::spin()).await];
    let (mut users, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
    for pid in children() {
        let user = field(pid, "Uid").parse().expect("a number");
        assert!(UserRange::default().contains(user) && users.insert(user), "{user}: {users:?}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&field(pid, set), 16), Ok(0), "{set}");
        }
        assert_eq!(field(pid, "NoNewPrivs"), "1");
        for namespace in ["mnt", "net", "ipc", "uts", "pid"] {
            let link = |of: &str| fs::read_link(format!("/proc/{of}/ns/{namespace}")).expect("one");
            let own = link(&pid.to_string());
            assert_ne!(own, link("self"), "{namespace}");
            assert!(namespaces.insert(own), "{namespace} is one process' alone");
        }
        assert_eq!(
            numbers(pid),
            [pid, 1],
            "it is the first of its namespace, by whatever number the host knows it"
        );
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it is there");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        let locked = limits.lines().find(|line| line.starts_with("Max locked memory")).expect("a limit");
        assert!(locked.split_whitespace().nth(3).and_then(|most| most.parse::<u64>().ok()) <= Some(32 << 20));
        let score = |of: &str| -> i32 {
            let path = format!("/proc/{of}/oom_score_adj");
            fs::read_to_string(path).expect("it is there").trim().parse().expect("a number")
        };
        assert_eq!(score(&pid.to_string()), (score("self") + 300).min(1000), "it goes before its worker");
    }
    let owners = sockets(&directory).into_iter().map(|path| fs::metadata(path).expect("a socket").uid());
    assert_eq!(owners.collect::<BTreeSet<u32>>(), users, "who listens where is on record");
    for machine in machines {
        within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
        within(machine.released()).await;
    }
    until("the processes end", || children().is_empty()).await;
}

/// A service manager may have started the worker with a umask that keeps all others out.
#[tokio::test]
async fn a_process_goes_through_the_directories_of_its_root_whatever_the_umask_of_its_worker() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let before = umask(Mode::RWXG | Mode::RWXO);
    let machine = launch(&host, "a", &TinyGuest::spin()).await;
    umask(before);
    within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    within(machine.released()).await;
    drop(machine);
    until("the process ends", || children().is_empty()).await;
}

#[tokio::test]
async fn what_an_earlier_worker_left_outside_a_jail_is_taken_over_and_counted() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let earlier = host(HostProcessOptions { jail: None, ..options(&directory) });
    let machine = launch(&earlier, "old", &TinyGuest::spin()).await;
    assert_eq!(earlier.counts().unjailed, 0, "none was to be in a jail");
    earlier.leave();
    drop((machine, earlier));
    let host = host(options(&directory));
    let mut adoption = within(host.adopt(anyone())).await;
    assert_eq!((adoption.machines.len(), host.counts().unjailed), (1, 1));
    let new = launch(&host, "new", &TinyGuest::spin()).await;
    assert_eq!(host.counts().unjailed, 1);
    for machine in [adoption.machines.remove(0).handle, new] {
        within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
        within(machine.released()).await;
    }
    // The first process is nobody's child any more whom its new worker could collect.
    until("neither listens any more", || sockets(&directory).is_empty()).await;
}

#[tokio::test]
async fn nothing_is_launched_in_a_jail_that_was_required_and_is_not_whole() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let settings = JailSettings { users: UserRange::default(), demand: JailDemand::Whole };
    let unknown = probe_jail(&["/bin/true".into()], settings).expect_err("it does not tell");
    assert!(matches!(unknown, JailError::Probe { .. }), "{unknown:?}");
    let whole = probe_jail(&options(&directory).program, settings).expect("this host has all layers");
    assert_eq!(whole.gaps, []);
    // The same program, which does not hear of its jail.
    let program = ["/bin/sh", "-c", concat!("exec ", env!("CARGO_BIN_EXE_vm-host"))];
    let deaf = HostProcessOptions { program: program.map(Into::into).into(), ..options(&directory) };
    let launched = within(host(deaf).launch(request("vm", &TinyGuest::spin()))).await;
    let refusal = error_chain(&launched.map(drop).expect_err("refused"));
    assert!(
        refusal.contains("a whole jail is required") && refusal.contains("says nothing of it"),
        "{refusal}"
    );
    until("the process ends", || children().is_empty()).await;
    assert_eq!(sockets(&directory), Vec::<std::path::PathBuf>::new());
}
