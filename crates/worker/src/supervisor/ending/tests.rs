//! What exits mean, and how failures explain themselves.

use super::*;

fn console(lines: &[&str]) -> Vec<String> {
    lines.iter().map(ToString::to_string).collect()
}

fn wrote(lines: &[&str]) -> Evidence {
    Evidence { console: console(lines), ..Evidence::default() }
}

fn reason(end: RunOutcome) -> FailureReason {
    match end {
        RunOutcome::Failed(reason) => reason,
        RunOutcome::PoweredOff | RunOutcome::Reset => panic!("{end:?} is no failure"),
    }
}

fn message(end: RunOutcome) -> String {
    reason(end).message
}

#[test]
fn a_reset_after_a_panic_is_a_failure_that_says_so() {
    let said = wrote(&["[    2.5] Kernel panic - not syncing: Fatal exception", "[    2.6] CPU: 0 PID: 1"]);
    let end = classify(MachineExit::Reset(ResetSource::Acpi), &said);
    assert_eq!(
        message(end),
        "the guest's kernel panicked and reset itself: Kernel panic - not syncing: Fatal exception"
    );
    let watchdog = MachineExit::Reset(ResetSource::Watchdog);
    assert!(message(classify(watchdog.clone(), &said)).contains("was reset by its watchdog"));
    let fine = wrote(&["fine"]);
    assert_eq!(classify(watchdog, &fine), RunOutcome::Reset);
    assert_eq!(classify(MachineExit::Reset(ResetSource::Acpi), &fine), RunOutcome::Reset);
    assert_eq!(classify(MachineExit::PoweredOff, &said), RunOutcome::PoweredOff);
}

#[test]
fn a_panic_is_explained_by_the_lines_before_it() {
    let mut lines = vec!["[ 0.9] VFS: Cannot open root device \"vda\" or unknown-block(0,0): error -6"];
    lines.extend(["[ 0.9]  ext4"; 30]);
    lines.push("[ 1.0] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)");
    let explained = reason(classify(MachineExit::Reset(ResetSource::Acpi), &wrote(&lines)));
    assert_eq!(explained.class, Some(FailureClass::MissingDriver));
    assert!(explained.hint.is_some_and(|hint| hint.contains("virtio_blk")));
    assert!(
        explained.message.contains("(after: VFS: Cannot open root device \"vda\""),
        "{}",
        explained.message
    );
    assert_eq!(explained.console_tail.first().map(String::as_str), lines.first().copied());
}

#[test]
fn each_end_has_its_class() {
    let silent = Evidence { output: Output::Silent, ..Evidence::default() };
    let class = |exit, evidence: &Evidence| {
        let reason = reason(classify(exit, evidence));
        assert!(reason.hint.is_some_and(|hint| !hint.is_empty()));
        reason.class.expect("every end has one")
    };
    let said = wrote(&["ready"]);
    let text = || "its words".to_owned();
    assert_eq!(class(MachineExit::TripleFault, &said), FailureClass::TripleFault);
    assert_eq!(class(MachineExit::TripleFault, &silent), FailureClass::NoOutput);
    assert_eq!(class(MachineExit::GuestFault(text()), &said), FailureClass::UnsupportedInstruction);
    assert_eq!(class(MachineExit::Killed, &said), FailureClass::KilledOnHost);
    assert_eq!(class(MachineExit::Failed(text()), &said), FailureClass::MachineError);
    assert_eq!(class(MachineExit::HostLost(text()), &said), FailureClass::HostProcessLost);
    assert_eq!(class(MachineExit::HostOutOfMemory(text()), &said), FailureClass::HostOutOfMemory);
    assert_eq!(class(MachineExit::MemoryLimit(text()), &said), FailureClass::MemoryLimit);
    let no_init = wrote(&["[ 1.0] Kernel panic - not syncing: No working init found."]);
    assert_eq!(class(MachineExit::TripleFault, &no_init), FailureClass::NoInit);
    assert_eq!(reason(standstill(&no_init.console)).class, Some(FailureClass::NoInit));
}

