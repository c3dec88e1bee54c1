//! Why a connection ended, and its last message.

use std::time::{Duration, Instant};

use thiserror::Error;

use crate::codec::{FrameError, MessageError};
use crate::wire::Text;
use crate::wire::v1::{Goodbye, GoodbyeCode, Words};

/// How long the message before the last may take.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);

/// Why a connection ended, as the end that ended it or noticed it says.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EndReason {
    /// The other end said goodbye.
    #[error("the other end closed the connection ({code:?}): {text}")]
    PeerLeft {
        /// Why, for a program.
        code: GoodbyeCode,
        /// Why, for a person.
        text: Words,
    },
    /// The connection ended without a word.
    #[error(
        "the connection ended without a goodbye: the program at its other end was killed, or the network failed"
    )]
    Closed,
    /// This end is shutting down.
    #[error("this end is shutting down")]
    ShuttingDown,
    /// A newer connection of the same worker has taken this one's place.
    #[error("a newer connection of the same worker took its place")]
    Replaced,
    /// A worker of the same name on another host is connected. It stays, this one does not.
    #[error(
        "worker {worker} is connected from {address} on another host, as far as the two say where they are: give each host a certificate of its own"
    )]
    ElsewhereConnected {
        /// The name of both.
        worker: String,
        /// Where the other one is.
        address: std::net::SocketAddr,
    },
    /// Nothing is meant for a worker of this name, nobody vouches for the name, and there are enough of such.
    #[error(
        "the master has nothing for a worker {worker} to run, and without TLS it lets in few such workers: have its desired \
         state there first, or use certificates"
    )]
    TooManyStrangers {
        /// The name that it gave.
        worker: String,
    },
    /// The other end sent nothing for too long.
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    /// The other end took nothing of what was sent for too long.
    #[error("a message could not be sent for {0:?}")]
    Stalled(Duration),
    /// The first message did not come in time.
    #[error("no {expected:?} came within {within:?}")]
    NoGreeting {
        /// The type of the message.
        expected: &'static str,
        /// The time there was.
        within: Duration,
    },
    /// The bytes that came cannot be divided into frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame that came is no message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A message came that has no place at this point.
    #[error("{kind:?} came where {expected} was expected")]
    OutOfOrder {
        /// The message's type.
        kind: &'static str,
        /// What was expected.
        expected: &'static str,
    },
    /// No version is known to both ends.
    #[error("no common version: the other end speaks {theirs}, this one {ours}")]
    NoCommonVersion {
        /// Versions of the other end.
        theirs: String,
        /// The version of this end.
        ours: u32,
    },
    /// The worker is not who its certificate says.
    #[error("the worker calls itself {claimed}; its certificate is of {certified}")]
    WrongIdentity {
        /// The name in `hello`.
        claimed: String,
        /// The name in the certificate.
        certified: String,
    },
    /// A value of the first message is outside of what is accepted.
    #[error("{field} is {value}; accepted is {accepted}")]
    Unacceptable {
        /// The message and key.
        field: &'static str,
        /// The value.
        value: u64,
        /// What is accepted.
        accepted: &'static str,
    },
    /// The master's name or epoch is none.
    #[error(transparent)]
    Lineage(#[from] vm_model::InvalidLineage),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl EndReason {
    /// The last message to the other end; `None` where it is gone, or has said its own.
    pub fn goodbye(&self) -> Option<Goodbye> {
        let code = match self {
            Self::PeerLeft { .. } | Self::Closed | Self::Broken(_) => return None,
            Self::ShuttingDown => GoodbyeCode::ShuttingDown,
            Self::Replaced => GoodbyeCode::Replaced,
            Self::ElsewhereConnected { .. } => GoodbyeCode::ElsewhereConnected,
            Self::TooManyStrangers { .. } => GoodbyeCode::TooBusy,
            Self::Silent(_) | Self::Stalled(_) | Self::NoGreeting { .. } => GoodbyeCode::TimedOut,
            Self::Frame(_) | Self::Message(_) | Self::Unacceptable { .. } | Self::Lineage(_) => {
                GoodbyeCode::Malformed
            }
            Self::OutOfOrder { .. } => GoodbyeCode::OutOfOrder,
            Self::NoCommonVersion { .. } => GoodbyeCode::NoCommonVersion,
            Self::WrongIdentity { .. } => GoodbyeCode::WrongIdentity,
        };
        Some(Goodbye { code, text: Text::cut(self.to_string()) })
    }
}

impl From<Goodbye> for EndReason {
    fn from(goodbye: Goodbye) -> Self {
        Self::PeerLeft { code: goodbye.code, text: goodbye.text }
    }
}

/// The end of a session: the reason, then the last message as soon as it can be sent, then nothing.
#[derive(Debug, Default)]
pub(super) struct Closing {
    reason: Option<EndReason>,
    goodbye_is_sent: bool,
    /// When the last message is given up.
    give_up_at: Option<Instant>,
}

/// What is left to do on a connection that ends.
pub(super) enum ClosingStep {
    /// This is to be sent.
    Say(Goodbye),
    /// The message before it is still on its way out.
    Wait,
    /// Nothing.
    End(EndReason),
}

impl Closing {
    /// Ends the session. The first reason counts.
    pub(super) fn begin(&mut self, reason: EndReason) {
        self.reason.get_or_insert(reason);
    }

    pub(super) fn is_begun(&self) -> bool {
        self.reason.is_some()
    }

    /// What to do at `now`; `None` while the session does not end.
    pub(super) fn step(&mut self, now: Instant, can_send: bool) -> Option<ClosingStep> {
        let reason = self.reason.as_ref()?;
        let goodbye = reason.goodbye().filter(|_| !self.goodbye_is_sent);
        let give_up_at = *self.give_up_at.get_or_insert(now + GOODBYE_WITHIN);
        Some(match goodbye {
            Some(goodbye) if can_send => {
                self.goodbye_is_sent = true;
                ClosingStep::Say(goodbye)
            }
            Some(_) if now < give_up_at && !matches!(reason, EndReason::Stalled(_)) => ClosingStep::Wait,
            Some(_) | None => ClosingStep::End(reason.clone()),
        })
    }

    /// When to look again, where the session ends.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.give_up_at
    }
}
