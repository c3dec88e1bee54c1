//! From a frame to a message.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use thiserror::Error;
use vm_model::read_json;

use super::nesting::is_deeper_than;
use crate::wire::Text;
use crate::wire::v1::{
    Accepted, Assignment, Goodbye, Hello, MasterMessage, NESTING_MOST, Ping, Pong, Refused, Report,
    ReportRequest, Welcome, WorkerMessage,
};

/// Why a frame is no message. The connection is ended: what its sender meant is not known.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// It is no JSON object with a `type`.
    #[error("a frame is no JSON object with a \"type\": {problem}")]
    NoMessage {
        /// What is wrong, and where.
        problem: Text<300>,
    },
    /// Its lists and objects are nested too deeply.
    #[error("a frame with lists or objects nested more than {NESTING_MOST} deep")]
    TooDeep,
    /// It has a known type and is not as that type is.
    #[error("invalid message {kind:?}: {problem}")]
    Invalid {
        /// The type.
        kind: &'static str,
        /// What is wrong, and where.
        problem: Text<300>,
    },
}

/// The message that a worker wrote in `frame`; `None` for a type that this version does not know, which is skipped.
///
/// # Errors
/// The frame is no message.
pub fn decode_worker_message(frame: &[u8]) -> Result<Option<WorkerMessage>, MessageError> {
    Ok(Some(match kind_of(frame)?.as_ref() {
        "hello" => WorkerMessage::Hello(Box::new(read::<Hello>("hello", frame)?)),
        "accepted" => WorkerMessage::Accepted(read::<Accepted>("accepted", frame)?),
        "refused" => WorkerMessage::Refused(read::<Refused>("refused", frame)?),
        "report" => WorkerMessage::Report(Box::new(read::<Report>("report", frame)?)),
        "ping" => WorkerMessage::Ping(read::<Ping>("ping", frame)?),
        "pong" => WorkerMessage::Pong(read::<Pong>("pong", frame)?),
        "goodbye" => WorkerMessage::Goodbye(read::<Goodbye>("goodbye", frame)?),
        _ => return Ok(None),
    }))
}

/// The message that a master wrote in `frame`; `None` for a type that this version does not know, which is skipped.
///
/// # Errors
/// The frame is no message.
pub fn decode_master_message(frame: &[u8]) -> Result<Option<MasterMessage>, MessageError> {
    Ok(Some(match kind_of(frame)?.as_ref() {
        "welcome" => MasterMessage::Welcome(read::<Welcome>("welcome", frame)?),
        "assignment" => MasterMessage::Assignment(read::<Assignment>("assignment", frame)?),
        "report_request" => MasterMessage::ReportRequest(read::<ReportRequest>("report_request", frame)?),
        "ping" => MasterMessage::Ping(read::<Ping>("ping", frame)?),
        "pong" => MasterMessage::Pong(read::<Pong>("pong", frame)?),
        "goodbye" => MasterMessage::Goodbye(read::<Goodbye>("goodbye", frame)?),
        _ => return Ok(None),
    }))
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

/// The frame's type. Everything else is skipped over, and nothing of it is kept.
fn kind_of(frame: &[u8]) -> Result<Cow<'_, str>, MessageError> {
    if is_deeper_than(frame, NESTING_MOST) {
        return Err(MessageError::TooDeep);
    }
    // A list would be read as the object's values in order, which the protocol does not know.
    if frame.trim_ascii_start().first() != Some(&b'{') {
        return Err(MessageError::NoMessage { problem: Text::cut("it does not begin with a brace") });
    }
    match read_json::<Envelope<'_>>(frame) {
        Ok(envelope) => Ok(envelope.kind),
        Err(problem) => Err(MessageError::NoMessage { problem: cut(&problem) }),
    }
}

fn read<'a, T: Deserialize<'a>>(kind: &'static str, frame: &'a [u8]) -> Result<T, MessageError> {
    read_json(frame).map_err(|problem| MessageError::Invalid { kind, problem: cut(&problem) })
}

/// The problem, cut: it may quote what the peer sent.
fn cut(problem: &impl fmt::Display) -> Text<300> {
    Text::cut(problem.to_string())
}
