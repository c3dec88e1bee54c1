//! A small name server on the bridge's address: each VM by its name in the network's domain, and everything else by the
//! host's own name servers.
//!
//! ```text
//!  guest ─▶ nft: at most 200 questions a second a port ─▶ message: one question, or refused
//!                                                            │
//!                   zone: a VM's name or address? ── yes ──▶ answered from DHCP's bindings
//!                                                            │ no
//!                   budget: room for another of this guest? ── no ──▶ SERVFAIL
//!                                                            │ yes
//!                   upstream: the host's name servers, one after the other; their answers checked
//! ```
//!
//! Bounded for a hostile guest: each holds at most a share of the outstanding questions and connections, each of these ends
//! by a deadline, and nothing else is kept. It caches nothing: the host's name servers do.
//!
//! Written by hand: one question is all that is read of a message, and of an answer only whether it is one to that question.

mod budget;
mod message;
mod server;
mod upstream;
mod zone;

use std::io;

use thiserror::Error;

#[cfg(feature = "fuzzing")]
pub(crate) use self::message::{is_answer_to, parse};
pub(crate) use self::server::NameServer;
pub(crate) use self::zone::Zone;
pub use self::zone::{Domain, InvalidDomain};

/// Why there is no name server.
#[derive(Debug, Error)]
pub enum NameServerError {
    /// Its port cannot be had.
    #[error("port 53 of the bridge's address cannot be had by {transport}")]
    Listen {
        /// By which protocol.
        transport: vm_model::Transport,
        /// The kernel's refusal.
        #[source]
        cause: io::Error,
    },
}
