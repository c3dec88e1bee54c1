//! The name of one of the networks that a host gives its virtual machines.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

/// The longest name, in bytes.
const LONGEST: usize = 32;
/// The network of interfaces that name none.
const DEFAULT: &str = "default";

/// A network's name: a DNS label (RFC 1123 §2.1) of at most 32 bytes, because it also names a directory. The default is
/// `default`, the network of interfaces that name none. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct NetworkName(Arc<str>);

/// Why a text is no [`NetworkName`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("invalid network name {text:?}: {} is accepted", NetworkName::ACCEPTED)]
pub struct InvalidNetworkName {
    text: String,
}

impl NetworkName {
    /// What is accepted, in words.
    pub const ACCEPTED: &str = "1 to 32 of a-z, 0-9 and '-', neither starting nor ending with '-'";

    /// The name that `text` spells.
    ///
    /// # Errors
    /// It breaks the rule of [`NetworkName::ACCEPTED`].
    pub fn parse(text: &str) -> Result<Self, InvalidNetworkName> {
        let is_label = !text.is_empty()
            && text.len() <= LONGEST
            && !text.starts_with('-')
            && !text.ends_with('-')
            && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if is_label {
            Ok(Self(text.into()))
        } else {
            Err(InvalidNetworkName { text: text.chars().take(80).collect() })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the network of interfaces that name none.
    pub fn is_default(&self) -> bool {
        &*self.0 == DEFAULT
    }
}

impl Default for NetworkName {
    fn default() -> Self {
        Self(DEFAULT.into())
    }
}

impl FromStr for NetworkName {
    type Err = InvalidNetworkName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for NetworkName {
    type Error = InvalidNetworkName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<NetworkName> for String {
    fn from(name: NetworkName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_are_accepted_and_the_rest_is_refused_with_the_rule() {
        assert_eq!(NetworkName::default(), NetworkName::parse("default").unwrap());
        assert!(NetworkName::default().is_default());
        for text in ["", "-a", "a-", "Storage", "a.b", "../x", "a/b", &"a".repeat(33)] {
            let refused = NetworkName::parse(text).unwrap_err().to_string();
            assert!(refused.contains("1 to 32 of a-z"), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn a_name_that_is_accepted_is_a_plain_file_name(text in ".{0,40}") {
            if let Ok(name) = NetworkName::parse(&text) {
                prop_assert_eq!(name.as_str(), text.as_str());
                prop_assert!(!text.contains(['/', '.', '\0']));
            }
        }
    }
}
