//! Limits on a real hierarchy of control groups: what they hold, what becomes of who exceeds them, and that nothing is left.

#![expect(clippy::print_stdout, reason = "what was taken tells how much was tried")]

mod crowd;

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use end_to_end::{
    Assignment, BOOT_DEADLINE, ControlGroup, Echoes, ObservedVm, Place, SHORT_DEADLINE, Worker,
    host_process_of, http_get, until,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::environment;

const MEBIBYTE: u64 = 1 << 20;

/// Has every processor of a guest busy from now on.
fn burn(vm: &ObservedVm) -> Result<()> {
    http_get(vm.address()?, "/cgi-bin/burn").map(drop)
}

/// Waits until no VM has a control group, and there is none for all of them.
fn nothing_is_left() -> Result<()> {
    until("no control group is left", SHORT_DEADLINE, || {
        let left = ControlGroup::of_all_vms()?;
        ensure!(left.is_empty() && !ControlGroup::of_vms().path().exists(), "{left:?}");
        Ok(())
    })
}

/// Too few threads are refused before anything changes, with how many it takes; with so many the guest uses its disk.
fn has_as_few_threads_as_are_accepted(worker: &Worker, web: &ObservedVm) -> Result<()> {
    let refusal = |words: &[&str]| {
        let refused = worker.ask(words).err().context("eight threads are too few")?;
        let least = refused
            .to_string()
            .rsplit_once("accepted is ")
            .and_then(|(_, told)| told.split(' ').next().map(str::to_owned));
        least.with_context(|| format!("no figure: {refused}"))
    };
    let least = refusal(&["set", "web", "--processes", "8", "--dry-run"])?;
    assert_eq!(refusal(&["set", "web", "--processes", "8"])?, least);
    let group = ControlGroup::of("web")?;
    group.says(&[("pids.max", "64")])?;
    worker.ask(&["set", "web", "--processes", &least])?;
    until("as few as possible are in force", SHORT_DEADLINE, || group.says(&[("pids.max", &least)]))?;
    http_get(web.address()?, "/cgi-bin/disk?8")?;
    println!("{} threads of {least} after it used its disk", group.read("pids.current")?);
    Ok(())
}

fn is_gone(group: &ControlGroup) -> Result<()> {
    until("a control group is gone", SHORT_DEADLINE, || {
        ensure!(!group.path().exists(), "{} is left", group.path().display());
        Ok(())
    })
}

fn kill_process_of(id: &str) -> Result<()> {
    let process = host_process_of(id)?.with_context(|| format!("{id} has no host process"))?;
    kill_process(Pid::from_raw(process).context("a process id")?, Signal::KILL).context("cannot kill it")
}

#[test]
fn limits_hold_change_while_a_guest_runs_and_leave_nothing() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let worker = Worker::start_with(&environment, "removal_grace_seconds = 0\nspare_host_processes = 1\n")?;
    let path = guest.store_path.to_str().context("a path is text")?;
    let limits = ["--cpu-weight", "300", "--memory-max", "256M", "--processes", "64", "--descriptors", "400"];
    let told = worker.ask(&[&["create", "web", path, "--no-wait"], &limits[..]].concat())?;
    assert!(!told.contains("not limited") && !told.contains("not enforced"), "{told}");
    let web = worker.wait_until_answering("web")?;
    assert!(web.warnings.iter().all(|warning| !warning.contains("limit")), "{:?}", web.warnings);
    let group = ControlGroup::of("web")?;
    group.says(&[
        ("cpu.max", "max 100000"),
        ("cpu.weight", "300"),
        ("memory.max", "268435456"),
        ("memory.oom.group", "1"),
        ("pids.max", "64"),
    ])?;
    // It was in its group before its guest had any memory.
    let resident = until("its memory is known", SHORT_DEADLINE, || {
        Ok(worker.vm("web")?.metrics()?.memory_resident_bytes)
    })?;
    let charged = group.figure("memory.stat", "shmem")? + group.figure("memory.stat", "anon")?;
    assert!(charged + MEBIBYTE >= resident, "{charged} bytes are charged of {resident}");

    has_as_few_threads_as_are_accepted(&worker, &web)?;
    burn(&web)?;
    worker.ask(&["set", "web", "--cpu", "0.5", "--cpu-weight", "default", "--processes", "100"])?;
    until("its limits are in force", SHORT_DEADLINE, || {
        group.says(&[("cpu.max", "50000 100000"), ("cpu.weight", "100"), ("pids.max", "100")])
    })?;
    group.takes_its_quota(500)?;
    worker.ask(&["set", "web", "--cpu", "0.25"])?;
    until("less is in force", SHORT_DEADLINE, || group.says(&[("cpu.max", "25000 100000")]))?;
    group.takes_its_quota(250)?;

    let again = worker.vm("web")?;
    assert_eq!((again.started_at, again.restarts), (web.started_at, 0), "no limit took a restart");
    worker.ask(&["rm", "web", "--no-wait"])?;
    worker.wait_until_gone("web")?;
    is_gone(&group)?;
    assert!(worker.terminate()?.status.success());
    nothing_is_left()
}

