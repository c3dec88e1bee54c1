//! What the end of a machine means for its VM. Pure.

use console_log::KernelPanic;
use vm_model::{FailureKind, FailureReason, GuestPanic, MachineExit, ResetSource};

use super::policy::RunOutcome;

/// The words for it.
const PANICKED: &str = "the guest's kernel panicked";
/// Lines of console that stand in a reason.
const TAIL_LINES: usize = 20;
/// Lines before a panic that say what led to it.
const LINES_BEFORE_PANIC: usize = 5;

/// What `exit` of a machine that nobody told to stop means, given what its guest reported of a panic and the last lines
/// of its console since it was booted last, oldest first.
pub(crate) fn classify(exit: MachineExit, reported: Option<GuestPanic>, console: &[String]) -> RunOutcome {
    let panic = last_panic(console);
    let guest = |what: &str| {
        let message = match (panic, reported) {
            (Some(panic), _) => format!("{PANICKED} and {what}: {panic}"),
            (None, Some(_)) => format!("{PANICKED} and {what}"),
            (None, None) => format!("the guest {what}"),
        };
        failed(FailureKind::Guest, message, console)
    };
    match exit {
        // A console may speak of panics that were another's: for this the guest's own report is needed.
        MachineExit::PoweredOff if reported.is_some() => guest("switched itself off"),
        MachineExit::PoweredOff => RunOutcome::PoweredOff,
        MachineExit::Reset(_) if panic.is_none() && reported.is_none() => RunOutcome::Reset,
        MachineExit::Reset(ResetSource::Watchdog) => guest("was reset by its watchdog"),
        MachineExit::Reset(ResetSource::Acpi | ResetSource::KeyboardController) => guest("reset itself"),
        MachineExit::TripleFault => guest("triple-faulted"),
        MachineExit::GuestFault(what) => guest(&what),
        MachineExit::Killed => {
            failed(FailureKind::Host, "the machine was killed on this host".to_owned(), console)
        }
        // What cannot be built at first is a launch's failure: this came after a reset.
        MachineExit::NotBuilt { kind, reason } => {
            failed(kind, format!("the guest was reset and {reason}"), console)
        }
        MachineExit::Failed(message) | MachineExit::HostLost(message) => {
            failed(FailureKind::Machine, message, console)
        }
    }
}

/// What it means that the guest reported `panic` while its machine goes on. A crash kernel is left to its work.
pub(crate) fn reported(panic: GuestPanic, console: &[String]) -> Option<RunOutcome> {
    let message = match (panic, last_panic(console)) {
        (GuestPanic::CrashKernelLoaded, _) => return None,
        (GuestPanic::Panicked, Some(line)) => format!("{PANICKED}: {line}"),
        (GuestPanic::Panicked, None) => PANICKED.to_owned(),
    };
    Some(failed(FailureKind::Guest, message, console))
}

/// What it means that a guest has panicked and stands still. Its last lines may not have come here yet.
pub(crate) fn standstill(console: &[String]) -> RunOutcome {
    let message = match last_panic(console) {
        Some(line) => format!("{PANICKED} and stands still: {line}"),
        None => format!("{PANICKED} and stands still"),
    };
    failed(FailureKind::Guest, message, console)
}

/// How a guest last announced on its console that it gave up.
fn last_panic(console: &[String]) -> Option<&str> {
    KernelPanic::find(console).map(|panic| strip_timestamp(&console[panic.line]))
}

fn failed(kind: FailureKind, message: String, console: &[String]) -> RunOutcome {
    let console_tail = console[tail_start(console)..].to_vec();
    RunOutcome::Failed(FailureReason { kind, message, transient: false, console_tail })
}

/// Where the lines begin that stand in a reason: some before a panic, whose call trace is long, else the last few.
fn tail_start(console: &[String]) -> usize {
    let last_few = console.len().saturating_sub(TAIL_LINES);
    match KernelPanic::find(console) {
        Some(panic) => last_few.min(panic.line.saturating_sub(LINES_BEFORE_PANIC)),
        None => last_few,
    }
}

