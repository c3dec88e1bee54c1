//! The name of a virtual machine on its host.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::shown_text;

/// A VM's name: a DNS label (RFC 1123 §2.1), because it also names directories, threads and hosts.
///
/// One to 63 bytes of `a-z`, `0-9` and `-`, neither starting nor ending with `-`. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct VmId(Arc<str>);

/// Why a text is no [`VmId`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "invalid VM id {text}: {problem}; a VM id is a DNS label: 1 to 63 of a-z, 0-9 and '-', \
     neither starting nor ending with '-'"
)]
pub struct InvalidVmId {
    text: String,
    problem: &'static str,
}

impl VmId {
    /// The id for a literal in code.
    ///
    /// # Panics
    /// If `literal` is not a valid id. Input from outside goes through [`VmId::parse`].
    pub fn new(literal: &str) -> Self {
        match Self::parse(literal) {
            Ok(id) => id,
            Err(error) => panic!("{error}"),
        }
    }

    /// The id that `text` spells.
    ///
    /// # Errors
    /// Says which rule `text` breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidVmId> {
        match problem_with(text) {
            None => Ok(Self(text.into())),
            Some(problem) => Err(InvalidVmId { text: shown_text(text), problem }),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn problem_with(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("it is empty")
    } else if text.len() > 63 {
        Some("it is longer than 63 bytes")
    } else if text.starts_with('-') || text.ends_with('-') {
        Some("it starts or ends with '-'")
    } else if !text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
        Some("it has a character other than a-z, 0-9 and '-'")
    } else {
        None
    }
}

impl FromStr for VmId {
    type Err = InvalidVmId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for VmId {
    type Error = InvalidVmId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<VmId> for String {
    fn from(id: VmId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl AsRef<str> for VmId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_is_no_dns_label() {
        for text in ["", "-a", "a-", "A", "a_b", "a.b", "ä", "a/b", &"a".repeat(64)] {
            assert!(VmId::parse(text).is_err(), "{text:?} must be refused");
        }
    }

    #[test]
    #[should_panic(expected = "invalid VM id \"No\"")]
    fn an_invalid_literal_panics() {
        let _ = VmId::new("No");
    }

    proptest! {
        #[test]
        fn what_parses_is_safe_as_a_path_component(text in ".{0,70}") {
            if let Ok(id) = VmId::parse(&text) {
                prop_assert!(!id.as_str().contains(['/', '.', '\0']));
                prop_assert!((1..=63).contains(&id.as_str().len()));
            }
        }

        #[test]
        fn survives_json(text in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?") {
            let id = VmId::parse(&text)?;
            let json = serde_json::to_string(&id).expect("ids serialise");
            prop_assert_eq!(serde_json::from_str::<VmId>(&json).expect("ids parse back"), id);
        }
    }
}