#[test]
fn silent_resets_are_a_failure_once_they_come_again_and_again() {
    let reset = || MachineExit::Reset(ResetSource::KeyboardController);
    let silent = Evidence { output: Output::Silent, ..Evidence::default() };
    assert_eq!(classify(reset(), &silent), RunOutcome::Reset, "a guest may be silent and start over");
    let reason = reason(classify(reset(), &Evidence { resets: 5, ..silent }));
    assert_eq!(reason.class, Some(FailureClass::NoOutput));
    assert_eq!(
        reason.message,
        "the guest reset itself again and again before it wrote anything to its console"
    );
}

#[test]
fn a_machine_that_could_not_be_made_anew_keeps_the_kind_of_its_failure() {
    let reason = "its machine cannot be built: the host has no more memory".to_owned();
    let exit = MachineExit::NotBuilt { kind: FailureKind::Host, reason };
    let reason = self::reason(classify(exit, &Evidence::default()));
    assert_eq!(reason.kind, FailureKind::Host);
    assert!(reason.message.starts_with("the guest was reset and its machine cannot be built: the host"));
}

#[test]
fn code_that_cannot_be_carried_out_is_the_guests_failure() {
    let reason = reason(classify(MachineExit::GuestFault("went astray at 0x10".into()), &wrote(&["x"])));
    assert_eq!((reason.kind, reason.message.as_str()), (FailureKind::Guest, "the guest went astray at 0x10"));
}

#[test]
fn what_the_guest_reports_needs_no_console() {
    let evidence = Evidence { reported: Some(GuestPanic::CrashKernelLoaded), ..Evidence::default() };
    let end = |exit| message(classify(exit, &evidence));
    assert_eq!(end(MachineExit::Reset(ResetSource::Acpi)), "the guest's kernel panicked and reset itself");
    assert_eq!(end(MachineExit::PoweredOff), "the guest's kernel panicked and switched itself off");
    assert_eq!(reported(GuestPanic::CrashKernelLoaded, &[]), None);
    let at_once = |lines: &[String]| message(reported(GuestPanic::Panicked, lines).expect("an end"));
    assert_eq!(at_once(&[]), "the guest's kernel panicked");
    let lines = console(&["[ 1.0] Kernel panic - not syncing: Fatal exception"]);
    assert_eq!(at_once(&lines), "the guest's kernel panicked: Kernel panic - not syncing: Fatal exception");
}

#[test]
fn the_reason_holds_the_last_lines() {
    let lines: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let evidence = Evidence { console: lines.clone(), ..Evidence::default() };
    let reason = reason(classify(MachineExit::TripleFault, &evidence));
    assert_eq!(reason.message, "the guest triple-faulted");
    assert_eq!(reason.console_tail, lines[30..]);
}

#[test]
fn the_reason_begins_before_a_panic_however_long_its_trace_is() {
    let mut lines: Vec<String> = (0..90).map(|number| number.to_string()).collect();
    lines[40] = "[ 1.0] Kernel panic - not syncing: x".to_owned();
    let evidence = Evidence { console: lines.clone(), ..Evidence::default() };
    assert_eq!(reason(classify(MachineExit::TripleFault, &evidence)).console_tail, lines[35..]);
}

#[test]
fn a_guest_that_stands_still_is_a_failure_whatever_of_its_console_is_here() {
    let lines = console(&[
        "[ 1.0] Kernel panic - not syncing: x",
        "[ 1.1] ---[ end Kernel panic - not syncing: x ]---",
    ]);
    assert!(message(standstill(&lines)).ends_with("stands still: Kernel panic - not syncing: x"));
    assert!(message(standstill(&lines[..1])).ends_with("stands still: Kernel panic - not syncing: x"));
    assert_eq!(message(standstill(&[])), "the guest's kernel panicked and stands still");
}
