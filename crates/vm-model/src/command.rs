//! What can be asked of a machine and what it answers: plain values, the same whether they travel over a channel
//! in this process or over a socket to another.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Bytes, LinkState, MachinePhase, VcpuDump};

/// A request to one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "command")]
pub enum Command {
    /// Park the vCPUs.
    Pause {
        /// How long the vCPUs may take to park.
        within: Duration,
    },
    /// Let parked vCPUs go on.
    Resume,
    /// Press the ACPI power button and leave it at that.
    PressPowerButton,
    /// Ask the guest to switch itself off, and count the machine as stopping from now on. A paused machine is
    /// resumed first.
    RequestShutdown,
    /// Type into the console: the serial port if it is recorded or there is nothing else, the virtio console otherwise.
    WriteConsole {
        /// What to type.
        bytes: Vec<u8>,
    },
    /// Tell the guest the size of the terminal behind its virtio console.
    ResizeConsole {
        /// Characters a line.
        columns: u16,
        /// Lines.
        rows: u16,
    },
    /// Ask the guest to give up that much of its memory from now on.
    SetBalloon {
        /// How much.
        size: Bytes,
    },
    /// Take the link of an interface up or down.
    SetLink {
        /// The interface.
        nic: String,
        /// Up or down.
        link: LinkState,
    },
    /// Ask the guest to tell the network behind an interface where it is.
    Announce {
        /// The interface.
        nic: String,
    },
    /// Queue a non-maskable interrupt on every vCPU, which a guest may take as the wish for a crash dump.
    InjectNmi {
        /// How long the vCPUs may take to leave the guest; a few seconds at most.
        within: Duration,
    },
    /// Say where every vCPU is. The machine goes on.
    DumpVcpus {
        /// How long the vCPUs may take to leave the guest; a few seconds at most.
        within: Duration,
    },
    /// Press the reset button: the machine is rebuilt in place and runs, whatever its guest does. Answered when the
    /// old machine has ended and the new one is about to be built. Where resets are not carried out in place it fails.
    Reset,
    /// End the machine now. Overtakes every other command; its effect is seen in the status.
    Kill,
}

/// A command without its content: what decisions and messages are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandKind {
    /// [`Command::Pause`].
    Pause,
    /// [`Command::Resume`].
    Resume,
    /// [`Command::PressPowerButton`].
    PressPowerButton,
    /// [`Command::RequestShutdown`].
    RequestShutdown,
    /// [`Command::WriteConsole`].
    WriteConsole,
    /// [`Command::ResizeConsole`].
    ResizeConsole,
    /// [`Command::SetBalloon`].
    SetBalloon,
    /// [`Command::SetLink`].
    SetLink,
    /// [`Command::Announce`].
    Announce,
    /// [`Command::InjectNmi`].
    InjectNmi,
    /// [`Command::DumpVcpus`].
    DumpVcpus,
    /// [`Command::Reset`].
    Reset,
    /// [`Command::Kill`].
    Kill,
}

impl Command {
    /// What kind of command this is.
    pub fn kind(&self) -> CommandKind {
        match self {
            Self::Pause { .. } => CommandKind::Pause,
            Self::Resume => CommandKind::Resume,
            Self::PressPowerButton => CommandKind::PressPowerButton,
            Self::RequestShutdown => CommandKind::RequestShutdown,
            Self::WriteConsole { .. } => CommandKind::WriteConsole,
            Self::ResizeConsole { .. } => CommandKind::ResizeConsole,
            Self::SetBalloon { .. } => CommandKind::SetBalloon,
            Self::SetLink { .. } => CommandKind::SetLink,
            Self::Announce { .. } => CommandKind::Announce,
            Self::InjectNmi { .. } => CommandKind::InjectNmi,
            Self::DumpVcpus { .. } => CommandKind::DumpVcpus,
            Self::Reset => CommandKind::Reset,
            Self::Kill => CommandKind::Kill,
        }
    }
}

impl CommandKind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Pause,
        Self::Resume,
        Self::PressPowerButton,
        Self::RequestShutdown,
        Self::WriteConsole,
        Self::ResizeConsole,
        Self::SetBalloon,
        Self::SetLink,
        Self::Announce,
        Self::InjectNmi,
        Self::DumpVcpus,
        Self::Reset,
        Self::Kill,
    ];
}

impl fmt::Display for CommandKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::PressPowerButton => "press power button",
            Self::RequestShutdown => "request shutdown",
            Self::WriteConsole => "write console",
            Self::ResizeConsole => "resize console",
            Self::SetBalloon => "set balloon",
            Self::SetLink => "set link",
            Self::Announce => "announce",
            Self::InjectNmi => "inject an NMI into",
            Self::DumpVcpus => "dump the vCPUs of",
            Self::Reset => "reset",
            Self::Kill => "kill",
        })
    }
}

/// The answer to a [`Command`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reply")]
pub enum Reply {
    /// It was done, or was so already.
    Done,
    /// The answer to [`Command::WriteConsole`]: how much of it was taken. The rest did not fit.
    Written {
        /// Bytes taken, from the front.
        accepted: usize,
    },
    /// The answer to [`Command::DumpVcpus`].
    Vcpus {
        /// A dump for each vCPU, by index.
        vcpus: Vec<VcpuDump>,
    },
    /// It is not accepted in the machine's present phase.
    Denied {
        /// That phase.
        phase: MachinePhase,
    },
    /// It was tried and failed; the machine goes on.
    Failed {
        /// What failed and why.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VcpuReport;

    #[test]
    fn commands_and_replies_survive_a_wire() {
        let commands = [
            Command::Pause { within: Duration::from_millis(1500) },
            Command::Resume,
            Command::PressPowerButton,
            Command::RequestShutdown,
            Command::WriteConsole { bytes: b"ls\n".into() },
            Command::ResizeConsole { columns: 132, rows: 50 },
            Command::SetBalloon { size: Bytes::from_mib(64) },
            Command::SetLink { nic: "net0".into(), link: LinkState::Down },
            Command::Announce { nic: "net0".into() },
            Command::InjectNmi { within: Duration::from_secs(1) },
            Command::DumpVcpus { within: Duration::from_secs(1) },
            Command::Reset,
            Command::Kill,
        ];
        for (command, kind) in commands.into_iter().zip(CommandKind::ALL) {
            assert_eq!(command.kind(), kind);
            let json = serde_json::to_string(&command).expect("commands serialise");
            assert_eq!(serde_json::from_str::<Command>(&json).expect("and parse back"), command);
        }
        let denied = Reply::Denied { phase: MachinePhase::Stopping };
        let json = serde_json::to_string(&denied).expect("replies serialise");
        assert_eq!(json, r#"{"reply":"denied","phase":"stopping"}"#);
        let dump = Reply::Vcpus { vcpus: vec![VcpuDump { index: 1, report: VcpuReport::Silent }] };
        let json = serde_json::to_string(&dump).expect("replies serialise");
        assert_eq!(json, r#"{"reply":"vcpus","vcpus":[{"index":1,"report":"silent"}]}"#);
        assert_eq!(serde_json::from_str::<Reply>(&json).expect("and parse back"), dump);
    }
}
