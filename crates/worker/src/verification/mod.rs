//! Whether store paths hold what they were assigned as: hashing them beside the VMs that wait for it.
//!
//! ```text
//! stage thread of vm-1 ──┐                     ┌─ lane of file system 8:1 ── thread "verify-…"
//! stage thread of vm-2 ──┴─ job of path, hash ─┘                                │ pieces of a disk
//!                             ▲ waits, shows how far it is, can leave           ▼
//!                                                            copy of the disk of vm-1 (`volumes`)
//! ```
//!
//! A path that several VMs wait for is hashed once. Each file system has a lane of its own with a bounded number of threads,
//! so a file system that does not answer takes no thread from another one; whoever waits can leave at any time, also while
//! the thread is stuck in the kernel. A job that nobody waits for any more ends with its next piece.
//!
//! What a verdict is remembered under is in `records::verified`; what a failed one means for its VM, in `supervisor::verify`.

mod job;
mod jobs;
mod lanes;
#[cfg(test)]
mod tests;

pub(crate) use jobs::{Request, Verifications};
