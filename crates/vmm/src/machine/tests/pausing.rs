//! Pauses at any moment of a guest's I/O.

use std::os::unix::fs::FileExt;

use tiny_guest::{CHURN_REQUESTS, churned};

use super::*;

/// How often the guest is paused.
const PAUSES: u32 = 100;
/// The longest time that it runs between two of them.
const LONGEST_RUN: Duration = Duration::from_millis(4);

/// Numbers that look random and are the same each time (xorshift).
struct Numbers(u32);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }
}

fn content(disk: &std::fs::File) -> Vec<u8> {
    let mut content = vec![0; CHURN_REQUESTS as usize * 512];
    disk.read_exact_at(&mut content, 0).unwrap();
    content
}

#[test]
fn a_guest_paused_at_any_moment_of_its_io_loses_nothing() {
    let Some(hypervisor) = hypervisor() else { return };
    let disk = harness::file(&[0; 1 << 20]);
    let mut spec = spec(&TinyGuest::churn());
    spec.disks.push(harness::disk("root", disk.try_clone().unwrap()));
    let guest = Guest::start(&hypervisor, spec, InitialState::Running);
    guest.wait_for_console("ready\n");
    let mut numbers = Numbers(0x2545_f491);
    for pause in 0..PAUSES {
        let longest = u32::try_from(LONGEST_RUN.as_micros()).unwrap();
        // The moment is random, and no less if this thread comes late to it.
        std::thread::sleep(Duration::from_micros((numbers.next() % longest).into()));
        guest.ask(|machine| machine.pause(long_enough())).unwrap();
        let held = content(&disk);
        if pause % 10 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(content(&disk) == held, "a paused guest's disk changed in pause {pause}");
        guest.ask(Machine::resume);
    }
    assert_eq!(guest.ask(|machine| machine.write_console(b"q")), 1);
    let ended = guest.join();
    assert_eq!(ended.exit, MachineExit::PoweredOff);
    let rounds = ended.console.strip_prefix("ready\nrounds ").unwrap_or_else(|| panic!("{}", ended.console));
    let rounds = u32::from_str_radix(rounds.trim_end(), 16).unwrap();
    assert!(rounds > 10, "it went on between pauses: {rounds} rounds");
    assert!(content(&disk) == churned(rounds), "the disk is not as the last round left it");
    let requests = u64::from(rounds * CHURN_REQUESTS);
    let [disk] = &ended.counters.disks[..] else { panic!("{:?}", ended.counters) };
    assert_eq!(
        (disk.read_operations, disk.write_operations),
        (requests, requests),
        "each request was served once"
    );
}
