//! What a VM can be told to do, and how one follows it: the JSON that programs may rely on. Keys are added, never changed.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vm_model::{Caller, Timestamp, VmId};

use crate::ApiError;

/// What a VM can be told to do at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PowerVerb {
    /// Start it if it is off, also where its guest switched itself off or it failed.
    Start,
    /// Press its power button, and kill it where the guest does not obey in time.
    Stop,
    /// Stop it and start it again.
    Restart,
    /// Park its vCPUs.
    Pause,
    /// Let its vCPUs go on.
    Resume,
    /// Reset its machine, whatever its guest does.
    Reset,
    /// Send its vCPUs a non-maskable interrupt.
    Nmi,
}

impl PowerVerb {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Start, Self::Stop, Self::Restart, Self::Pause, Self::Resume, Self::Reset, Self::Nmi];

    /// Its name in paths and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reset => "reset",
            Self::Nmi => "nmi",
        }
    }
}

impl fmt::Display for PowerVerb {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How a VM is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PowerRequest {
    /// How long it may take until the operation counts as failed, 1 to 86400; as long as the worker's settings give it where
    /// it is absent.
    pub timeout_seconds: Option<u64>,
    /// Whether the answer comes when it is done. Otherwise it comes at once, and the operation is followed by its number.
    pub wait: bool,
    /// Whether a guest that is to stop is not asked first.
    pub force: bool,
}

impl Default for PowerRequest {
    fn default() -> Self {
        Self { timeout_seconds: None, wait: true, force: false }
    }
}

/// Something that takes a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationView {
    /// Its number.
    pub id: u64,
    /// What is being done.
    pub what: PowerVerb,
    /// The VM.
    pub vm: VmId,
    /// How far it is.
    pub state: OperationState,
    /// When it began, in milliseconds since 1970.
    pub started_at: Timestamp,
    /// When it ended, in milliseconds since 1970.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// Who asked for it.
    pub by: Caller,
    /// How it was done, where there is more to say: what ended a VM that was to stop.
    #[serde(default)]
    pub outcome: Option<String>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<ApiError>,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// It is being carried out.
    Running,
    /// It is done.
    Done,
    /// It failed.
    Failed,
}

/// The answer to a listing of operations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationList {
    /// Those that are being carried out and the newest of those that ended, oldest first.
    pub operations: Vec<OperationView>,
}
