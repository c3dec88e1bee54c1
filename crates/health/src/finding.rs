//! What one run of a probe finds, and why it is a failure.

use std::io;
use std::time::Duration;

use thiserror::Error;
use vm_model::error_chain;

/// The longest reason that is kept of a failure, in characters.
const REASON_MAX: usize = 240;

/// What one run of a probe finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// All is well.
    Success,
    /// Something is not; says what.
    Failure(String),
    /// Nothing can be told; says why.
    Unknown(String),
}

/// Why a guest that was asked did not answer as expected.
#[derive(Debug, Error)]
pub enum ProbeFailure {
    /// There was no answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// It took no connection.
    #[error("cannot connect to {target}")]
    Connect {
        /// Where to.
        target: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// What it answered is no HTTP, or the connection broke.
    #[error("no HTTP answer from {target}")]
    Http {
        /// Whom was asked.
        target: String,
        /// What was wrong.
        #[source]
        source: hyper::Error,
    },
    /// The request cannot be made of the probe's settings.
    #[error("cannot make a request of the probe's settings")]
    Request(#[source] hyper::http::Error),
    /// It answered with another status.
    #[error("status {status}, expected was {least} to {greatest}")]
    Status {
        /// The status.
        status: u16,
        /// The least one expected.
        least: u16,
        /// The greatest one expected.
        greatest: u16,
    },
    /// The text that was expected is not in the answer.
    #[error("{phrase:?} is not in the first {read} bytes of the answer")]
    Phrase {
        /// What was expected.
        phrase: String,
        /// How many bytes were looked through.
        read: usize,
    },
    /// Nobody in the guest listens at this port of its socket device.
    #[error("the guest refused a connection to vsock port {port}")]
    VsockRefused {
        /// The port.
        port: u32,
    },
    /// The VM has nothing by which this could be asked.
    #[error("the VM has no {0}")]
    NoTarget(&'static str),
}

impl From<Result<(), ProbeFailure>> for Finding {
    fn from(result: Result<(), ProbeFailure>) -> Self {
        match result {
            Ok(()) => Self::Success,
            Err(failure) => Self::Failure(printable(&error_chain(&failure), REASON_MAX)),
        }
    }
}

/// `text` cut to `most` characters, control characters escaped: it may have come from a guest.
pub(crate) fn printable(text: &str, most: usize) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == most {
            shown.push('…');
            break;
        }
        if is_shown(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_default());
        }
    }
    shown
}

/// Whether a character is shown as it is: no control character, and none that changes the direction of writing.
fn is_shown(character: char) -> bool {
    let changes_direction =
        matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !character.is_control() && !changes_direction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_guest_is_cut_and_escaped() {
        assert_eq!(printable("a\u{1b}[31mb\n", 20), "a\\u{1b}[31mb\\n");
        assert_eq!(printable("über", 20), "über");
        assert_eq!(printable("\u{202e}x", 20), "\\u{202e}x");
        assert_eq!(printable("abcdef", 3), "abc…");
        assert_eq!(printable("abc", 3), "abc");
    }
}
