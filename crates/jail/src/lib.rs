//! The jail of a process that runs guests: what the process gives up, by itself and for good, before it runs any.
//!
//! ```text
//!   JailOrder (one word of a command line) ──▶ enter_pid_namespace, enter ──▶ JailReport: the layers that are missing, and why
//!
//!   PID namespace ─ OOM score ─ limits ─ namespaces ─ root ─ capabilities ─ user ─ dumpable ─ privileges ─ Landlock
//! ```
//!
//! The order of the layers matters: each needs what a later one takes away. A layer that the host refuses is a
//! [`Gap`] in the report, and the others are applied all the same; whoever started the process decides whether that will do.
//!
//! [`UserPool`] is the other side's part: which user each process is given.
//!
//! What a process may still do after that is for its callers to know: it keeps the descriptors it has and takes those
//! it is sent. System calls are filtered elsewhere, and so is what a process may use of the host.

#![deny(unsafe_code)]

mod layers;
mod order;
mod pid_namespace;
mod report;
mod users;

pub use layers::{Outside, enter};
pub use order::{JailOrder, OrderError};
pub use pid_namespace::{HostPid, PidNamespaceError, enter_pid_namespace};
pub use report::{Extent, Gap, JailReport, Layer};
pub use users::{RangeError, TakenUser, UserPool, UserRange, users_of_processes};
