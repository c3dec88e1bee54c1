//! Messages to packets and back.

use std::os::fd::OwnedFd;

use thiserror::Error;

use super::descriptors::{DescriptorError, FdIndex};
use super::message::{FromHost, ToHost};
use super::packet::Packet;
use super::payload::{Outgoing, PayloadError, unpack};

/// Why a message cannot be sent, or what was received is none.
#[derive(Debug, Error)]
pub enum CodecError {
    /// It does not fit, or its file is not one.
    #[error("a message does not travel")]
    Payload(#[from] PayloadError),
    /// It cannot be written as JSON, or is not JSON of any message.
    #[error("a message is not as it should be")]
    Json(#[source] serde_json::Error),
    /// Its descriptors are not those it names.
    #[error("the descriptors of a message are not as it says")]
    Descriptors(#[from] DescriptorError),
}

/// The most bytes of what a host process says but for its welcome, which lists all machines with what was noted of them.
const NEWS_BYTES_MAX: usize = 1 << 20;
/// What a welcome begins with: the type comes first, whoever writes it.
const WELCOME: &[u8] = br#"{"type":"welcome""#;

/// A message that goes one way over a connection and can be packed and read.
pub trait Message: Sized {
    /// Packs it.
    ///
    /// # Errors
    /// It is too long or has too many descriptors.
    fn pack(self) -> Result<Outgoing, CodecError>;

    /// Reads it.
    ///
    /// # Errors
    /// What was received is no message.
    fn read(packet: Packet) -> Result<Self, CodecError>;
}

impl Message for ToHost<OwnedFd> {
    fn pack(self) -> Result<Outgoing, CodecError> {
        let (message, descriptors) = self.into_wire();
        let text = serde_json::to_vec(&message).map_err(CodecError::Json)?;
        Ok(Outgoing::pack(text, descriptors)?)
    }

    fn read(packet: Packet) -> Result<Self, CodecError> {
        let (text, descriptors) = unpack(packet)?;
        let message: ToHost<FdIndex> = serde_json::from_slice(&text).map_err(CodecError::Json)?;
        Ok(message.with_descriptors(descriptors)?)
    }
}

impl Message for FromHost {
    fn pack(self) -> Result<Outgoing, CodecError> {
        let text = serde_json::to_vec(&self).map_err(CodecError::Json)?;
        Ok(Outgoing::pack(text, Vec::new())?)
    }

    fn read(packet: Packet) -> Result<Self, CodecError> {
        let (text, descriptors) = unpack(packet)?;
        // Before it is parsed: whoever sends long ones over and over costs a worker that much.
        if text.len() > NEWS_BYTES_MAX && !text.starts_with(WELCOME) {
            return Err(PayloadError::TooLong { bytes: text.len() as u64, most: NEWS_BYTES_MAX }.into());
        }
        let message = serde_json::from_slice(&text).map_err(CodecError::Json)?;
        match (&message, descriptors.len()) {
            (_, 0) | (Self::Unknown, _) => Ok(message),
            (_, count) => Err(DescriptorError::LeftOver { count }.into()),
        }
    }
}

#[cfg(test)]
mod tests;
