//! What keeps the threads of a real host process to their system calls, and what a process says that a signal ends.
#![expect(unsafe_code, reason = "a thread is made to do what nobody wrote by ptrace, which no crate wraps")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ptr;

use host_process::HostProcesses;
use machine_host::{CallFilter, MachineHandle, MachineHost, StopPolicy};
use rustix::process::Signal;
use tiny_guest::TinyGuest;
use vm_model::{DiskAccess, DiskFormat, DiskOptions, DiskSpec, MachineExit, VcpuAffinity};

use support::{
    PATIENCE, anyone, children, directory, file_with, has_kvm, host, launch, options, request, signal, until,
    within,
};

/// The threads of a process with one machine.
const NAMES: [&str; 7] = ["image", "main", "vcpu0:web-1", "vm-console", "vm-reaper", "vm-watch", "vm:web-1"];
/// What the threads of a filtered process have, but for the first: the process' filter and their own.
const FILTERS: u32 = 2;
/// The signal that kicks vCPUs out of their guests: the first one that the C library does not keep for itself.
const SIGRTMIN: u32 = 34;
/// `Seccomp:` of a thread that filters keep (proc_pid_status(5)).
const FILTERED: &str = "2";

/// The threads of a process by name, with their ids, without the one that KVM itself runs for a machine.
fn threads(process: u32) -> BTreeMap<String, i32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("it is there");
    let ids = tasks.map(|task| task.expect("an entry").file_name().into_string().expect("a number"));
    let named = ids.filter_map(|id| {
        // One that ends meanwhile is none.
        let name = fs::read_to_string(format!("/proc/{process}/task/{id}/comm")).ok()?;
        let is_main = id == process.to_string();
        let name = if is_main { "main".to_owned() } else { name.trim_end().to_owned() };
        Some((name, id.parse().expect("a number")))
    });
    named.filter(|(name, _)| !name.starts_with("kvm-")).collect()
}

/// The threads of a process with the machine of [`launch_with_disk`], once each has its name and `filters` at least: a thread
/// gives itself both when it begins, which may be after a machine runs.
async fn settled_threads(process: u32, filters: u32) -> BTreeMap<String, i32> {
    until("every thread has its name and filters", || {
        let threads = threads(process);
        let count = |thread| field(process, thread, "Seccomp_filters").parse::<u32>().expect("a number");
        // These are started by the machine's thread, or are that, and have its filter beside their own.
        let more =
            |name: &str| u32::from(filters > 0 && ["image", "vcpu0:web-1", "vm:web-1"].contains(&name));
        let has_filters =
            |(name, thread): (&String, &i32)| name == "main" || count(*thread) >= filters + more(name);
        threads.keys().eq(NAMES.iter()) && threads.iter().all(has_filters)
    })
    .await;
    threads(process)
}

fn field(process: u32, thread: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/task/{thread}/status")).expect("it is there");
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.expect("the kernel tells").trim().to_owned()
}

/// Has `thread` make the system call `number` with arguments of zero next, as code would that an attacker controls: it is
/// stopped within a call that waits, and sent back to the instruction that made that call.
fn have_called(thread: i32, number: i64) {
    let traced = |result: i64| assert!(result >= 0, "ptrace: {}", io::Error::last_os_error());
    // SAFETY: no memory of this process is touched.
    traced(unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, 0, 0) });
    // SAFETY: as above.
    traced(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, thread, 0, 0) });
    // SAFETY: the status is not wanted.
    traced(i64::from(unsafe { libc::waitpid(thread, ptr::null_mut(), libc::__WALL) }));
    // SAFETY: the structure is made of integers, for which zero is a valid value.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes to a live structure of this very kind.
    traced(unsafe { libc::ptrace(libc::PTRACE_GETREGS, thread, 0, &raw mut registers) });
    // `syscall` has two bytes; it stands before where the thread would go on.
    registers.rip -= 2;
    registers.rax = number.cast_unsigned();
    // No call that was interrupted is made again.
    registers.orig_rax = u64::MAX;
    (registers.rdi, registers.rsi, registers.rdx) = (0, 0, 0);
    // SAFETY: the kernel reads from a live structure of this very kind.
    traced(unsafe { libc::ptrace(libc::PTRACE_SETREGS, thread, 0, &raw const registers) });
    // SAFETY: no memory of this process is touched.
    traced(unsafe { libc::ptrace(libc::PTRACE_DETACH, thread, 0, 0) });
}

