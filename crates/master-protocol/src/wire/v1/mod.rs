//! Version 1. `docs/protocol.md` describes each message field by field.
//!
//! Keys that are not known are skipped, values of an enumeration that are not known read as `unknown`, and `null` is a
//! missing key wherever a key may be missing. Times are milliseconds since 1970-01-01 00:00 UTC.

mod answer;
mod assignment;
mod greeting;
mod report;

pub use answer::{Accepted, Held, HeldFor, Outcome, RefusalCode, Refused};
pub use assignment::Assignment;
pub use greeting::{Capacity, Cpu, Engine, Hello, InForce, Welcome};
pub use report::{
    Address, Condition, ConditionKind, Kept, Metrics, NodeReport, Phase, Readiness, Reason, RefusedVm,
    Report, Source, VMS_MOST, VmReport,
};
use serde::{Deserialize, Serialize};

use super::Text;

/// The number of this version, in `hello` and `welcome`.
pub const VERSION: u32 = 1;

/// The longest frame, without its four bytes of length.
pub const FRAME_MOST_BYTES: usize = 4 << 20;

/// How deeply lists and objects may be nested in a message, which is itself the first level.
pub const NESTING_MOST: usize = 64;

/// A name: of a master, a program, a network interface.
pub type Name = Text<128>;
/// What tells one counting of a master's generations from another's.
pub type Epoch = Text<128>;
/// Text for a person.
pub type Words = Text<2048>;
/// A path in the host's file system.
pub type Path = Text<4096>;

/// What a worker sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "each variant is the message of its name")]
pub enum WorkerMessage {
    Hello(Box<Hello>),
    Accepted(Accepted),
    Refused(Refused),
    Report(Box<Report>),
    Ping(Ping),
    Pong(Pong),
    Goodbye(Goodbye),
}

/// What a master sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "each variant is the message of its name")]
pub enum MasterMessage {
    Welcome(Welcome),
    Assignment(Assignment),
    ReportRequest(ReportRequest),
    Ping(Ping),
    Pong(Pong),
    Goodbye(Goodbye),
}

/// Asks the worker for a full report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportRequest {}

/// Asks the other end for a `pong`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Comes back in the `pong`.
    #[serde(default)]
    pub nonce: u64,
}

/// The answer to a `ping`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The `nonce` of the newest `ping`.
    #[serde(default)]
    pub nonce: u64,
}

/// The last message of an end that closes the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// Why, for a program.
    pub code: GoodbyeCode,
    /// Why, for a person.
    #[serde(default)]
    pub text: Words,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoodbyeCode {
    /// The end is shutting down.
    ShuttingDown,
    /// No version is known to both ends.
    NoCommonVersion,
    /// The worker's id is not the name in its certificate.
    WrongIdentity,
    /// A newer connection of the same worker takes this one's place.
    Replaced,
    /// A worker of the same name on another host is connected, and is not replaced.
    ElsewhereConnected,
    /// The master has no room for this connection.
    TooBusy,
    /// A frame or message was not as this protocol says.
    Malformed,
    /// A message came that has no place at this point.
    OutOfOrder,
    /// Nothing was heard from the other end, or it took nothing, for too long.
    TimedOut,
    /// A code of a newer peer.
    #[serde(other)]
    Unknown,
}
