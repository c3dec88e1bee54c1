//! Who may do what on a socket.

use vm_model::Caller;

/// What clients of a socket may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
