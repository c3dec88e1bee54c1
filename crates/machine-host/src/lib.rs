//! The port between those who know of machines and whatever runs them.
//!
//! A [`MachineHost`] launches machines, finds those that run already, and ends them. What comes of either is a
//! [`MachineHandle`], which is the same for a machine on a thread of this process and for one in another process: its
//! parts ([`HandleParts`]) are a way for commands, channels of status and health, and where counters and console are read.
//!
//! ```text
//!   supervisor ── launch, adopt ──▶ dyn MachineHost ──┬── threads of this process   (crate vmm-host)
//!        ▲                                            └── host processes            (crate host-process)
//!        └────────── MachineHandle: commands, status, health, counters, console
//! ```
//!
//! Everything that crosses the port is a plain value or an owned descriptor, so that it can cross a socket as well. When to
//! launch, restart or stop a machine is the caller's to decide; what a machine is made of is its engine's.

#![forbid(unsafe_code)]

mod command;
mod counters;
mod handle;
mod host;
mod launch;
mod process;

use std::future::Future;
use std::pin::Pin;

pub use command::{CommandError, CommandPort, PortClosed, ReplyFuture};
pub use counters::CountersSource;
pub use handle::{HandleParts, MachineHandle, StopError, StopPolicy, StopReport};
pub use host::{
    Adopted, Adoption, FoundMachine, HostCounts, MachineHost, Recognize, ShutdownReport, Stranger,
};
pub use launch::{Enforcement, LaunchError, LaunchFailure, LaunchRequest, MachineLimits};
pub use process::{CallFilter, HostingProcess, ProcessJail};

/// A future behind a pointer, as the port's calls answer it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
