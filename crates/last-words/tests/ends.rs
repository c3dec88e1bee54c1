//! Real processes that real faults end: as any other, and as the first of a PID namespace, to which no signal does anything
//! that it sends to itself.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::thread;

use last_words::signal_behind;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Each signal, and what is said of how it came.
const FAULTS: [(i32, &str, &str); 6] = [
    (libc::SIGSEGV, "SIGSEGV", "touched an address without memory, 0x10"),
    (libc::SIGBUS, "SIGBUS", "no page is left"),
    (libc::SIGILL, "SIGILL", "was ended by SIGILL"),
    (libc::SIGFPE, "SIGFPE", "was ended by SIGFPE"),
    (libc::SIGABRT, "SIGABRT", "gave up, as for an allocation that fails"),
    (libc::SIGSYS, "SIGSYS", "was sent SIGSYS by process"),
];

fn suffer(fault: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sufferer")).arg(fault).output().expect("started")
}

/// As [`suffer`], by the first process of a PID namespace.
#[expect(unsafe_code, reason = "the call can also take descriptors away from threads")]
fn suffer_alone(fault: &'static str) -> Output {
    let starting = thread::spawn(move || {
        // SAFETY: what is asked for is not the table of descriptors.
        unsafe { unshare_unsafe(UnshareFlags::NEWPID) }.expect("tests run as root");
        suffer(fault)
    });
    starting.join().expect("no panic")
}

#[test]
fn a_process_dies_of_the_signal_of_its_fault() {
    for (number, name, words) in FAULTS {
        let output = suffer(name);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(number), "{name}: {said}");
        assert!(said.starts_with("the test thread main ") && said.contains(words), "{name}: {said}");
        assert!(!said.contains("went on"), "{name}: {said}");
    }
}

#[test]
fn the_first_process_of_a_namespace_ends_as_surely() {
    for (number, name, words) in FAULTS {
        let output = suffer_alone(name);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code().and_then(signal_behind), Some(number), "{name}: {said}");
        assert!(said.starts_with("the test thread main ") && said.contains(words), "{name}: {said}");
        assert!(!said.contains("went on"), "{name}: {said}");
    }
}
