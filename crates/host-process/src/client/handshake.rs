//! Opens a conversation with a host process and checks who answers.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use jail::{Gap, JailReport};
use machine_host::{CallFilter, HostingProcess, ProcessJail};
use thiserror::Error;

use super::believable::believable;
use crate::identity::{IdentityError, ProcessIdentity};
use crate::wire::{
    CodecError, Connection, ConnectionError, FromHost, Hello, Listener, Message, ToHost, VERSIONS, Version,
    Welcome, build,
};

/// Why no conversation came to be.
#[derive(Debug, Error)]
pub(super) enum HandshakeError {
    #[error("it did not answer within {patience:?}")]
    Silent { patience: Duration },
    #[error("which process goes on in its place is not known")]
    Successor(#[source] io::Error),
    #[error("the connection broke")]
    Connection(#[source] ConnectionError),
    #[error("it refuses: {reason}")]
    Refused { reason: String },
    #[error("its first message is no welcome")]
    NoWelcome,
    #[error("it speaks version {version:?}, which was not offered")]
    Version { version: Version },
    #[error("it says that it is process {told}, and the kernel that it is process {actual}")]
    OtherProcess { told: u32, actual: u32 },
    #[error("it says that it started at {told}, and the kernel that it did at {actual}")]
    OtherStart { told: u64, actual: u64 },
    #[error("the kernel does not tell who it is")]
    Unknown(#[source] IdentityError),
}

/// Says hello, and returns the answer. Does not bound the wait.
pub(super) async fn handshake(
    connection: &Connection,
    listener: Option<Listener<OwnedFd>>,
) -> Result<Welcome, HandshakeError> {
    let hello = ToHost::Hello(Hello { versions: VERSIONS.to_vec(), build: build(), listener });
    let packed = hello.pack().map_err(|error: CodecError| HandshakeError::Connection(error.into()))?;
    connection.send(&packed).await.map_err(HandshakeError::Connection)?;
    drop(packed);
    match connection.receive().await.map(believable).map_err(HandshakeError::Connection)? {
        FromHost::Welcome(welcome) if VERSIONS.contains(&welcome.version) => Ok(welcome),
        FromHost::Welcome(welcome) => Err(HandshakeError::Version { version: welcome.version }),
        FromHost::Refused { reason } => Err(HandshakeError::Refused { reason }),
        FromHost::Launched { .. }
        | FromHost::Reply { .. }
        | FromHost::NotTaken { .. }
        | FromHost::Counters { .. }
        | FromHost::Status { .. }
        | FromHost::Health { .. }
        | FromHost::Released { .. }
        | FromHost::LastWords { .. }
        | FromHost::Unknown => Err(HandshakeError::NoWelcome),
    }
}

impl Welcome {
    /// The process, by what it says of itself.
    pub(super) fn process(&self) -> HostingProcess {
        let jail = self.jail.as_ref().map(|report: &JailReport| ProcessJail {
            user: report.user,
            gaps: report.holes().map(Gap::to_string).collect(),
        });
        let untold = if self.is_filtered { CallFilter::Trap } else { CallFilter::Off };
        HostingProcess { pid: self.pid, jail, filter: self.filter.unwrap_or(untold) }
    }

    /// Checks that who answered is the process `pid`, as the kernel knows it.
    pub(super) fn check(self, pid: u32) -> Result<Self, HandshakeError> {
        let identity = ProcessIdentity::of(pid).map_err(HandshakeError::Unknown)?;
        if self.pid != pid {
            return Err(HandshakeError::OtherProcess { told: self.pid, actual: pid });
        }
        if self.start_time != identity.start_time {
            return Err(HandshakeError::OtherStart { told: self.start_time, actual: identity.start_time });
        }
        Ok(self)
    }
}
