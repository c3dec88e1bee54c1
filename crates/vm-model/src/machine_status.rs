//! What a machine's thread tells of its machine: plain values, the same whether they stay in this process or come from
//! another.

use serde::{Deserialize, Serialize};

use crate::{BootTimings, GuestPanic, MachineExit, ResetCounts};

/// How a machine begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitialState {
    /// Its vCPUs run.
    #[default]
    Running,
    /// Its vCPUs are parked before their first instruction.
    Paused,
}

/// Where a machine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachinePhase {
    /// Being built, or rebuilt in place after a reset.
    Booting,
    /// vCPUs run.
    Running,
    /// vCPUs are parked.
    Paused,
    /// Was asked to stop.
    Stopping,
    /// Has ended.
    Exited,
}

/// What a machine's thread tells of its machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// Where it is in its life.
    pub phase: MachinePhase,
    /// How it ended; there exactly when the phase is [`MachinePhase::Exited`].
    pub exit: Option<MachineExit>,
    /// How long its first steps took, from the request to launch it or from its latest reset in place.
    pub timings: BootTimings,
    /// How often it was rebuilt in place. What else is told here is of the newest machine.
    #[serde(default)]
    pub resets: ResetCounts,
    /// How many bytes of console were written before it was last rebuilt in place: the offset at which the output of
    /// its present guest begins.
    #[serde(default)]
    pub console_start: u64,
    /// What the guest's kernel told of a panic. The machine goes on until it is ended.
    #[serde(default)]
    pub panic: Option<GuestPanic>,
    /// Whether its thread has work to do and stands still: no command is answered and no device served until it turns
    /// again. Its host tells, a few seconds after it began.
    #[serde(default)]
    pub hung: bool,
}

impl MachineStatus {
    /// The status every machine begins with.
    pub fn booting() -> Self {
        Self {
            phase: MachinePhase::Booting,
            exit: None,
            timings: BootTimings::default(),
            resets: ResetCounts::default(),
            console_start: 0,
            panic: None,
            hung: false,
        }
    }
}
