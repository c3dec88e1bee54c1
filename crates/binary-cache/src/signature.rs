//! Who vouches for a store path: Ed25519 signatures and the keys that a host trusts, in the form in which Nix writes both:
//! `<name>:<base 64>`.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use ring::signature::{ED25519, ED25519_PUBLIC_KEY_LEN, UnparsedPublicKey};
use thiserror::Error;
use vm_model::shown_text;

/// Bytes of a signature (RFC 8032 §5.1.6).
const SIGNATURE_LENGTH: usize = 64;

/// A public key whose signatures are believed, as `nix-store --generate-binary-cache-key` makes it.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustedKey {
    name: String,
    key: [u8; ED25519_PUBLIC_KEY_LEN],
}

/// Why a text is no [`TrustedKey`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{text} is no public key: {problem}; <name>:<44 characters of base 64> is accepted, as Nix makes them"
)]
pub struct InvalidTrustedKey {
    text: String,
    problem: &'static str,
}

/// A signature of a store path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    /// The name of the key that made it, as whoever signed says.
    pub(crate) key: String,
    signature: Vec<u8>,
}

/// A text that is no signature.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoSignature;

impl FromStr for TrustedKey {
    type Err = InvalidTrustedKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |problem| InvalidTrustedKey { text: shown_key(text), problem };
        let (name, encoded) = text.split_once(':').ok_or_else(|| refuse("it has no colon"))?;
        if name.is_empty() {
            return Err(refuse("it has no name"));
        }
        let decoded = BASE64.decode(encoded.as_bytes()).map_err(|_| refuse("it is no base 64"))?;
        let key = decoded.try_into().map_err(|decoded: Vec<u8>| {
            // Worth its own words: who confuses the two gives away the secret.
            refuse(if decoded.len() == 64 { "it is a secret key" } else { "it has not 32 bytes" })
        })?;
        Ok(Self { name: name.to_owned(), key })
    }
}

/// What may be shown of a text that is no key: its name. The rest may be a secret that was confused with one.
fn shown_key(text: &str) -> String {
    match text.split_once(':') {
        Some((name, _)) => format!("{}:…", shown_text(name)),
        None => format!("{}…", shown_text(&text.chars().take(8).collect::<String>())),
    }
}

impl TrustedKey {
    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it made `signature` of `message`.
    pub(crate) fn has_signed(&self, message: &str, signature: &Signature) -> bool {
        signature.key == self.name
            && UnparsedPublicKey::new(&ED25519, self.key)
                .verify(message.as_bytes(), &signature.signature)
                .is_ok()
    }
}

impl fmt::Display for TrustedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.name, BASE64.encode(&self.key))
    }
}

impl fmt::Debug for TrustedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Signature {
    type Err = NoSignature;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, encoded) = text.split_once(':').ok_or(NoSignature)?;
        let signature = BASE64.decode(encoded.as_bytes()).map_err(|_| NoSignature)?;
        if signature.len() != SIGNATURE_LENGTH {
            return Err(NoSignature);
        }
        Ok(Self { key: key.to_owned(), signature })
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    fn pair() -> Ed25519KeyPair {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("random");
        Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key")
    }

    #[test]
    fn a_signature_counts_for_its_message_key_and_name_alone() {
        let (one, other) = (pair(), pair());
        let key = |name: &str, pair: &Ed25519KeyPair| -> TrustedKey {
            format!("{name}:{}", BASE64.encode(pair.public_key().as_ref())).parse().expect("a key")
        };
        let signed = format!("mine-1:{}", BASE64.encode(one.sign(b"1;path").as_ref()));
        let signature: Signature = signed.parse().expect("a signature");
        assert!(key("mine-1", &one).has_signed("1;path", &signature));
        assert!(!key("mine-1", &one).has_signed("1;Path", &signature));
        assert!(!key("mine-2", &one).has_signed("1;path", &signature));
        assert!(!key("mine-1", &other).has_signed("1;path", &signature));
    }

    #[test]
    fn what_is_no_public_key_is_refused_with_why() {
        let secret = format!("mine-1:{}", BASE64.encode(&[7; 64]));
        for (text, said) in
            [("mine", "no colon"), (":AAAA", "no name"), ("mine:!", "no base 64"), ("mine:AAAA", "32 bytes")]
        {
            let refused = text.parse::<TrustedKey>().expect_err(text).to_string();
            assert!(refused.contains(said), "{refused}");
        }
        let refused = secret.parse::<TrustedKey>().expect_err("secret").to_string();
        assert!(refused.contains("secret key") && !refused.contains("BwcH"), "{refused}");
    }
}
