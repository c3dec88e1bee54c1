//! What both ends of an attached console speak, once `GET /v1/vms/{id}/console/attach` was answered with
//! `101 Switching Protocols`.
//!
//! `frame` is what travels, `request` what is asked for in the beginning.

mod frame;
mod request;

pub use frame::{
    ClientFrame, ConsoleEnd, FrameError, FrameReader, MAX_INPUT, PenState, ServerFrame, WireFrame,
};
pub use request::{BootList, BootView, ConsoleRequest, PenRequest};

/// The protocol's name in the `Upgrade` header.
pub const CONSOLE_PROTOCOL: &str = "procurator-console";
