//! What the end of a machine means for its VM. Pure.

use console_log::{Diagnosis, KernelPanic, without_timestamp};
use vm_model::{FailureClass, FailureKind, FailureReason, GuestPanic, MachineExit, ResetLimit, ResetSource};

use super::policy::RunOutcome;

/// The words for it.
const PANICKED: &str = "the guest's kernel panicked";
/// Lines of console that stand in a reason.
const TAIL_LINES: usize = 20;
/// Lines before a panic that say what led to it.
const LINES_BEFORE_PANIC: usize = 5;

/// What is known of a machine's guest, beside how the machine ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// What it reported of a panic.
    pub(crate) reported: Option<GuestPanic>,
    /// The last lines of its console since it was booted last, oldest first.
    pub(crate) console: Vec<String>,
    /// Whether it wrote to its console since then.
    pub(crate) output: Output,
    /// How often it had reset itself in place before.
    pub(crate) resets: u64,
}

/// Whether a guest wrote to its console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Output {
    /// It did, or that is not known.
    #[default]
    Written,
    /// Not a byte.
    Silent,
}

/// What `exit` of a machine that nobody told to stop means, given what else is known of its guest.
pub(crate) fn classify(exit: MachineExit, evidence: &Evidence) -> RunOutcome {
    let console = &evidence.console;
    match exit {
        // A console may speak of panics that were another's: for this the guest's own report is needed.
        MachineExit::PoweredOff if evidence.reported.is_some() => {
            guest_failure("switched itself off", FailureClass::KernelPanic, evidence)
        }
        MachineExit::PoweredOff => RunOutcome::PoweredOff,
        MachineExit::Reset(source) => reset(source, evidence),
        MachineExit::TripleFault => guest_failure("triple-faulted", FailureClass::TripleFault, evidence),
        MachineExit::GuestFault(what) => guest_failure(&what, FailureClass::UnsupportedInstruction, evidence),
        MachineExit::Killed => {
            let reason =
                FailureReason::new(FailureKind::Host, "the machine was killed on this host".to_owned());
            failed(reason.of_class(FailureClass::KilledOnHost), console)
        }
        // What cannot be built at first is a launch's failure: this came after a reset.
        MachineExit::NotBuilt { kind, reason } => {
            failed(FailureReason::new(kind, format!("the guest was reset and {reason}")), console)
        }
        MachineExit::Failed(message) => machine_failure(message, FailureClass::MachineError, console),
        MachineExit::HostLost(message) => machine_failure(message, FailureClass::HostProcessLost, console),
        MachineExit::HostOutOfMemory(message) => {
            let reason = FailureReason::new(FailureKind::Host, message);
            failed(reason.of_class(FailureClass::HostOutOfMemory), console)
        }
        MachineExit::MemoryLimit(message) => {
            let reason = FailureReason::new(FailureKind::Host, message);
            failed(reason.of_class(FailureClass::MemoryLimit), console)
        }
    }
}

/// What a reset means that ended the machine: a failure after a panic, and where a guest resets itself again and again
/// without ever having written a byte.
fn reset(source: ResetSource, evidence: &Evidence) -> RunOutcome {
    let what = match source {
        ResetSource::Watchdog => "was reset by its watchdog",
        ResetSource::Acpi | ResetSource::KeyboardController => "reset itself",
    };
    if is_panicked(evidence) {
        return guest_failure(what, FailureClass::KernelPanic, evidence);
    }
    if evidence.output == Output::Silent && evidence.resets >= u64::from(ResetLimit::default().count) {
        return guest_failure(&format!("{what} again and again"), FailureClass::NoOutput, evidence);
    }
    RunOutcome::Reset
}

fn is_panicked(evidence: &Evidence) -> bool {
    evidence.reported.is_some() || KernelPanic::find(&evidence.console).is_some()
}

/// The failure of a guest that did `what`; of `class` unless it panicked or never wrote a byte.
fn guest_failure(what: &str, class: FailureClass, evidence: &Evidence) -> RunOutcome {
    if is_panicked(evidence) {
        return panicked(&format!(" and {what}"), &evidence.console);
    }
    let (class, message) = match evidence.output {
        Output::Written => (class, format!("the guest {what}")),
        Output::Silent => {
            (FailureClass::NoOutput, format!("the guest {what} before it wrote anything to its console"))
        }
    };
    failed(FailureReason::new(FailureKind::Guest, message).of_class(class), &evidence.console)
}

/// The failure of a guest whose kernel panicked `and` did something, explained by its console.
fn panicked(and: &str, console: &[String]) -> RunOutcome {
    let announced = KernelPanic::find(console).map(|panic| panic.line);
    let diagnosis = Diagnosis::of(console);
    let mut message = format!("{PANICKED}{and}");
    if let Some(line) = announced {
        message = format!("{message}: {}", without_timestamp(&console[line]));
    }
    let reason = match diagnosis {
        Some(Diagnosis { class, hint, line }) => {
            if announced != Some(line) {
                message = format!("{message} (after: {})", without_timestamp(&console[line]));
            }
            let reason = FailureReason::new(FailureKind::Guest, message).of_class(class);
            FailureReason { hint: Some(hint.to_owned()), ..reason }
        }
        None => FailureReason::new(FailureKind::Guest, message).of_class(FailureClass::KernelPanic),
    };
    failed(reason, console)
}

fn machine_failure(message: String, class: FailureClass, console: &[String]) -> RunOutcome {
    failed(FailureReason::new(FailureKind::Machine, message).of_class(class), console)
}

/// What it means that the guest reported `panic` while its machine goes on. A crash kernel is left to its work.
pub(crate) fn reported(panic: GuestPanic, console: &[String]) -> Option<RunOutcome> {
    match panic {
        GuestPanic::CrashKernelLoaded => None,
        GuestPanic::Panicked => Some(panicked("", console)),
    }
}

/// What it means that a guest's probes hold it to be dead, for the reason `why`.
pub(crate) fn unwell(why: &str, console: &[String]) -> RunOutcome {
    let reason = FailureReason::new(FailureKind::Guest, format!("the guest does not answer: {why}"));
    failed(reason.of_class(FailureClass::Unhealthy), console)
}

/// What it means that a guest on trial is not ready in time, as `why` says.
pub(crate) fn not_ready(why: &str, console: &[String]) -> RunOutcome {
    let reason = FailureReason::new(FailureKind::Guest, why.to_owned());
    failed(reason.of_class(FailureClass::Unhealthy), console)
}

/// What it means that a guest has panicked and stands still. Its last lines may not have come here yet.
pub(crate) fn standstill(console: &[String]) -> RunOutcome {
    panicked(" and stands still", console)
}

fn failed(reason: FailureReason, console: &[String]) -> RunOutcome {
    RunOutcome::Failed(FailureReason { console_tail: console[tail_start(console)..].to_vec(), ..reason })
}

/// Where the lines begin that stand in a reason: some before a panic, whose call trace is long, and not after what explains
/// it; else the last few.
fn tail_start(console: &[String]) -> usize {
    let last_few = console.len().saturating_sub(TAIL_LINES);
    let Some(panic) = KernelPanic::find(console) else { return last_few };
    let cause = Diagnosis::of(console).map_or(panic.line, |diagnosis| diagnosis.line);
    last_few.min(panic.line.saturating_sub(LINES_BEFORE_PANIC)).min(cause)
}

#[cfg(test)]
mod tests;
