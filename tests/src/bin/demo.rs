//! The demonstration: the worker's main job on real input, told as it happens. `cargo xtask demo` sets it up.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it is there to be read")]

use std::collections::BTreeMap;
use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use end_to_end::{
    Assignment, BOOT_DEADLINE, Echoes, Environment, HostState, Master, MasterPlace, Metrics, ObservedVm,
    Place, SHORT_DEADLINE, Worker, http_get, ping, until,
};
use serde_json::Value;

const MEBIBYTE: u64 = 1 << 20;
/// The master's name.
const MASTER: &str = "master-1";

fn main() -> ExitCode {
    match demonstrate(&Clock(Instant::now())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("the demonstration failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says what happens and when.
struct Clock(Instant);

impl Clock {
    fn say(&self, what: impl Display) {
        println!("[{:6.1} s] {what}", self.0.elapsed().as_secs_f64());
    }
}

fn demonstrate(clock: &Clock) -> Result<()> {
    let environment = Environment::from_variables()?;
    let guest = environment.image("guest")?;
    let before = HostState::observe()?;
    clock.say(format_args!("image {} {}", guest.store_path.display(), guest.hash));

    let masters = MasterPlace::new(&environment)?;
    clock.say("procurator-master certificates … --master 127.0.0.1 --worker worker-1");
    let master = masters.start(MASTER)?;
    clock.say(format_args!("procurator-master run … is up (process {})", master.pid()));
    let place = Arc::new(Place::new(&masters.worker_settings())?);
    let worker = Worker::start_leaving(&environment, &place)?;
    clock.say(format_args!("procurator-worker run … is up (process {})", worker.pid()));
    let (first, second) = (Assignment::of(&guest, "web-1"), Assignment::of(&guest, "web-2"));
    master.desire(&[first, second.clone()])?;
    clock.say("the master is told to run: web-1, web-2");
    let vms = wait_for_both(clock, &worker)?;
    for vm in &vms {
        introduce(clock, &worker, vm)?;
    }
    let [web_1, web_2] = &vms;
    cross_the_bridge(clock, web_1, web_2)?;
    show_load(clock, &worker, web_1)?;

    show_fleet(clock, &master)?;
    let worker = replace(clock, worker, &environment, &place, &vms)?;
    master.desire(&[second])?;
    clock.say("the master is told to run: web-2");
    watch_removal(clock, &worker, web_2)?;
    end(clock, master, worker)?;
    let after = HostState::observe()?;
    ensure!(after == before, "the host was {before:?} and is {after:?}");
    clock.say(format_args!("nothing is left: interfaces {}, as before", listed(&after.interfaces)));
    Ok(())
}

/// Waits until web-1 is gone, and sees that `other` is untouched.
fn watch_removal(clock: &Clock, worker: &Worker, other: &ObservedVm) -> Result<()> {
    worker.wait_until_gone("web-1")?;
    let taps = HostState::taps()?;
    ensure!(taps == other.tap.clone().into_iter().collect(), "TAP interfaces are {taps:?}");
    clock.say(format_args!("web-1 is gone, and its TAP; still there: {}", listed(&taps)));
    let round_trip = ping(other.address()?)?;
    let untouched = worker.vm(&other.id)?;
    ensure!(untouched.restarts == 0, "{} was started again", untouched.id);
    clock.say(format_args!("{} is untouched: {}, ping {round_trip:.1?}", untouched.id, untouched.phase));
    Ok(())
}

/// Ends both programs. The worker does not need its master to stop its guests.
fn end(clock: &Clock, master: Master<'_>, worker: Worker) -> Result<()> {
    clock.say("SIGKILL to the master, SIGTERM to the worker");
    master.kill()?;
    let ended = worker.terminate()?;
    ensure!(ended.status.success(), "the worker ended with {}", ended.status);
    clock.say(format_args!("the worker ended after {:.1?}; the last it said of web-2:", ended.after));
    let log: Vec<String> = ended.log_of("web-2")?.iter().map(|line| without_context(line)).collect();
    print_last_lines(&log.join("\n"), 3);
    Ok(())
}

/// What the master knows, once it has heard of both VMs.
fn show_fleet(clock: &Clock, master: &Master<'_>) -> Result<()> {
    until("the master has heard of both", SHORT_DEADLINE, || {
        for id in ["web-1", "web-2"] {
            let vm = master.vm(id)?;
            ensure!(vm["phase"] == "running", "{vm}");
        }
        Ok(())
    })?;
    clock.say("procurator-master ls:");
    print_last_lines(&master.ask(&["ls"])?, 3);
    Ok(())
}

/// Kills the worker and starts another, and shows that no guest noticed.
fn replace(
    clock: &Clock,
    worker: Worker,
    environment: &Environment,
    place: &Arc<Place>,
    vms: &[ObservedVm],
) -> Result<Worker> {
    let echoes = vms.iter().map(|vm| Ok((vm, Echoes::of(vm.address()?)))).collect::<Result<Vec<_>>>()?;
    clock.say("SIGKILL to the worker");
    worker.kill()?;
    let worker = Worker::start_at(environment, place)?;
    clock.say(format_args!("another worker is up (process {})", worker.pid()));
    for (before, echoes) in echoes {
        let (now, heard) = (worker.vm(&before.id)?, echoes.stop()?);
        ensure!(now.started_at == before.started_at && now.phase == "running", "{}", now.state());
        ensure!(heard.lost == 0, "{} did not answer all the time: {heard:?}", now.id);
        let gap = heard.longest_gap;
        clock.say(format_args!(
            "{} is {} as before: {} echoes, none lost, at most {gap:.1?} apart",
            now.id, now.phase, heard.answered
        ));
    }
    Ok(worker)
}

/// Tells each change of phase until both guests answer.
fn wait_for_both(clock: &Clock, worker: &Worker) -> Result<[ObservedVm; 2]> {
    let mut phases: BTreeMap<String, String> = BTreeMap::new();
    until("both VMs run", BOOT_DEADLINE, || {
        let vms = worker.vms()?;
        for vm in &vms {
            if phases.insert(vm.id.clone(), vm.phase.clone()).as_ref() != Some(&vm.phase) {
                clock.say(vm.state());
            }
        }
        ensure!(vms.len() == 2 && vms.iter().all(|vm| vm.phase == "running"), "not yet");
        Ok(())
    })?;
    let answer = |id| {
        let vm = worker.wait_until_answering(id)?;
        clock.say(format_args!("{id} answers"));
        Ok::<_, anyhow::Error>(vm)
    };
    Ok([answer("web-1")?, answer("web-2")?])
}

/// What there is to know of one VM.
fn introduce(clock: &Clock, worker: &Worker, vm: &ObservedVm) -> Result<()> {
    let (mac, tap) = (vm.mac.as_deref().unwrap_or("?"), vm.tap.as_deref().unwrap_or("?"));
    clock.say(format_args!("{}: address {}, MAC {mac}, TAP {tap}", vm.id, vm.address()?));
    let timings: Vec<String> = vm.timings.iter().map(|(step, time)| format!("{step} {time}")).collect();
    println!("           start: {}", timings.join(", "));
    let facts = http_get(vm.address()?, "/cgi-bin/facts")?;
    for fact in String::from_utf8_lossy(&facts).lines() {
        println!("           {fact}");
    }
    println!("           last console lines:");
    print_last_lines(&worker.console_of(&vm.id)?, 3);
    Ok(())
}

/// From the host to a guest, and from one guest to the other.
fn cross_the_bridge(clock: &Clock, from: &ObservedVm, to: &ObservedVm) -> Result<()> {
    for vm in [from, to] {
        let round_trip = ping(vm.address()?)?;
        let asked = Instant::now();
        let page = http_get(vm.address()?, "/")?;
        let page = String::from_utf8_lossy(&page);
        clock.say(format_args!(
            "host → {}: ping {round_trip:.1?}, HTTP {:.1?}: {}",
            vm.id,
            asked.elapsed(),
            page.trim()
        ));
    }
    let page = http_get(from.address()?, &format!("/cgi-bin/fetch?{}", to.address()?))?;
    clock.say(format_args!("{} → {}: HTTP: {}", from.id, to.id, String::from_utf8_lossy(&page).trim()));
    Ok(())
}

/// Figures before and under load.
fn show_load(clock: &Clock, worker: &Worker, vm: &ObservedVm) -> Result<()> {
    let idle = until("figures", SHORT_DEADLINE, || worker.vm(&vm.id)?.metrics().cloned())?;
    clock.say(format_args!("{} idle: {}", vm.id, figures(&idle)));
    let address = vm.address()?;
    clock.say("load: 2 MiB over the network, 8 MiB to the disk and back, 32 MiB of checksums");
    let load = thread::spawn(move || -> Result<()> {
        for path in ["/megabyte", "/cgi-bin/disk?8", "/megabyte", "/cgi-bin/compute?32"] {
            http_get(address, path)?;
        }
        Ok(())
    });
    let busy = until("the load shows", BOOT_DEADLINE, || {
        let now = worker.vm(&vm.id)?.metrics()?.clone();
        ensure!(now.network_tx_bytes >= idle.network_tx_bytes + 2 * MEBIBYTE, "{now:?}");
        ensure!(now.disk_read_bytes >= idle.disk_read_bytes + 8 * MEBIBYTE, "{now:?}");
        ensure!(now.disk_write_bytes >= idle.disk_write_bytes + 8 * MEBIBYTE, "{now:?}");
        Ok(now)
    })?;
    clock.say(format_args!("{} busy: {}", vm.id, figures(&busy)));
    load.join().ok().context("the load's thread panicked")?
}

fn figures(metrics: &Metrics) -> String {
    let kib = |bytes: u64| bytes / 1024;
    format!(
        "CPU {:.0} %, memory {} of {} MiB, network in {} out {} KiB, disk read {} written {} KiB",
        metrics.cpu_percent,
        metrics.memory_mb,
        metrics.memory_size_bytes / MEBIBYTE,
        kib(metrics.network_rx_bytes),
        kib(metrics.network_tx_bytes),
        kib(metrics.disk_read_bytes),
        kib(metrics.disk_write_bytes),
    )
}

/// The message of a line of the worker's log, and how a machine ended.
fn without_context(line: &str) -> String {
    let entry: Value = serde_json::from_str(line).unwrap_or_default();
    let field = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    format!("{} {}", field("message"), field("exit"))
}

fn listed<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    names.join(", ")
}

fn print_last_lines(text: &str, count: usize) {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    for line in &lines[lines.len().saturating_sub(count)..] {
        println!("             | {line}");
    }
}
