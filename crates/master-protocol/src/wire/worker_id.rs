//! Which worker a message is about.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name that DNS allows (RFC 1035 §2.3.4), as text without the dot at the end.
const MOST_BYTES: usize = 253;
const LABEL_MOST_BYTES: usize = 63;

/// A worker's name: a DNS name in lower case, the one in its certificate. It is safe as a file's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerId(String);

/// A text that names no worker.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "invalid worker id {text:?}: accepted is a DNS name in lower case of at most 253 bytes, like worker-1"
)]
pub struct InvalidWorkerId {
    text: String,
}

impl WorkerId {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WorkerId {
    type Err = InvalidWorkerId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_valid = text.len() <= MOST_BYTES && text.split('.').all(is_label);
        if is_valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidWorkerId { text: text.chars().take(MOST_BYTES).collect() })
        }
    }
}

fn is_label(label: &str) -> bool {
    let accepted = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL_MOST_BYTES).contains(&label.len())
        && label.bytes().all(accepted)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl TryFrom<String> for WorkerId {
    type Error = InvalidWorkerId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<WorkerId> for String {
    fn from(id: WorkerId) -> Self {
        id.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_safe_as_file_names_are_accepted() {
        for text in ["worker-1", "a", "host.rack-2.example.org", "9"] {
            assert_eq!(text.parse::<WorkerId>().expect(text).as_str(), text);
        }
        let long = "a.".repeat(127) + "a";
        for text in
            ["", ".", "..", "a..b", ".a", "a/b", "A", "-a", "a-", "a_b", "ä", "a b", &long, &"a".repeat(64)]
        {
            assert!(text.parse::<WorkerId>().is_err(), "{text:?} must be refused");
        }
    }
}
