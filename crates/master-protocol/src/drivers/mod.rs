//! Sessions on real connections: reads, writes, clocks, TLS, dialling and accepting. What a session decides is not
//! repeated here.

mod backoff;
mod budget;
mod conversation;
mod dial;
mod listener;
mod places;
mod plain;
mod refusal_log;
mod stream;
mod worker_link;

pub use backoff::{Backoff, BackoffLimits};
pub use dial::{DialError, WorkerTransport, reach};
pub use listener::{
    Directory, Limits, ListenError, MasterListener, MasterTransport, WorkerEvent, WorkerNews,
};
pub use plain::{PLAIN_TCP_WORDS, PlainTcp, UnknownPlainTcp};
pub use worker_link::{LinkStatus, OfferedAssignment, WorkerLink};

#[cfg(test)]
mod tests;
