//! The program, and host processes, killed at random moments of changing work.
//!
//! `PROCURATOR_KILL_SEED` repeats a run, as far as the host's timing allows; `PROCURATOR_KILL_ROUNDS` makes it longer.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use test_host::Artifact;
use tiny_guest::TinyGuest;

use super::scene::{Placement, Removal, Wanted, assign, configure, converge, entry, mark, marked};
use crate::bench::{Bench, host_processes, isolated, links};

const ROUNDS: u64 = 50;
/// After so many rounds everything has to be in order; then it goes on.
const CHECKED_EVERY: u64 = 17;
const VMS: u64 = 6;
/// Longest time between a start and a change of the work, in milliseconds, and between that and a kill. A start of the program
/// takes a hundred or two.
const LONGEST: [u64; 2] = [300, 80];

/// SplitMix64: small, and enough to choose moments.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % bound
    }
}

/// What is wanted of one VM.
#[derive(Clone, Debug)]
struct Vm {
    artifact: usize,
    phase: &'static str,
    mebibytes: u64,
    vcpus: u64,
    /// What was written to its disk.
    mark: Option<u64>,
}

/// The VMs that are wanted now.
struct Work {
    artifacts: [Artifact; 2],
    vms: BTreeMap<String, Vm>,
}

impl Work {
    fn change(&mut self, dice: &mut Dice) {
        let id = format!("vm{}", dice.below(VMS));
        let Some(vm) = self.vms.get_mut(&id) else {
            let vm = Vm { artifact: 0, phase: "running", mebibytes: 1, vcpus: 1, mark: None };
            self.vms.insert(id, vm);
            return;
        };
        match dice.below(8) {
            0 => vm.artifact = 1 - vm.artifact,
            1 => vm.phase = "paused",
            2 => vm.phase = "stopped",
            3 | 4 => vm.phase = "running",
            5 => vm.mebibytes = (vm.mebibytes + 1).min(8),
            6 => vm.vcpus = 3 - vm.vcpus,
            _ => drop(self.vms.remove(&id)),
        }
    }

    fn wanted(&self) -> Wanted {
        let wanted = |(id, vm): (&String, &Vm)| {
            let mut entry: Value = entry(id, &self.artifacts[vm.artifact], vm.mebibytes);
            entry["desired"] = vm.phase.into();
            entry["overrides"] = json!({ "vcpus": vm.vcpus });
            (id.clone(), (entry, vm.phase))
        };
        self.vms.iter().map(wanted).collect()
    }

    /// What was written to the disks is there, and something new is written.
    fn check_disks(&mut self, bench: &Bench, round: u64) {
        for (id, vm) in &mut self.vms {
            if !bench.path("state/volumes").join(id).join("data").exists() {
                // It was never started.
                assert_eq!((vm.mark, vm.phase), (None, "stopped"), "{id} in round {round}");
                continue;
            }
            if let Some(mark) = vm.mark {
                assert_eq!(marked(bench, id, "data"), mark, "{id} in round {round}");
            }
            mark(bench, id, "data", round);
            vm.mark = Some(round);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Kills one host process, or all.
fn kill_hosts(bench: &Bench, dice: &mut Dice) {
    let hosts = host_processes(bench);
    let count = hosts.len() as u64;
    let which = if count > 0 && dice.below(2) == 0 { Some(dice.below(count)) } else { None };
    for (number, host) in (0..).zip(hosts) {
        if which.is_none_or(|which| which == number) {
            // It may have ended meanwhile.
            let _ = Pid::from_raw(host).map(|host| kill_process(host, Signal::KILL));
        }
    }
}

fn rounds(bench: &Bench, placement: Placement) {
    configure(bench, placement, Removal::AtOnce);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.subsec_nanos().into());
    let seed = number("PROCURATOR_KILL_SEED").unwrap_or(now);
    eprintln!("PROCURATOR_KILL_SEED={seed}");
    let mut dice = Dice(seed);
    let artifact = |name| {
        bench.artifact(name, &TinyGuest::power_button(), &json!({ "disks": [{ "path": "disk.img" }] }), name)
    };
    let mut work = Work { artifacts: [artifact("x"), artifact("y")], vms: BTreeMap::new() };
    for round in 1..=number("PROCURATOR_KILL_ROUNDS").unwrap_or(ROUNDS) {
        for _ in 0..=dice.below(4) {
            work.change(&mut dice);
        }
        assign(bench, &work.wanted());
        let mut daemon = bench.spawn(bench.command());
        if round % CHECKED_EVERY == 0 {
            let when = format!("round {round} with seed {seed} in {placement:?}");
            converge(bench, &daemon, placement, &work.wanted(), &when);
            work.check_disks(bench, round);
        }
        // While it works, what it is to do changes once. Any moment will do: nothing is waited for.
        sleep(Duration::from_millis(dice.below(LONGEST[0])));
        work.change(&mut dice);
        assign(bench, &work.wanted());
        sleep(Duration::from_millis(dice.below(LONGEST[1])));
        match dice.below(4) {
            0 => kill_hosts(bench, &mut dice),
            1 => {
                daemon.kill();
                kill_hosts(bench, &mut dice);
            }
            _ => {}
        }
        daemon.kill();
    }
    let daemon = bench.start();
    converge(
        bench,
        &daemon,
        placement,
        &work.wanted(),
        &format!("the end with seed {seed} in {placement:?}"),
    );
    work.check_disks(bench, 0);
    leave_nothing(bench, daemon, placement, seed);
}

fn leave_nothing(bench: &Bench, mut daemon: crate::bench::Daemon<'_>, placement: Placement, seed: u64) {
    let nothing = Wanted::new();
    assign(bench, &nothing);
    converge(bench, &daemon, placement, &nothing, &format!("nothing with seed {seed} in {placement:?}"));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
    assert_eq!(links(), ["lo"]);
}

#[test]
fn killed_at_random_with_machines_in_the_worker() {
    isolated(|bench| rounds(&bench, Placement::Worker));
}

#[test]
fn killed_at_random_with_machines_in_host_processes() {
    isolated(|bench| rounds(&bench, Placement::HostProcesses));
}
