//! Whether a VM's guest has started, is ready and is alive: the probes of its definition, run at their pace, and what its
//! systemd reports by itself.
//!
//! ```text
//!  MachineStatus ──▶ monitor ──▶ HealthState (pure: which probe is due, what results amount to) ──▶ watch of Health
//!                       │  ▲
//!       due probes      ▼  │ findings, events
//!        tcp · http · vsock · console (marker matcher) · systemd (notify listener)
//! ```
//!
//! `schedule` and `state` are pure: time comes in as a value. `probe`, `console` and `notify` look at the guest, each
//! bounded in time, memory and connections, because the guest is hostile. `monitor` is the one task a VM that joins them.
//!
//! Deliberately not here: what becomes of a VM that is dead or not ready (its supervisor decides), and which machine
//! there is.

#![forbid(unsafe_code)]

mod console;
mod finding;
mod marker;
mod monitor;
mod notify;
mod probe;
mod schedule;
mod state;
mod targets;

pub use finding::{Finding, ProbeFailure};
pub use monitor::{Beginning, HealthMonitor, MonitorRequest, PROBES_AT_ONCE, ProbePermits};
pub use notify::{MESSAGE_BYTES_MAX, NotifyError, NotifyListener, NotifyMessage};
pub use schedule::{Moment, Phase, ProbeState};
pub use state::{Guest, HealthState, Ticket};
pub use targets::{ConsoleTarget, ProbeTargets, VsockDirectory};
