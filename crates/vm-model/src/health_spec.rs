//! What a VM's definition says about its health: probes, and the pace at which they are run.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The port of the host (vsock address 2) to which the systemd of a guest sends its state. The socket on the host is
/// `vsock.sock_` with this number after it, and no other program's to use.
pub const SYSTEMD_NOTIFY_PORT: u32 = 64_254;
/// The most probes of a VM.
pub const PROBES_MAX: usize = 8;

/// The probes of one VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSpec {
    /// At least one and at most [`PROBES_MAX`], each with an id of its own.
    pub probes: Vec<ProbeSpec>,
}

impl HealthSpec {
    /// Whether a probe needs the guest's systemd to send its state.
    pub fn listens_to_systemd(&self) -> bool {
        self.probes.iter().any(|probe| matches!(probe.check, ProbeCheck::Systemd { .. }))
    }
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeSpec {
    /// Its name in reports, unique in its VM.
    pub id: String,
    /// What its result says about the VM.
    pub role: ProbeRole,
    /// What it looks at.
    pub check: ProbeCheck,
    /// When it is run, and how many results count.
    pub timing: ProbeTiming,
}

/// What a probe's result says about its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbeRole {
    /// Whether the guest has started. Until it succeeds no probe of another role is run; when it fails the VM is dead.
    Startup,
    /// Whether the guest can serve. When it fails the VM is not ready, and runs on.
    Readiness,
    /// Whether the guest works at all. When it fails the VM is dead.
    Liveness,
}

impl ProbeRole {
    /// As it is written in a description.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        }
    }
}

impl fmt::Display for ProbeRole {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a probe looks at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeCheck {
    /// Whether this text has stood on the console since the guest was booted.
    Console {
        /// Not empty.
        marker: String,
    },
    /// Whether the guest accepts a connection.
    Tcp {
        /// At the guest's address.
        port: NonZeroU16,
    },
    /// Whether a web server answers as expected.
    Http(HttpCheck),
    /// Whether the guest accepts a connection of its socket device.
    Vsock {
        /// At the guest's context identifier.
        port: u32,
    },
    /// Whether the guest's systemd has reported that it is ready.
    Systemd {
        /// The unit that it has to report as active; without one, that booting has finished.
        unit: Option<String>,
    },
}

impl ProbeCheck {
    /// Whether its result comes by itself from the guest, and is not asked for.
    pub const fn is_reported_by_guest(&self) -> bool {
        match self {
            Self::Console { .. } | Self::Systemd { .. } => true,
            Self::Tcp { .. } | Self::Http(_) | Self::Vsock { .. } => false,
        }
    }
}

/// A request to a web server in the guest, by HTTP/1.1 without encryption, and what is expected of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// At the guest's address.
    pub port: NonZeroU16,
    /// What is asked for: starts with `/`, printable ASCII without blanks.
    pub path: String,
    /// Whom the request names as host; without it, the guest's address.
    pub host: Option<String>,
    /// The least status that is a success.
    pub least_status: u16,
    /// The greatest status that is a success.
    pub greatest_status: u16,
    /// What has to stand in the first 64 KiB of the body.
    pub body_contains: Option<String>,
}

/// When a probe is run, and how many results in a row count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeTiming {
    /// How long after the guest's start, or after that of the role, it is run first.
    pub initial_delay: Duration,
    /// From the start of one run to that of the next.
    pub period: Duration,
    /// How long a run may take.
    pub timeout: Duration,
    /// So many failures in a row are a failure.
    pub failure_threshold: NonZeroU32,
    /// So many successes in a row are a success.
    pub success_threshold: NonZeroU32,
}

impl ProbeTiming {
    /// The failures in a row that count where nothing is said of them.
    pub const DEFAULT_FAILURE_THRESHOLD: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);
}

impl Default for ProbeTiming {
    fn default() -> Self {
        Self {
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            failure_threshold: Self::DEFAULT_FAILURE_THRESHOLD,
            success_threshold: NonZeroU32::MIN,
        }
    }
}
