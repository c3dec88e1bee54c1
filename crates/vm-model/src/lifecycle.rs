//! Where a machine is in its life, and how it left it.
//!
//! ```text
//! Creating → Booting → Running ⇄ Paused → Stopping → Stopped → (removed)
//!      └────────┴─────────┴────────┴─────────┴──→ Failed(reason) → Restarting → Creating
//! ```

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{FailureClass, VmTimings};

/// A VM's status as its supervisor tells it to users. It has one writer: that supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase", content = "reason")]
pub enum VmStatus {
    /// Its artifact is being verified, its disks and network prepared.
    Creating,
    /// Its machine is being built, or rebuilt after a reset.
    Booting,
    /// Its first vCPU was entered.
    Running,
    /// Its vCPUs are parked.
    Paused,
    /// It was asked to stop.
    Stopping,
    /// It is off and stays so until it is started.
    Stopped,
    /// It failed or rebooted and waits for its next start.
    Restarting,
    /// It is off because something went wrong.
    Failed(FailureReason),
}

impl VmStatus {
    /// The phase alone, as metrics and tables name it.
    pub fn phase_name(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Booting => "booting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Restarting => "restarting",
            Self::Failed(_) => "failed",
        }
    }
}

impl fmt::Display for VmStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(reason) => write!(formatter, "failed: {reason}"),
            Self::Creating
            | Self::Booting
            | Self::Running
            | Self::Paused
            | Self::Stopping
            | Self::Stopped
            | Self::Restarting => formatter.write_str(self.phase_name()),
        }
    }
}

/// Why a VM failed, for a person to act on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailureReason {
    /// What kind of failure; decides whether a restart can help.
    pub kind: FailureKind,
    /// What it was more closely; absent where the message says all there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    /// The whole story in one line: what failed, on what, why.
    pub message: String,
    /// What usually helps, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether it may pass although failures of its kind do not: what is missing may come back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transient: bool,
    /// The last lines of the guest's console, oldest first; empty where it wrote none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console_tail: Vec<String>,
    /// How long the steps of that run took; absent where no machine was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Box<VmTimings>>,
}

impl fmt::Display for FailureReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        match self.console_tail.last() {
            Some(line) => write!(formatter, " (last console line: {line:?})"),
            None => Ok(()),
        }
    }
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The artifact or its description is unusable as it stands.
    Artifact,
    /// The content does not have the hash it was assigned with.
    HashMismatch,
    /// A volume of the VM is not as it was left: missing, shorter, of another size.
    Disk,
    /// The host lacks something: KVM, a device node, a permission, an address, memory, space.
    Host,
    /// The guest ended itself abnormally: a triple fault, a kernel panic, code that cannot be carried out.
    Guest,
    /// The machine's own code failed: an error or a panic on one of its threads.
    Machine,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Artifact => "artifact",
            Self::HashMismatch => "hash_mismatch",
            Self::Disk => "disk",
            Self::Host => "host",
            Self::Guest => "guest",
            Self::Machine => "machine",
        })
    }
}

impl FailureReason {
    /// A failure of `kind` that `message` tells all about.
    pub fn new(kind: FailureKind, message: String) -> Self {
        Self {
            kind,
            class: None,
            message,
            hint: None,
            transient: false,
            console_tail: Vec::new(),
            timings: None,
        }
    }

    /// The same as one of `class`, with the hint that goes with it.
    #[must_use]
    pub fn of_class(self, class: FailureClass) -> Self {
        Self { class: Some(class), hint: Some(class.hint().to_owned()), ..self }
    }

    /// Whether another try can help although nobody changes anything in between.
    pub fn can_retry_help(&self) -> bool {
        self.transient || !self.kind.is_permanent()
    }
}

impl FailureKind {
    /// Whether only a changed assignment can help, so that retrying is pointless.
    pub fn is_permanent(self) -> bool {
        match self {
            Self::Artifact | Self::HashMismatch => true,
            Self::Disk | Self::Host | Self::Guest | Self::Machine => false,
        }
    }
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineExit {
    /// The guest switched itself off (ACPI S5), by itself or when asked.
    PoweredOff,
    /// The guest asked for a reset, or its watchdog did.
    Reset(ResetSource),
    /// A vCPU shut down with no handler left: a triple fault.
    TripleFault,
    /// A vCPU executed what KVM cannot emulate, as code does that runs on where there is no memory. The text says what
    /// the guest did, beginning with a verb.
    GuestFault(String),
    /// It was ended by its host.
    Killed,
    /// It could not be built, at first or after a reset.
    NotBuilt {
        /// What kind of failure that is.
        kind: FailureKind,
        /// What failed, on what, why.
        reason: String,
    },
    /// Its own code failed; the text says where and why.
    Failed(String),
    /// The process that ran it is gone; the text says which and how. Told by those who watch that process.
    HostLost(String),
    /// The host's kernel killed the process that ran it because memory ran out; the text says which process. Told by those
    /// who watch that process.
    HostOutOfMemory(String),
    /// The host's kernel killed the process that ran it at a limit of memory; the text says which. Told by those who watch that
    /// process.
    MemoryLimit(String),
}

/// What asked for a guest's reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetSource {
    /// The ACPI reset register (ACPI 6.4 §4.8.4.6).
    Acpi,
    /// The keyboard controller's reset pulse, port 0x64.
    KeyboardController,
    /// It let its watchdog expire.
    Watchdog,
}

/// What a guest's kernel tells of its own end, while its machine still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestPanic {
    /// It panicked and is left to its host.
    Panicked,
    /// It panicked and goes on in a kernel that keeps what the first one left.
    CrashKernelLoaded,
}

/// What ended a machine that was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopMethod {
    /// It had ended before it was asked.
    AlreadyStopped,
    /// The guest obeyed the ACPI power button within its deadline.
    PowerButton,
    /// It was ended from outside.
    Kill,
}

/// How long each step took from the request to create a machine, or from its latest reset in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTimings {
    /// Until the machine was built and its first vCPU entered.
    pub first_entry: Option<Duration>,
    /// Until the guest wrote its first console byte.
    pub first_console_byte: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_reads_back_from_json() {
        let reason = FailureReason::new(FailureKind::Guest, "the guest triple-faulted".to_owned());
        let status = VmStatus::Failed(FailureReason {
            console_tail: vec!["Kernel panic - not syncing".to_owned()],
            timings: Some(Box::new(VmTimings {
                ended: Some(Duration::from_millis(7)),
                ..VmTimings::default()
            })),
            ..reason.of_class(FailureClass::TripleFault)
        });
        let json = serde_json::to_string(&status).expect("statuses serialise");
        assert_eq!(serde_json::from_str::<VmStatus>(&json).expect("statuses parse back"), status);
        assert_eq!(
            status.to_string(),
            "failed: the guest triple-faulted (last console line: \"Kernel panic - not syncing\")"
        );
        assert_eq!(serde_json::to_string(&VmStatus::Running).expect("serialises"), r#"{"phase":"running"}"#);
    }

    #[test]
    fn a_reason_that_an_earlier_version_wrote_is_understood() {
        let json = r#"{"kind":"guest","message":"the guest triple-faulted"}"#;
        let reason: FailureReason = serde_json::from_str(json).expect("reasons parse");
        assert_eq!(reason, FailureReason::new(FailureKind::Guest, "the guest triple-faulted".to_owned()));
        assert_eq!(
            serde_json::to_string(&reason).expect("reasons serialise"),
            r#"{"kind":"guest","message":"the guest triple-faulted"}"#
        );
    }
}