/// The line without the `[    1.234567] ` that Linux puts before it.
fn strip_timestamp(line: &str) -> &str {
    match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((stamp, text)) if stamp.trim().parse::<f64>().is_ok() => text,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(lines: &[&str]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    fn message(end: RunOutcome) -> String {
        match end {
            RunOutcome::Failed(reason) => reason.message,
            RunOutcome::PoweredOff | RunOutcome::Reset => panic!("{end:?} is no failure"),
        }
    }

    #[test]
    fn a_reset_after_a_panic_is_a_failure_that_says_so() {
        let lines =
            console(&["[    2.5] Kernel panic - not syncing: VFS: no root", "[    2.6] CPU: 0 PID: 1"]);
        let end = classify(MachineExit::Reset(ResetSource::Acpi), None, &lines);
        assert_eq!(
            message(end),
            "the guest's kernel panicked and reset itself: Kernel panic - not syncing: VFS: no root"
        );
        let watchdog = MachineExit::Reset(ResetSource::Watchdog);
        assert!(message(classify(watchdog.clone(), None, &lines)).contains("was reset by its watchdog"));
        let fine = console(&["fine"]);
        assert_eq!(classify(watchdog, None, &fine), RunOutcome::Reset);
        assert_eq!(classify(MachineExit::Reset(ResetSource::Acpi), None, &fine), RunOutcome::Reset);
        assert_eq!(classify(MachineExit::PoweredOff, None, &lines), RunOutcome::PoweredOff);
    }

    #[test]
    fn a_machine_that_could_not_be_made_anew_keeps_the_kind_of_its_failure() {
        let reason = "its machine cannot be built: the host has no more memory".to_owned();
        let RunOutcome::Failed(reason) =
            classify(MachineExit::NotBuilt { kind: FailureKind::Host, reason }, None, &[])
        else {
            panic!("a failure")
        };
        assert_eq!(reason.kind, FailureKind::Host);
        assert!(reason.message.starts_with("the guest was reset and its machine cannot be built: the host"));
    }

    #[test]
    fn code_that_cannot_be_carried_out_is_the_guests_failure() {
        let RunOutcome::Failed(reason) =
            classify(MachineExit::GuestFault("went astray at 0x10".into()), None, &[])
        else {
            panic!("it is a failure");
        };
        assert_eq!(
            (reason.kind, reason.message.as_str()),
            (FailureKind::Guest, "the guest went astray at 0x10")
        );
    }

    #[test]
    fn what_the_guest_reports_needs_no_console() {
        let end = |exit| message(classify(exit, Some(GuestPanic::CrashKernelLoaded), &[]));
        assert_eq!(
            end(MachineExit::Reset(ResetSource::Acpi)),
            "the guest's kernel panicked and reset itself"
        );
        assert_eq!(end(MachineExit::PoweredOff), "the guest's kernel panicked and switched itself off");
        assert_eq!(reported(GuestPanic::CrashKernelLoaded, &[]), None);
        let at_once = |lines: &[String]| message(reported(GuestPanic::Panicked, lines).expect("an end"));
        assert_eq!(at_once(&[]), "the guest's kernel panicked");
        let lines = console(&["[ 1.0] Kernel panic - not syncing: Fatal exception"]);
        assert_eq!(
            at_once(&lines),
            "the guest's kernel panicked: Kernel panic - not syncing: Fatal exception"
        );
    }

    #[test]
    fn the_reason_holds_the_last_lines() {
        let lines: Vec<String> = (0..50).map(|number| number.to_string()).collect();
        let RunOutcome::Failed(reason) = classify(MachineExit::TripleFault, None, &lines) else {
            panic!("a failure")
        };
        assert_eq!(reason.message, "the guest triple-faulted");
        assert_eq!(reason.console_tail, lines[30..]);
    }

    #[test]
    fn the_reason_begins_before_a_panic_however_long_its_trace_is() {
        let mut lines: Vec<String> = (0..90).map(|number| number.to_string()).collect();
        lines[40] = "[ 1.0] Kernel panic - not syncing: x".to_owned();
        let RunOutcome::Failed(reason) = classify(MachineExit::TripleFault, None, &lines) else {
            panic!("a failure")
        };
        assert_eq!(reason.console_tail, lines[35..]);
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
}