#[test]
fn a_vm_that_outgrows_its_memory_is_ended_alone_and_started_again() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let worker = Worker::start(&environment)?;
    let greedy = Assignment::of(&guest, "greedy")
        .with_memory(256 * MEBIBYTE)
        .with_procurator("limits", json!({ "memory_max": 160 * MEBIBYTE }));
    worker.assign(&[greedy, Assignment::of(&guest, "sibling")])?;
    let (greedy, sibling) = (worker.wait_until_answering("greedy")?, worker.wait_until_answering("sibling")?);
    assert!(
        greedy.warnings.iter().any(|warning| warning.contains("memory_max is 160 MiB")),
        "{:?}",
        greedy.warnings
    );
    let group = ControlGroup::of("greedy")?;
    let echoes = Echoes::of(sibling.address()?);
    // It does not live to answer.
    let filled = http_get(greedy.address()?, "/cgi-bin/fill?200");
    assert!(filled.is_err(), "it has 200 MiB of 160");
    let again = until("it is started again", BOOT_DEADLINE, || {
        let vm = worker.vm("greedy")?;
        ensure!(vm.phase == "running" && vm.restarts == 1, "{}", vm.state());
        Ok(vm)
    })?;
    let reason = again.reason.context("it is told what it ended of")?;
    assert!(reason.message.contains("at its memory limit of 160 MiB"), "{}", reason.message);
    assert_eq!(reason.class.as_deref(), Some("memory_limit"), "{reason:?}");
    worker.wait_until_answering("greedy")?;
    let group_again = ControlGroup::of("greedy")?;
    group_again.says(&[("memory.max", "167772160")])?;
    assert!(group_again == group || !group.path().exists(), "the group of its last process is left");
    let heard = echoes.stop()?;
    assert_eq!(heard.lost, 0, "the other guest noticed: {heard:?}");
    assert_eq!(worker.vm("sibling")?.started_at, sibling.started_at);
    assert!(worker.terminate()?.status.success());
    nothing_is_left()
}

#[test]
#[ignore = "full: boots twice"]
fn nothing_is_left_of_processes_that_end_without_a_worker() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let place = Arc::new(Place::new("removal_grace_seconds = 0\nspare_host_processes = 0\n")?);
    let worker = Worker::start_leaving(&environment, &place)?;
    let limits = json!({ "memory_max": 256 * MEBIBYTE, "cpu_weight": 50 });
    worker.assign(&[
        Assignment::of(&guest, "killed").with_procurator("limits", limits.clone()),
        Assignment::of(&guest, "stays").with_procurator("limits", limits),
    ])?;
    worker.wait_until_answering("killed")?;
    let stays = worker.wait_until_answering("stays")?;
    let (killed, kept) = (ControlGroup::of("killed")?, ControlGroup::of("stays")?);
    worker.kill()?;
    kill_process_of("killed")?;
    let worker = Worker::start_at(&environment, &place)?;
    is_gone(&killed)?;
    assert_eq!(worker.vm("stays")?.started_at, stays.started_at);
    assert_eq!(ControlGroup::of("stays")?, kept);
    // What was taken over is limited anew as well.
    kept.says(&[("cpu.weight", "50"), ("memory.max", "268435456")])?;
    worker
        .assign(&[Assignment::of(&guest, "stays").with_procurator("limits", json!({ "cpu_weight": 60 }))])?;
    until("what was taken over is limited anew", SHORT_DEADLINE, || {
        kept.says(&[("cpu.weight", "60"), ("memory.max", "max")])
    })?;
    worker.wait_until_gone("killed")?;
    assert!(worker.terminate()?.status.success());
    nothing_is_left()
}

