//! Who may do what on a socket.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vm_model::Caller;

use crate::{ApiError, ErrorCode};

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Everything.
    Full,
    /// Look, and change nothing.
    ReadOnly,
}

/// A client, as the kernel tells of it. It is an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub caller: Caller,
    /// What it may do.
    pub access: Access,
}

impl Peer {
    /// What it hears that may only look and asks for more.
    pub(crate) fn only_looks(&self) -> ApiError {
        let (message, hint) = match self.caller.address {
            None => ("this socket is for reading only", format!("ask for this on {}", crate::SOCKET_NAME)),
            Some(_) => ("this address is for reading only", "the worker's web.read_only says so".to_owned()),
        };
        ApiError::new(ErrorCode::ReadOnly, message).hint(Some(hint))
    }
}
