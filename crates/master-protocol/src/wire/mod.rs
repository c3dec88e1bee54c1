//! What is on the wire, version by version. A version's types are never edited after its release: a change that old
//! ends would misread is a new version beside the old one.

mod bounded;
pub mod v1;
mod worker_id;

pub use bounded::{List, TEXT_ELLIPSIS, Text, TooLong};
pub use worker_id::{InvalidWorkerId, WorkerId};