#[test]
#[ignore = "full: minutes of load"]
fn neighbours_keep_their_share_whatever_another_does() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let worker = Worker::start_with(&environment, "spare_host_processes = 0\n")?;
    let weighted = |id: &str, weight: u64| {
        Assignment::of(&guest, id).with_procurator("limits", json!({ "cpu_weight": weight }))
    };
    worker.assign(&[weighted("heavy", 200), weighted("light", 100), weighted("noisy", 100)])?;
    let vms = ["heavy", "light", "noisy"];
    let vms: Vec<ObservedVm> = vms.iter().map(|id| worker.wait_until_answering(id)).collect::<Result<_>>()?;
    let groups: Vec<_> = vms.iter().map(|vm| ControlGroup::of(&vm.id)).collect::<Result<_>>()?;
    vms[..2].iter().try_for_each(burn)?;
    burn(&vms[2])?;
    keep_shares(&groups, "one burns")?;
    let address = vms[2].address()?;
    std::thread::scope(|scope| {
        let filling = scope.spawn(|| http_get(address, "/cgi-bin/fill?48"));
        let kept = keep_shares(&groups, "one allocates");
        // Its guest may be too slow to tell.
        drop(filling.join().expect("no panic"));
        kept
    })?;
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| http_get(address, "/cgi-bin/disk?8"));
        let kept = keep_shares(&groups, "one floods its disk");
        drop(flooding.join().expect("no panic"));
        kept
    })?;
    for (what, flood) in [
        ("one floods its console", "/cgi-bin/flood?console"),
        ("one floods its console and its network", "/cgi-bin/flood?network"),
    ] {
        http_get(address, flood)?;
        keep_shares(&groups, what)?;
    }
    assert!(worker.terminate()?.status.success());
    nothing_is_left()
}

/// Fails unless the first of `groups`, of weights 2, 1 and 1, has at least half of what all take, and the second at least a
/// quarter, give or take a tenth of it.
fn keep_shares(groups: &[ControlGroup], what: &str) -> Result<()> {
    const WINDOW_MICROSECONDS: u64 = 8_000_000;
    let used =
        || groups.iter().map(|group| group.figure("cpu.stat", "usage_usec")).collect::<Result<Vec<_>>>();
    let before = used()?;
    let taken = until("processor time is taken", BOOT_DEADLINE, || {
        let taken: Vec<u64> = used()?.iter().zip(&before).map(|(now, before)| now - before).collect();
        ensure!(taken.iter().sum::<u64>() >= WINDOW_MICROSECONDS, "{taken:?} µs");
        Ok(taken)
    })?;
    let all: u64 = taken.iter().sum();
    println!("while {what}: {taken:?} µs of {all} µs");
    for (taken, part) in taken.iter().zip([2, 4]) {
        ensure!(
            taken * 10 * part >= all * 9,
            "{what}: {taken} µs of {all} µs, a part in {part} is its share"
        );
    }
    Ok(())
}

#[test]
#[ignore = "full: a boot on a slow disk"]
fn a_disk_of_the_host_is_written_no_faster_than_is_allowed() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let place = Arc::new(Place::new("removal_grace_seconds = 0\n")?.with_state_at("/kept/limits".as_ref())?);
    let worker = Worker::start_at(&environment, &place)?;
    worker.assign(&[Assignment::of(&guest, "writes")])?;
    let vm = worker.wait_until_answering("writes")?;
    let group = ControlGroup::of("writes")?;
    let limited =
        Assignment::of(&guest, "writes").with_procurator("limits", json!({ "io_write_bytes": MEBIBYTE }));
    worker.assign(&[limited])?;
    until("its disk is limited", SHORT_DEADLINE, || {
        let found = group.read("io.max")?;
        ensure!(found.ends_with("rbps=max wbps=1048576 riops=max wiops=max"), "io.max says {found:?}");
        Ok(())
    })?;
    // Nothing is counted yet where there is no such figure.
    let written = || group.figure("io.stat", "wbytes").unwrap_or(0);
    let address = vm.address()?;
    // What is written by way of the page cache is counted to whoever the kernel holds to be the file's owner. At first that is
    // the worker, which made the disk; the kernel notices while the VM writes.
    until("the disk's writes are counted as the VM's", BOOT_DEADLINE, || {
        let before = written();
        http_get(address, "/cgi-bin/disk?8")?;
        let counted = written() - before;
        ensure!(counted >= 8 * MEBIBYTE, "{counted} bytes are, of 8 MiB");
        Ok(())
    })?;
    is_held_to_a_mebibyte_a_second(address, &group)?;
    assert!(worker.terminate()?.status.success());
    nothing_is_left()
}

