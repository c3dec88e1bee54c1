//! Machines in processes of their own.

#![forbid(unsafe_code)]

mod awaited;
pub mod host;
mod identity;
pub mod wire;
