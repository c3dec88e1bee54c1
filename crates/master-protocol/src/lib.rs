//! How a worker and its master talk: wire types, codec, TLS, and the sessions of both ends.
//!
//! ```text
//!  wire::v1        plain values with their bounds in their types; never edited after a release
//!  codec           bytes ⇄ frames ⇄ messages, without I/O; nothing that comes in makes it panic or grow
//!  session         both ends as state machines without I/O: messages and time in, what to do out
//!  tls             certificates on both sides: who the other end is, and words for why it is not let in
//!  drivers         sessions on real connections: [`drivers::WorkerLink`] dials, [`drivers::MasterListener`] accepts
//! ```
//!
//! What is not here: what an assignment means (`vm_model::AssignmentSet` says it), whether it may follow the one in force
//! (the worker's node decides), where desired states come from (a master decides). `docs/protocol.md` describes the
//! protocol itself, for programs in any language.
//!
//! Nothing queues: a worker has one newest state, and a master one newest assignment a worker. A peer that is slow is told
//! the newest when it is ready, and nothing in between.
//!
//! Both ends, over loopback:
//!
//! ```
//! use std::{future::pending, sync::Arc};
//!
//! use master_protocol::drivers::{
//!     BackoffLimits, Directory, Limits, LinkStatus, MasterListener, MasterTransport, PlainTcp, WorkerLink,
//!     WorkerTransport,
//! };
//! use master_protocol::session::{AssignmentAnswer, MasterTerms};
//! use master_protocol::wire::v1::{Accepted, Assignment, Epoch, Hello};
//! use master_protocol::wire::List;
//! use master_protocol::{WorkerState, os_random};
//! use tokio::sync::{mpsc, watch};
//! use vm_model::{AssignmentSet, Generation, Lineage};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The master: what should run on worker-1.
//! let lineage = Lineage::new("master-1", "first-epoch")?;
//! let terms = MasterTerms {
//!     lineage: lineage.clone(),
//!     heartbeat: std::time::Duration::from_secs(10),
//! };
//! let transport = MasterTransport::Plain(PlainTcp::Loopback);
//! let listener = MasterListener::bind("127.0.0.1:0".parse()?, transport, terms, Limits::default()).await?;
//! let address = listener.local_address()?;
//! let set = AssignmentSet::parse(r#"{"vms": []}"#)?;
//! let assignment = Assignment::new(&lineage, Generation::new(1), &set)?;
//! let directory = Directory::from([("worker-1".parse()?, Arc::new(assignment))]);
//! let (_directory, directory) = watch::channel(Arc::new(directory));
//! let (news, _news) = mpsc::channel(64);
//! tokio::spawn(listener.run(directory, news, pending()));
//!
//! // The worker: who it is, how it is, and who decides about assignments.
//! let hello: Hello = serde_json::from_str(
//!     r#"{"versions": [1], "worker": "worker-1", "run": "1", "capacity": {"processors": 8, "memory_bytes": 1},
//!         "engine": {"name": "procurator", "version": "0.1.0"}, "cpu": {"architecture": "x86_64"}}"#,
//! )?;
//! let (_hello, hello) = watch::channel(hello);
//! let (_state, state) = watch::channel(Arc::new(WorkerState::default()));
//! let (offers, mut offered) = mpsc::channel(1);
//! let (status, _status) = watch::channel(LinkStatus::default());
//! let link = WorkerLink {
//!     master: address.to_string(),
//!     transport: WorkerTransport::Plain(PlainTcp::Loopback),
//!     backoff: BackoffLimits::default(),
//!     random: os_random,
//!     hello,
//!     state,
//!     offers,
//!     status,
//! };
//! tokio::spawn(link.run(pending()));
//!
//! let (offer, answer) = offered.recv().await.expect("the link lives");
//! assert_eq!(offer.set.generation, Some(Generation::new(1)));
//! // The session knows which assignment this is about.
//! let accepted = Accepted { epoch: Epoch::default(), generation: 0, held: None, outcomes: List::default() };
//! answer.send(AssignmentAnswer::Accepted(accepted)).expect("the link waits for it");
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod codec;
mod conversion;
pub mod drivers;
#[cfg(test)]
mod page_tests;
mod random;
#[cfg(test)]
mod samples;
pub mod session;
pub mod tls;
pub mod wire;
mod worker_state;

pub use random::os_random;
pub use worker_state::{VM_BYTES_KNOWN_MOST, VMS_KNOWN_MOST, WorkerState, WorkerView, memory_of};