/// Unlike one of the page cache, whose first writes are counted to the worker.
#[test]
#[ignore = "full: a boot on a slow disk"]
fn a_disk_past_the_cache_is_held_to_its_limit_from_the_first_write() -> Result<()> {
    let environment = environment();
    let direct = environment.image("direct")?;
    let place = Arc::new(Place::new("removal_grace_seconds = 0\n")?.with_state_at("/kept/direct".as_ref())?);
    let worker = Worker::start_at(&environment, &place)?;
    let limits = json!({ "io_write_bytes": MEBIBYTE });
    worker.assign(&[Assignment::of(&direct, "direct").with_procurator("limits", limits)])?;
    let vm = worker.wait_until_answering("direct")?;
    is_held_to_a_mebibyte_a_second(vm.address()?, &ControlGroup::of("direct")?)?;
    assert!(worker.terminate()?.status.success());
    nothing_is_left()
}

/// Has a guest write 8 MiB, and fails unless its `group` is counted them, at no more than a MiB a second.
fn is_held_to_a_mebibyte_a_second(address: Ipv4Addr, group: &ControlGroup) -> Result<()> {
    let clock = || fs::read_to_string("/proc/uptime").context("the host has no clock");
    let written = || group.figure("io.stat", "wbytes").unwrap_or(0);
    let (before, begun) = (written(), seconds(&clock()?)?);
    http_get(address, "/cgi-bin/disk?8")?;
    let (after, ended) = (written(), seconds(&clock()?)?);
    let (taken, allowed) = (after - before, (ended - begun) * 1_048_576.0);
    println!("{taken} bytes written in {:.1} s", ended - begun);
    ensure!(taken >= 8 * MEBIBYTE, "{taken} bytes are counted of 8 MiB that were written");
    #[expect(clippy::cast_precision_loss, reason = "a comparison with a tenth of room")]
    let is_held = taken as f64 <= allowed * 1.1;
    ensure!(is_held, "{taken} bytes, {allowed} are allowed");
    Ok(())
}

fn seconds(uptime: &str) -> Result<f64> {
    uptime.split(' ').next().context("no time")?.parse().context("no number")
}

#[test]
#[ignore = "full: a boot"]
fn what_the_kernel_does_for_a_vm_is_counted_as_its_own() -> Result<()> {
    let environment = environment();
    let image = environment.image("everything")?;
    let worker = Worker::start_with(&environment, "[network]\nvhost_net = true\n")?;
    worker.assign(&[
        Assignment::of(&image, "served").with_procurator("limits", json!({ "cpu_weight": 100 }))
    ])?;
    worker.wait_until_answering("served")?;
    let process = host_process_of("served")?.context("it has a process")?;
    let group = ControlGroup::of_process(process)?;
    // Its own threads, with those of io_uring, which are threads of it.
    let own = names_in(&format!("/proc/{process}/task"))?;
    let grouped: BTreeSet<String> = group.read("cgroup.threads")?.lines().map(str::to_owned).collect();
    ensure!(own.is_subset(&grouped), "{own:?} are not all among {grouped:?}");
    // The kernel names its threads for vhost by the one that asked for them.
    let mut kernel_threads = 0;
    for pid in names_in("/proc")?.iter().filter_map(|name| name.parse().ok()) {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.trim_end().strip_prefix("vhost-").is_some_and(|asker| own.contains(asker)) {
            kernel_threads += 1;
            assert_eq!(ControlGroup::of_process(pid)?, group, "{name}");
        }
    }
    ensure!(kernel_threads > 0, "the kernel has no thread for it");
    assert!(worker.terminate()?.status.success());
    nothing_is_left()
}

fn names_in(directory: &str) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {directory}"))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}