/// An empty image of 1 MiB, which has a thread of its own where a raw one may have a ring: header, mapping, table and block of
/// reference counts, in a cluster each.
fn image() -> Vec<u8> {
    const CLUSTER: usize = 1 << 16;
    let mut image = vec![0; 4 * CLUSTER];
    let mut put = |offset: usize, bytes: &[u8]| image[offset..][..bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3_u32.to_be_bytes());
    put(20, &16_u32.to_be_bytes());
    put(24, &(1_u64 << 20).to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &(CLUSTER as u64).to_be_bytes());
    put(48, &(2 * CLUSTER as u64).to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(96, &4_u32.to_be_bytes());
    put(100, &104_u32.to_be_bytes());
    put(2 * CLUSTER, &(3 * CLUSTER as u64).to_be_bytes());
    for cluster in 0..4 {
        put(3 * CLUSTER + 2 * cluster, &1_u16.to_be_bytes());
    }
    image
}

/// A host CPU that this process may use.
fn some_cpu() -> u16 {
    let usable = rustix::thread::sched_getaffinity(None).expect("the kernel tells");
    let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| usable.is_set(*cpu)).expect("one at least");
    u16::try_from(first).expect("a small number")
}

/// A machine that has a thread of each kind that lasts, and whose vCPU is kept to a host CPU.
async fn launch_with_disk(host: &HostProcesses) -> MachineHandle {
    let mut request = request("web-1", &TinyGuest::echo());
    request.spec.cpus.affinity = vec![VcpuAffinity { vcpu: 0, host_cpus: vec![some_cpu()] }];
    let disk = |id: &str, content: &[u8], format, access| DiskSpec {
        direct_file: None,
        id: id.to_owned(),
        file: file_with(content),
        format,
        access,
        serial: None,
        queue_size: 128,
        options: DiskOptions::default(),
    };
    request.spec.disks = vec![
        disk("ring", &[0; 4096], DiskFormat::Raw, DiskAccess::ReadWrite),
        disk("image", &image(), DiskFormat::Qcow2, DiskAccess::ReadOnly),
    ];
    within(host.launch(request)).await.expect("the machine launches")
}

#[tokio::test]
async fn every_thread_is_kept_to_its_calls() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let machine = launch_with_disk(&host).await;
    let process = children().into_iter().next().expect("its process");
    let threads = settled_threads(process, FILTERS).await;
    assert_eq!(host.counts().unfiltered, 0);
    // The process' filter lies on each; beside it a thread has its own, and that of whoever started it or of what it was.
    for (thread, filters) in [("main", 1), ("vm-watch", 2), ("vm:web-1", 3), ("vcpu0:web-1", 3), ("image", 3)]
    {
        let of = |name| field(process, threads[thread], name);
        until(thread, || of("Seccomp_filters") == filters.to_string()).await;
        assert_eq!(of("Seccomp"), FILTERED, "{thread}");
        assert_eq!(of("NoNewPrivs"), "1", "{thread}");
    }
    let cpus = field(process, threads["vcpu0:web-1"], "Cpus_allowed_list");
    assert_eq!(cpus, some_cpu().to_string(), "it could say where it is to run");
    within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    within(host.shut_down(PATIENCE / 2)).await;
}

#[tokio::test]
async fn signals_to_the_process_are_for_its_first_thread() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let machine = launch_with_disk(&host).await;
    let process = children().into_iter().next().expect("its process");
    for (name, thread) in settled_threads(process, FILTERS).await {
        let blocked = u64::from_str_radix(&field(process, thread, "SigBlk"), 16).expect("a number");
        let is_blocked = |signal: Signal| blocked & 1 << (signal.as_raw() - 1) != 0;
        for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::USR1, Signal::PIPE, Signal::XFSZ] {
            assert_eq!(is_blocked(signal), name != "main", "{name}: {signal:?}");
        }
        // What faults raise, or last words would go unsaid; and what kicks vCPUs.
        for signal in [Signal::SYS, Signal::BUS, Signal::SEGV, Signal::ABORT, Signal::ILL, Signal::FPE] {
            assert!(!is_blocked(signal), "{name}: {signal:?}");
        }
        assert_eq!(blocked >> (SIGRTMIN - 1) & 1, 0, "{name}");
    }
    for _ in 0..100 {
        signal(process, Signal::HUP);
    }
    within(machine.pause()).await.expect("it is well");
    within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    within(host.shut_down(PATIENCE / 2)).await;
}

#[tokio::test]
async fn a_forbidden_call_ends_the_process_and_is_told() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let sibling = launch(&host, "sibling", &TinyGuest::echo()).await;
    let before = children();
    for (thread, who) in [
        ("main", "the main thread"),
        ("vm:web-1", "the event-loop thread vm:web-1 of web-1"),
        ("vcpu0:web-1", "the vCPU thread vcpu0:web-1 of web-1"),
        ("image", "the disk thread image"),
        ("vm-console", "the console thread vm-console"),
        ("vm-watch", "the watch thread vm-watch"),
        ("vm-reaper", "the reaper thread vm-reaper"),
    ] {
        let machine = launch_with_disk(&host).await;
        let process = *children().difference(&before).next().expect("its process");
        have_called(settled_threads(process, FILTERS).await[thread], libc::SYS_ptrace);
        let exit = within(machine.exited()).await;
        let MachineExit::HostLost(reason) = exit else { panic!("{thread}: {exit:?}") };
        let words = format!("was killed by SIGSYS: {who}");
        assert!(reason.contains(&words), "{reason:?} lacks {words:?}");
        assert!(
            reason.ends_with(" made the system call ptrace (101), which its filter does not allow"),
            "{reason}"
        );
        within(machine.released()).await;
        drop(machine);
        until("the process is collected", || children() == before).await;
    }
    within(sibling.pause()).await.expect("it is well");
    within(host.shut_down(PATIENCE / 2)).await;
}

