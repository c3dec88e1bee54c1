//! The two ends of a connection as state machines without I/O.
//!
//! ```text
//!  worker:  greeting ──welcome──→ established ──→ ended          master:  greeting ──hello──→ established ──→ ended
//!               └── no welcome in time, no version ──↑                        └── no hello in time, wrong id ──↑
//! ```
//!
//! Messages and the time go in, and what to do comes out: one message to send at a time, and only when the one before is
//! with the host's kernel. Nothing queues: an assignment or state that is overtaken before it is sent is never sent.

mod ending;
mod liveness;
mod master;
mod worker;

pub use ending::EndReason;
pub use master::{MasterEvent, MasterOutput, MasterSession, MasterTerms};
pub use worker::{AssignmentAnswer, AssignmentOffer, WorkerOutput, WorkerSession};

#[cfg(test)]
mod tests;
