//! Machines in processes of their own: one process runs one machine or several, and goes on when the worker ends.
//!
//! ```text
//!   worker                                        host process
//!   client::HostProcesses ── wire: a socket ────▶ host::serve ──▶ vmm_host::VmmHost ──▶ threads of machines
//!     │  is a machine_host::MachineHost               ▲
//!     ╳  ends                                         │ listens on a socket of its own
//!   the next worker ───────── adopts ─────────────────┘
//! ```
//!
//! - [`wire`] is what both ends say to each other, in versions: a worker speaks with host processes of earlier releases.
//! - [`host`] is what runs in a host process.
//! - [`client`] starts such processes, finds those of workers before, and makes a [`machine_host::MachineHandle`] of each
//!   machine: to its users it is the same as one on a thread of their own process.
//!
//! What a machine is made of is not known here, nor when one is to run. Neither end trusts the other more than it must:
//! whatever comes over the socket is checked, and costs whoever sends it his connection at most.
//!
//! There is one request to the kernel that no crate knows, in `client::exit_record`, and one whose answer no crate takes as it
//! may be, in `credentials`; all else is safe code.

#![deny(unsafe_code)]

mod awaited;
pub mod client;
mod credentials;
pub mod host;
mod identity;
pub mod wire;

pub use client::{
    Groups, HostProcessOptions, HostProcesses, JailDemand, JailError, JailSettings, Placement, ScopeSettings,
    probe_jail,
};
