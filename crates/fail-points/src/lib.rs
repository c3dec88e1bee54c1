//! Named points at which tests kill a process, to find out what the next one makes of what it left, or hold it up, to find out
//! what others make of work that is under way.
//!
//! ```text
//! PROCURATOR_FAIL_POINT=<point>[@<subject>][:<nth>][=<file>]
//! ```
//!
//! The process kills itself with SIGKILL when it passes `point` for the `nth` time (the first, where none is said); a point
//! that many things pass is narrowed to one `subject`: the name of a file, for those in the writing of files. Where a `file`
//! is named, the process goes on living: the thread that passes waits there as long as that file exists.
//!
//! All points stand in [`FailPoint`]. The feature `armed` compiles them in. It is off in every build but that of tests which
//! ask for it, and then passing a point is an empty function.
//!
//! The same feature lets a guest have code of a test's program run on the thread of its vCPU: see [`written`]. Code of an
//! attacker who broke out of a guest begins there, and what it can do from there is tried by code that really runs there.
//!
//! ```
//! use fail_points::{FailPoint, pass, pass_with};
//!
//! pass(FailPoint::StartRecorded);
//! pass_with(FailPoint::FileRenamed, "leases.json");
//! ```

#![deny(unsafe_code)]

#[cfg(feature = "armed")]
mod armed;
mod commands;
mod points;
mod trigger;

#[cfg(feature = "armed")]
pub use commands::on_command;
pub use commands::{COMMAND_PORT, written};
pub use points::FailPoint;
pub use trigger::{Trigger, TriggerError};

/// The environment variable that says where the process ends or waits.
pub const VARIABLE: &str = "PROCURATOR_FAIL_POINT";

/// Ends the process here or waits, where [`VARIABLE`] says so.
#[inline]
pub fn pass(point: FailPoint) {
    pass_with(point, "");
}

/// Ends the process here or waits, where [`VARIABLE`] says so for this `subject` or for any.
#[inline]
pub fn pass_with(point: FailPoint, subject: &str) {
    #[cfg(feature = "armed")]
    armed::pass(point, subject);
    #[cfg(not(feature = "armed"))]
    let _ = (point, subject);
}
