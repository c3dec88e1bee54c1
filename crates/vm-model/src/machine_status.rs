//! What a machine's thread tells of its machine: plain values, the same whether they stay in this process or come from
//! another.

use serde::{Deserialize, Serialize};

use crate::{BootTimings, BootTrouble, DiskTrouble, GuestPanic, MachineExit, ResetCounts};

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

/// Where a machine is in its life, as its thread tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Has ended like this.
    Exited(MachineExit),
}

impl MachinePhase {
    /// How the machine ended, if it has.
    pub fn exit(&self) -> Option<&MachineExit> {
        match self {
            Self::Exited(exit) => Some(exit),
            Self::Booting | Self::Running | Self::Paused | Self::Stopping => None,
        }
    }

    /// Whether its thread runs an event loop in this phase. A machine is not built in turns, so how long that takes says
    /// nothing of a thread's health.
    pub fn has_event_loop(&self) -> bool {
        match self {
            Self::Running | Self::Paused | Self::Stopping => true,
            Self::Booting | Self::Exited(_) => false,
        }
    }
}

/// Whether a machine's thread gets on with its work. Found out by the host that watches it, as the thread itself cannot
/// know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThreadHealth {
    /// It takes its turns, or has nothing to do.
    #[default]
    Turning,
    /// It has had work to do for seconds and did not move on: until it does, no command is answered and no device served.
    Hung,
}

/// The power button of a machine, as far as its device can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerButton {
    /// It was not pressed, or whoever runs the machine does not tell.
    #[default]
    Untouched,
    /// It was pressed, and the guest has not read the event since: its system does not take events yet, or no more.
    Pressed,
    /// The guest has read every press. Whether it then does something is not known.
    Seen,
}

/// What a machine's thread tells of its machine, and whoever takes it apart once it has ended. Each is its one writer in
/// its time; what the thread cannot tell of itself is in [`ThreadHealth`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// Where it is in its life.
    pub phase: MachinePhase,
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
    /// The guest's kernel said on its console that it panicked and does nothing any more. The machine goes on until it is
    /// ended.
    #[serde(default)]
    pub stands_still: bool,
    /// The trouble that the guest told of on its console while it booted and in which it waits for a person. The machine
    /// goes on.
    #[serde(default)]
    pub boot_trouble: Option<BootTrouble>,
    /// The disk whose requests the host cannot carry out, and for which the machine's vCPUs wait, whatever the phase. It
    /// tries again by itself, and at once when it is told to resume.
    #[serde(default)]
    pub disk_trouble: Option<DiskTrouble>,
    /// Its power button.
    #[serde(default)]
    pub power_button: PowerButton,
    /// What keeps an ended machine from giving back what it held, once that takes longer than a moment: "the host does not
    /// end the I/O that is in flight on its disk root".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
}

impl MachineStatus {
    /// The status every machine begins with.
    pub fn booting() -> Self {
        Self {
            phase: MachinePhase::Booting,
            timings: BootTimings::default(),
            resets: ResetCounts::default(),
            console_start: 0,
            panic: None,
            stands_still: false,
            boot_trouble: None,
            disk_trouble: None,
            power_button: PowerButton::default(),
            obstacle: None,
        }
    }

    /// Whether the machine's thread is stuck, given what its host found last. The finding may be older than the phase.
    pub fn is_hung(&self, health: ThreadHealth) -> bool {
        health == ThreadHealth::Hung && self.phase.has_event_loop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_carries_its_exit_over_a_wire() {
        let status = MachineStatus {
            phase: MachinePhase::Exited(MachineExit::Failed("its code".to_owned())),
            ..MachineStatus::booting()
        };
        let json = serde_json::to_string(&status).expect("statuses serialise");
        assert!(json.starts_with(r#"{"phase":{"exited":{"failed":"its code"}},"#), "{json}");
        assert_eq!(serde_json::from_str::<MachineStatus>(&json).expect("and parse back"), status);
        assert_eq!(serde_json::to_string(&MachinePhase::Running).expect("serialises"), r#""running""#);
    }

    #[test]
    fn a_host_process_that_knows_nothing_of_the_button_is_understood() {
        let mut json = serde_json::to_value(MachineStatus::booting()).expect("statuses serialise");
        json.as_object_mut().expect("an object").remove("power_button").expect("it is there");
        let status: MachineStatus = serde_json::from_value(json).expect("it parses");
        assert_eq!(status, MachineStatus::booting());
    }

    #[test]
    fn only_a_thread_with_an_event_loop_is_hung() {
        let in_phase = |phase| MachineStatus { phase, ..MachineStatus::booting() };
        for phase in [MachinePhase::Running, MachinePhase::Paused, MachinePhase::Stopping] {
            assert!(in_phase(phase.clone()).is_hung(ThreadHealth::Hung));
            assert!(!in_phase(phase).is_hung(ThreadHealth::Turning));
        }
        for phase in [MachinePhase::Booting, MachinePhase::Exited(MachineExit::Killed)] {
            assert!(!in_phase(phase).is_hung(ThreadHealth::Hung), "an old finding");
        }
    }
}