#[tokio::test]
async fn a_machine_that_is_rebuilt_is_kept_to_its_calls_like_the_first() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let machine = launch_with_disk(&host).await;
    let process = children().into_iter().next().expect("its process");
    let mut before = settled_threads(process, FILTERS).await["vm:web-1"];
    for _ in 0..3 {
        within(machine.reset()).await.expect("the button works");
        // Started by the reaper, it has that one's filter, too, and no more than that after any number of resets.
        until("another thread serves it, with filters", || {
            let threads = threads(process);
            let Some(thread) = threads.get("vm:web-1").filter(|thread| **thread != before) else {
                return false;
            };
            threads.len() == NAMES.len() && field(process, *thread, "Seccomp_filters") == "4"
        })
        .await;
        before = threads(process)["vm:web-1"];
    }
    have_called(before, libc::SYS_memfd_create);
    let exit = within(machine.exited()).await;
    let MachineExit::HostLost(reason) = exit else { panic!("{exit:?}") };
    assert!(
        reason.ends_with(
            "the event-loop thread vm:web-1 of web-1 made the system call memfd_create (319), which its filter does not \
             allow"
        ),
        "{reason}"
    );
    within(machine.released()).await;
    within(host.shut_down(PATIENCE / 2)).await;
}

#[tokio::test]
async fn without_filters_a_process_ends_of_nothing_it_calls() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let mut options = options(&directory);
    options.program.push("--seccomp=off".into());
    let host = host(options);
    let machine = launch_with_disk(&host).await;
    let process = children().into_iter().next().expect("its process");
    let vcpu = settled_threads(process, 0).await["vcpu0:web-1"];
    assert_eq!(field(process, vcpu, "Seccomp"), "0");
    assert_eq!(host.counts().unfiltered, 0, "none was to be filtered");
    within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    within(host.shut_down(PATIENCE / 2)).await;
}

#[tokio::test]
async fn a_process_that_logs_counts_where_filtering_is_asked_for() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let mut logging = options(&directory);
    logging.program.push("--seccomp=log".into());
    let earlier = host(logging);
    let machine = launch(&earlier, "old", &TinyGuest::spin()).await;
    let process = earlier.process_of(machine.id()).expect("its process");
    assert_eq!((process.filter, children().contains(&process.pid)), (CallFilter::Log, true));
    assert_eq!(earlier.counts().unfiltered, 0, "that is what was asked for");
    earlier.leave();
    drop((machine, earlier));
    let host = host(options(&directory));
    let mut adoption = within(host.adopt(anyone())).await;
    let new = launch(&host, "new", &TinyGuest::spin()).await;
    let filter = |machine: &MachineHandle| host.process_of(machine.id()).expect("its process").filter;
    let old = adoption.machines.remove(0).handle;
    assert_eq!(
        (filter(&old), filter(&new), host.counts().unfiltered),
        (CallFilter::Log, CallFilter::Trap, 1)
    );
    for machine in [old, new] {
        within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
        within(machine.released()).await;
    }
    within(host.shut_down(PATIENCE / 2)).await;
}

/// Each process is the first of its PID namespace, which no signal ends that its own handler sends.
#[tokio::test]
async fn a_fault_is_told_with_its_signal() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    for (number, name) in [
        (Signal::BUS, "SIGBUS"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::ILL, "SIGILL"),
        (Signal::FPE, "SIGFPE"),
        (Signal::SYS, "SIGSYS"),
        (Signal::ABORT, "SIGABRT"),
    ] {
        let machine = launch_with_disk(&host).await;
        let process = children().into_iter().next().expect("its process");
        signal(process, number);
        let exit = within(machine.exited()).await;
        let MachineExit::HostLost(reason) = exit else { panic!("{exit:?}") };
        // Which thread has to take a signal to the process is the kernel's choice.
        let ended = format!("its host process {process} was killed by {name}: the ");
        assert!(reason.starts_with(&ended), "{reason:?} does not start with {ended:?}");
        let cause = format!("was sent {name} by a process outside of its PID namespace");
        assert!(reason.contains(&cause), "{reason:?} lacks {cause:?}");
        within(machine.released()).await;
        drop(machine);
        until("the process is collected", || children().is_empty()).await;
    }
    within(host.shut_down(PATIENCE / 2)).await;
}
