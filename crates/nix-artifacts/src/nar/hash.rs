//! The NAR hash as a value and as text.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What the text of every hash starts with.
const PREFIX: &str = "sha256-";

/// The SHA-256 of a store path's Nix archive, written in SRI form: `sha256-<base 64>=`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NarHash([u8; 32]);

/// Why a text is no [`NarHash`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "invalid NAR hash {text:?}: {problem}; accepted is the SRI form that `nix path-info --json` prints, \
     sha256- and 44 characters of base 64"
)]
pub struct InvalidNarHash {
    text: String,
    problem: &'static str,
}

impl NarHash {
    /// The hash with these 32 bytes.
    pub const fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// Its bytes.
    pub const fn digest(self) -> [u8; 32] {
        self.0
    }
}

fn decode(text: &str) -> Result<[u8; 32], &'static str> {
    if text.starts_with("sha256:") {
        return Err("this is Nix's older form; `nix hash to-sri` turns it into the accepted one");
    }
    let Some(encoded) = text.strip_prefix(PREFIX) else {
        return Err("it does not start with sha256-");
    };
    let not_canonical = "what follows sha256- is no canonical base 64";
    // The decoder takes several padded texts after one another for one.
    if encoded.trim_end_matches('=').contains('=') {
        return Err(not_canonical);
    }
    let bytes = BASE64.decode(encoded.as_bytes()).map_err(|_| not_canonical)?;
    <[u8; 32]>::try_from(bytes).map_err(|_| "it does not hold 32 bytes")
}

impl FromStr for NarHash {
    type Err = InvalidNarHash;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decode(text)
            .map(Self)
            .map_err(|problem| InvalidNarHash { text: text.chars().take(80).collect(), problem })
    }
}

impl TryFrom<String> for NarHash {
    type Error = InvalidNarHash;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NarHash> for String {
    fn from(hash: NarHash) -> Self {
        hash.to_string()
    }
}

impl fmt::Display for NarHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}{}", BASE64.encode(&self.0))
    }
}

impl fmt::Debug for NarHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}
