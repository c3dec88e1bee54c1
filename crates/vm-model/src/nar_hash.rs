//! The NAR hash as a value: read in every form in which Nix prints one ([`forms`]), written in one.

pub(crate) mod forms;

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use self::forms::HashFormat;
use crate::{shown_text, shown_value};

/// What the SRI form starts with.
const SRI: &str = "sha256-";
/// Bytes of a SHA-256.
const BYTES: usize = 32;

/// The SHA-256 of a store path's Nix archive. It is read in every form that Nix prints, and written in SRI form:
/// `sha256-<base 64>=`. Two hashes that were written in different forms are equal if they are the same.
///
/// ```
/// use vm_model::NarHash;
///
/// let sri: NarHash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".parse()?;
/// let base32: NarHash = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73".parse()?;
/// assert_eq!(sri, base32);
/// # Ok::<(), vm_model::InvalidNarHash>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NarHash([u8; BYTES]);

/// Why something is no [`NarHash`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{text} is no NAR hash: {problem}; accepted is the SHA-256 of a store path in a form that Nix prints: sha256- and \
     44 characters of base 64, sha256: and 64 of hex, 52 of base 32 or 44 of base 64, these without sha256:, or the \
     object of `nix path-info --json`"
)]
pub struct InvalidNarHash {
    text: String,
    problem: &'static str,
}

impl NarHash {
    /// The hash with these 32 bytes.
    pub const fn new(digest: [u8; BYTES]) -> Self {
        Self(digest)
    }

    /// Its bytes.
    pub const fn digest(self) -> [u8; BYTES] {
        self.0
    }

    /// Its bytes in Nix's base 32, 52 characters: the form that signatures of store paths are made of.
    pub fn nix32(self) -> String {
        forms::to_nix32(&self.0)
    }

    /// Reads what `nix path-info --json` prints as `narHash`: a text, or with newer versions an object of `algorithm`,
    /// `format` and `hash`.
    ///
    /// # Errors
    /// It is neither, of another algorithm, or not what its format says.
    pub fn from_json(value: &Value) -> Result<Self, InvalidNarHash> {
        let refuse = |problem| InvalidNarHash { text: shown_value(value), problem };
        match value {
            Value::String(text) => text.parse(),
            Value::Object(members) => {
                let member = |name: &str| members.get(name).and_then(Value::as_str);
                let hash = member("hash").ok_or_else(|| refuse("its member hash is no text"))?;
                if member("algorithm").is_some_and(|algorithm| algorithm != "sha256") {
                    return Err(refuse("its algorithm is not sha256"));
                }
                let decoded = match member("format").map(HashFormat::named) {
                    Some(Some(format)) => forms::from_encoded(hash, format),
                    Some(None) => Err("its format is none of base16, nix32, base64 and sri"),
                    None => forms::from_text(hash),
                };
                decoded.map(Self).map_err(refuse)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                Err(refuse("it is neither a text nor an object"))
            }
        }
    }
}

impl FromStr for NarHash {
    type Err = InvalidNarHash;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        forms::from_text(text).map(Self).map_err(|problem| InvalidNarHash { text: shown_text(text), problem })
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
        write!(formatter, "{SRI}{}", BASE64.encode(&self.0))
    }
}

impl fmt::Debug for NarHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// The hash of nothing, as Nix prints it in each form.
    const BASE64_FORM: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    const HEX_FORM: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const NIX32_FORM: &str = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";

    #[test]
    fn every_form_of_one_hash_is_the_same() {
        let sri = format!("sha256-{BASE64_FORM}");
        let expected: NarHash = sri.parse().expect("the SRI form");
        assert_eq!(expected.to_string(), sri);
        for text in [BASE64_FORM, HEX_FORM, NIX32_FORM, &HEX_FORM.to_uppercase()] {
            for text in [text.to_owned(), format!("sha256:{text}")] {
                assert_eq!(text.parse(), Ok(expected), "{text}");
                assert_eq!(NarHash::from_json(&json!(text)), Ok(expected), "{text}");
            }
        }
        assert_eq!(expected.nix32(), NIX32_FORM);
        for (format, hash) in [
            ("base16", HEX_FORM),
            ("hex", HEX_FORM),
            ("nix32", NIX32_FORM),
            ("base32", NIX32_FORM),
            ("base64", BASE64_FORM),
            ("sri", &sri),
        ] {
            let object = json!({"algorithm": "sha256", "format": format, "hash": hash});
            assert_eq!(NarHash::from_json(&object), Ok(expected), "{object}");
        }
    }

    #[test]
    fn texts_that_are_no_hash_are_refused() {
        let problem = |text: &str| text.parse::<NarHash>().expect_err(text).problem;
        let no_form = "it has a character or an end that its form has not";
        assert_eq!(problem("sha256-x="), no_form);
        assert_eq!(problem("sha256-47DEQpj8HBSa+/TImW+5JA=="), "it does not hold the 32 bytes of a SHA-256");
        assert_eq!(problem("sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV="), no_form, "spare bits");
        // Two texts, each with its own padding, of 8 and 24 bytes.
        let midst = "sha256-4/TIkm5NMpU=/DEQpj7777777777774HBSa777777777";
        assert_eq!(problem(midst), "it has '=' in its midst");
        assert_eq!(problem(&format!("sha512-{BASE64_FORM}")), "it is no SHA-256");
        assert_eq!(problem(&HEX_FORM.replace('e', "g")), no_form);
        assert_eq!(problem(&NIX32_FORM.replace("0m", "zm")), no_form, "more than 256 bits");
        assert_eq!(problem(&NIX32_FORM.replace('m', "e")), no_form);
        for text in ["", "sha256-", "sha256:", &format!(" {HEX_FORM}"), &HEX_FORM[1..]] {
            text.parse::<NarHash>().expect_err(text);
        }
        let error = "sha256-x=".parse::<NarHash>().expect_err("no hash").to_string();
        assert!(error.starts_with("a text of 9 bytes is no NAR hash: it has a character"), "{error}");
    }

    #[test]
    fn json_that_is_no_hash_is_refused() {
        for value in [
            json!(null),
            json!(7),
            json!([BASE64_FORM]),
            json!({}),
            json!({"algorithm": "sha512", "format": "base64", "hash": BASE64_FORM}),
            json!({"algorithm": "sha256", "format": "base16", "hash": BASE64_FORM}),
            json!({"algorithm": "sha256", "format": "base36", "hash": BASE64_FORM}),
            json!({"algorithm": "sha256", "format": "base64", "hash": 7}),
        ] {
            let error = NarHash::from_json(&value).expect_err("no hash").to_string();
            assert!(error.contains("no NAR hash") && error.len() < 500, "{value}: {error}");
        }
    }

    proptest! {
        #[test]
        fn hashes_survive_text(digest: [u8; 32]) {
            let hash = NarHash::new(digest);
            prop_assert_eq!(hash.to_string().parse::<NarHash>(), Ok(hash));
            let json = serde_json::to_string(&hash).expect("serialises");
            prop_assert_eq!(serde_json::from_str::<NarHash>(&json).expect("parses"), hash);
        }

        #[test]
        fn no_text_panics(text in "(sha256[-:])?(\\PC{0,60}|[0-9a-z]{52})") {
            if let Ok(hash) = text.parse::<NarHash>() {
                prop_assert_eq!(hash.to_string().parse::<NarHash>(), Ok(hash));
            }
        }
    }
}
