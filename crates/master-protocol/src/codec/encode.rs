//! From a message to a frame.

use serde::Serialize;
use thiserror::Error;

use super::frame::HEADER_BYTES;
use crate::wire::v1::{FRAME_MOST_BYTES, Report, WorkerMessage};

/// Why a message cannot be written.
#[derive(Debug, Error)]
pub enum EncodeError {
    /// It cannot be written as JSON.
    #[error("the message cannot be written as JSON")]
    NotJson(#[source] serde_json::Error),
    /// It does not fit in a frame.
    #[error("the message takes {length} bytes; a frame holds {FRAME_MOST_BYTES}")]
    TooLong {
        /// What it takes.
        length: usize,
    },
}

/// `message` as a frame, with its length before it.
///
/// # Errors
/// It is no JSON, or too long.
pub fn encode_frame(message: &impl Serialize) -> Result<Vec<u8>, EncodeError> {
    let mut frame = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut frame, message).map_err(EncodeError::NotJson)?;
    let length = frame.len() - HEADER_BYTES;
    match u32::try_from(length) {
        Ok(header) if length <= FRAME_MOST_BYTES => {
            frame[..HEADER_BYTES].copy_from_slice(&header.to_be_bytes());
            Ok(frame)
        }
        Ok(_) | Err(_) => Err(EncodeError::TooLong { length }),
    }
}

/// `report` in as many frames as it takes, each but the last marked with `more`.
///
/// # Errors
/// A single VM's report does not fit in a frame, which the bounds of its fields rule out.
pub fn encode_report(report: Report) -> Result<Vec<Vec<u8>>, EncodeError> {
    let mut frames = Vec::new();
    let mut waiting = vec![report];
    while let Some(report) = waiting.pop() {
        let message = WorkerMessage::Report(Box::new(report));
        match encode_frame(&message) {
            Ok(frame) => frames.push(frame),
            Err(EncodeError::TooLong { length }) => {
                let WorkerMessage::Report(report) = message else {
                    return Err(EncodeError::TooLong { length });
                };
                let (first, second) = halves(*report).ok_or(EncodeError::TooLong { length })?;
                waiting.extend([second, first]);
            }
            Err(problem @ EncodeError::NotJson(_)) => return Err(problem),
        }
    }
    Ok(frames)
}

/// The report as two that follow each other; `None` where it cannot be divided.
fn halves(mut first: Report) -> Option<(Report, Report)> {
    if first.vms.len() < 2 {
        return None;
    }
    let second = Report {
        sequence: first.sequence,
        full: false,
        more: first.more,
        node: first.node.clone(),
        vms: first.vms.split_off_half(),
        gone: std::mem::take(&mut first.gone),
    };
    first.more = true;
    Some((first, second))
}
