//! Disks that keep a guest waiting, in whole machines.

use std::io::Write;

use super::*;

/// A pipe in a disk's place: its reads take as long as nobody writes to the other end.
#[test]
fn a_reset_is_over_when_the_disk_is_done_and_nothing_comes_after_it() {
    let Some(hypervisor) = hypervisor() else { return };
    let (disk, mut far_end) = std::io::pipe().unwrap();
    let mut spec = spec(&TinyGuest::reset_during_read());
    let mut held = harness::disk("held", std::fs::File::from(std::os::fd::OwnedFd::from(disk)));
    held.access = vm_model::DiskAccess::ReadOnly;
    spec.disks.push(held);
    let guest = Guest::start(&hypervisor, spec, InitialState::Running);
    guest.wait_for_console("asked\n");
    // The doorbell rang before the guest said so: after the first of these the event loop has served it, or serves it
    // with the same wait; after the second it has.
    guest.ask(|_| ());
    guest.ask(|_| ());
    assert_eq!(guest.ask(|machine| machine.write_console(b"r")), 1);
    guest.wait_for_console("during 0000000f\n");
    // More than the reset read takes: a device that went on reading would have something to read.
    let mut content = [0; 1024];
    content[..4].copy_from_slice(b"late");
    content[512..516].copy_from_slice(b"disk");
    far_end.write_all(&content).unwrap();
    let ended = guest.join();
    let expected = "asked\nduring 0000000f\nafter 00000000\nlate 6574616c\nkept 5a5a5a5a\nresult 000000ff\n\
                    used 00000000\nread 00000000\ndata 6b736964\n";
    assert_eq!((ended.exit, ended.console.as_str()), (MachineExit::PoweredOff, expected));
}
