//! What a worker and a host process tell each other. Messages are JSON objects; files are `F`: open descriptors in memory,
//! their index on the wire.
//!
//! ```text
//!   worker                                host process
//!     │── Hello (versions, listener) ────────▶│
//!     │◀───────────── Welcome (its machines) ─│
//!     │── Launch ────────────────────────────▶│
//!     │◀──────────────────────────── Status ──│  any number, also later: the newest counts
//!     │◀────────────────────────── Launched ──│
//!     │── Call ──────────────────────────────▶│
//!     │◀───────────────── Reply or NotTaken ──│
//!     │◀────────────────── Status (exited) ───│
//!     │◀────────────────────────── Released ──│
//!     │── Forget ────────────────────────────▶│
//! ```
//!
//! A host process without machines ends when its last connection does. A machine counts until it is forgotten, so that a
//! worker that comes later learns how it ended.
//!
//! A reader ignores fields it does not know and skips messages whose type it does not know, so both can be added without
//! a new version. Whatever else changes needs one: see [`super::version`].

mod files;

use std::time::Duration;

use jail::JailReport;
use last_words::Frame;
use machine_host::{CallFilter, LaunchError};
use serde::{Deserialize, Serialize};
use vm_model::{
    BootIdentities, Command, InitialState, MachineCounters, MachineSpec, MachineStatus, Reply, ResetPolicy,
    ThreadHealth, VmId,
};

use super::version::Version;

/// Names a request in its answer. Chosen by the worker, new for each request of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallId(pub u64);

/// A message to a host process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum ToHost<F> {
    /// Opens the conversation. Nothing is answered before it.
    Hello(Hello<F>),
    /// Launches a machine. Answered by [`FromHost::Launched`].
    Launch(Box<Launch<F>>),
    /// A command to a machine. Answered by [`FromHost::Reply`] or [`FromHost::NotTaken`].
    Call {
        /// Names the answer.
        call: CallId,
        /// Which VM.
        vm: VmId,
        /// The command.
        command: Command,
    },
    /// Nobody waits for the answer to a launch or a call any more. A command that was not taken up is not carried out, and
    /// the machine of a launch is killed; [`FromHost::Released`] tells when nothing of it is left. No answer follows but one
    /// that is under way.
    Cancel {
        /// Which.
        call: CallId,
    },
    /// Asks for a machine's counters. Answered by [`FromHost::Counters`] or [`FromHost::NotTaken`].
    Counters {
        /// Names the answer.
        call: CallId,
        /// Which VM.
        vm: VmId,
    },
    /// The worker has seen the end of a released machine.
    Forget {
        /// Which VM.
        vm: VmId,
    },
    /// Ends all machines, and the process after them.
    ShutDown {
        /// How long guests may take to power themselves off after they were asked; zero does not ask.
        patience: Duration,
    },
    /// A message of a later release. Never sent.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// Opens a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello<F> {
    /// The versions that the worker speaks.
    pub versions: Vec<Version>,
    /// The worker's build, for messages.
    pub build: String,
    /// Where later workers are to connect. Given to a process once, by the worker that started it.
    #[serde(default = "no_listener", skip_serializing_if = "Option::is_none")]
    pub listener: Option<Listener<F>>,
}

fn no_listener<F>() -> Option<Listener<F>> {
    None
}

/// A bound socket, and where it is bound. The host process listens on it, so that who connects learns from the kernel whose
/// it is, and removes it from its directory when it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener<F> {
    /// The socket.
    pub socket: F,
    /// The directory in which it is bound. A process in a jail does not get it, and leaves the removal to the worker.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub directory: Option<F>,
    /// Its name there.
    pub name: String,
}

/// Launches a machine: what a [`machine_host::LaunchRequest`] says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch<F> {
    /// Names the answer.
    pub call: CallId,
    /// Which VM.
    pub vm: VmId,
    /// What it is made of.
    pub spec: MachineSpec<F>,
    /// What it boots from was this when it was verified. The first processes do not read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<BootIdentities>,
    /// Whether it runs at once.
    pub initial: InitialState,
    /// What its guest's resets do.
    pub resets: ResetPolicy,
    /// The directory that its console is written to.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub console_dir: Option<F>,
    /// Held open until it is released.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub lock: Option<F>,
    /// What whoever adopts it is told.
    #[serde(default)]
    pub notes: String,
}

fn none<F>() -> Option<F> {
    None
}

/// A message from a host process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum FromHost {
    /// The answer to a hello that was accepted.
    Welcome(Welcome),
    /// The answer to a launch. Statuses of the machine may come before it.
    Launched {
        /// Which launch.
        call: CallId,
        /// What kept the machine from running; nothing of it is left then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<LaunchError>,
    },
    /// The answer to a command.
    Reply {
        /// Which call.
        call: CallId,
        /// What the machine answered.
        reply: Reply,
    },
    /// There is no such machine, or it has ended.
    NotTaken {
        /// Which call.
        call: CallId,
    },
    /// A machine's counters.
    Counters {
        /// Which request.
        call: CallId,
        /// The counters now, or the last ones of a machine that has ended.
        counters: MachineCounters,
    },
    /// A machine's status has changed.
    Status {
        /// Which VM.
        vm: VmId,
        /// Its status now.
        status: MachineStatus,
        /// The last counters of a machine that has ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counters: Option<Box<MachineCounters>>,
    },
    /// Whether a machine's thread gets on has changed.
    Health {
        /// Which VM.
        vm: VmId,
        /// How it is now.
        health: ThreadHealth,
    },
    /// All that a machine held is given back.
    Released {
        /// Which VM.
        vm: VmId,
    },
    /// The host process ends the conversation.
    Refused {
        /// Why.
        reason: String,
    },
    /// The process is about to end by a signal. Written by the handler of that signal, which composes it by itself.
    LastWords {
        /// Which of its threads did what: "the vCPU thread vcpu0:web-1 of web-1 made the system call ptrace (101), …".
        text: String,
    },
    /// A message of a later release. Never sent.
    #[serde(other, skip_serializing)]
    Unknown,
}

impl FromHost {
    /// What stands around a text, in which nothing has to be escaped, to make it [`FromHost::LastWords`].
    pub(crate) const LAST_WORDS_FRAME: Frame =
        Frame { before: br#"{"type":"last_words","text":""#, after: br#""}"# };
}

/// Accepts a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that is spoken from now on.
    pub version: Version,
    /// The process's id.
    pub pid: u32,
    /// When the process started, in clock ticks since the host did. With the id it names the process for good.
    pub start_time: u64,
    /// The build of the process.
    pub build: String,
    /// What came of its jail, where it entered one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jail: Option<JailReport>,
    /// Whether its threads are kept to the system calls that they need. Not told by the first processes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_filtered: bool,
    /// What becomes of other system calls. Not told by processes that told only whether they are filtered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<CallFilter>,
    /// Every machine that is not forgotten.
    pub machines: Vec<MachineListing>,
}

/// A machine, as a worker finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineListing {
    /// Which VM.
    pub vm: VmId,
    /// Its status.
    pub status: MachineStatus,
    /// What it counted so far; the last counters of a machine that has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<Box<MachineCounters>>,
    /// Whether its thread gets on.
    pub health: ThreadHealth,
    /// What its launcher noted.
    pub notes: String,
    /// How long ago its launch was asked for.
    pub launched_ago: Duration,
    /// Whether all that it held is given back.
    pub released: bool,
    /// Whether its launch is under way. Unless the worker that asked for it is still connected, it is given up and ends. Not
    /// told by the first processes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub launching: bool,
}
