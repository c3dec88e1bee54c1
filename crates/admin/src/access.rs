//! Who may do what on a socket.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tracing::field::{DisplayValue, display};
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

/// Who asked, as the fields of a line of the audit log. What is not known of them is absent there.
#[derive(Debug)]
pub(crate) struct CallerFields {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) pid: Option<i32>,
    pub(crate) address: Option<DisplayValue<IpAddr>>,
}

impl From<Caller> for CallerFields {
    fn from(caller: Caller) -> Self {
        let Caller { uid, gid, pid, address } = caller;
        let known = |id: u32, unknown: u32| (id != unknown).then_some(id);
        let (uid, gid) = (known(uid, Caller::UNKNOWN.uid), known(gid, Caller::UNKNOWN.gid));
        Self { uid, gid, pid, address: address.map(display) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn who_came_by_the_network_has_an_address_and_no_user() {
        let CallerFields { uid, gid, pid, address } = Caller::at(Ipv4Addr::LOCALHOST.into()).into();
        assert_eq!((uid, gid, pid), (None, None, None));
        assert_eq!(address.map(|address| address.to_string()).as_deref(), Some("127.0.0.1"));
        let CallerFields { uid, gid, pid, address } = Caller::process(0, 1, Some(2)).into();
        assert_eq!((uid, gid, pid, address.is_none()), (Some(0), Some(1), Some(2), true));
    }
}
