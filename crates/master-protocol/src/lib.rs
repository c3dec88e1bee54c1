//! draft
#![forbid(unsafe_code)]
pub mod codec;
mod conversion;
#[cfg(test)]
mod samples;
pub mod session;
pub mod wire;
mod worker_state;
pub use worker_state::{WorkerState, WorkerView};
