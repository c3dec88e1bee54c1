//! The seal of what a process is given to keep: by it a later worker knows its own words again.
//!
//! A process that runs a guest keeps what a worker noted with the machine, and a guest that took the process over can answer
//! with anything. What is sealed can only be given back as it was. The key is drawn for each run and stays on the VM's record,
//! so that the words of one run are of no use in another, nor those of one VM for another.

use std::fmt;

use data_encoding::HEXLOWER;
use ring::error::Unspecified;
use ring::hmac::{HMAC_SHA256, Key, sign, verify};
use ring::rand::{SystemRandom, generate};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const LENGTH: usize = 32;

/// The key of one run's seal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SealKey([u8; LENGTH]);

impl SealKey {
    /// A new key.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub(crate) fn draw() -> Result<Self, Unspecified> {
        generate(&SystemRandom::new()).map(|random| Self(random.expose()))
    }

    /// The JSON object `text` with its seal in front, as the key `seal`: workers that know of no seals read it as before.
    /// Anything else than an object stays as it is.
    pub(crate) fn seal(&self, text: &str) -> String {
        let Some(members) = text.strip_prefix('{') else { return text.to_owned() };
        let seal = HEXLOWER.encode(sign(&self.key(), members.as_bytes()).as_ref());
        format!("{OPENING}{seal}{CLOSING}{members}")
    }

    /// Whether `text` is what [`SealKey::seal`] made, byte for byte.
    pub(crate) fn has_sealed(&self, text: &str) -> bool {
        let sealed = text.strip_prefix(OPENING).and_then(|rest| rest.split_once(CLOSING));
        sealed.is_some_and(|(seal, members)| {
            let seal = HEXLOWER.decode(seal.as_bytes());
            seal.is_ok_and(|seal| verify(&self.key(), members.as_bytes(), &seal).is_ok())
        })
    }

    fn key(&self) -> Key {
        Key::new(HMAC_SHA256, &self.0)
    }
}

const OPENING: &str = r#"{"seal":""#;
const CLOSING: &str = r#"","#;

impl fmt::Debug for SealKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SealKey(..)")
    }
}

impl Serialize for SealKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for SealKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| D::Error::custom("a key of a seal is 64 digits of lower-case hexadecimal"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, from_str};

    use super::*;

    fn key(byte: u8) -> SealKey {
        SealKey([byte; LENGTH])
    }

    #[test]
    fn what_is_sealed_reads_as_before_and_is_known_again_by_its_key_alone() {
        let sealed = key(1).seal(r#"{"version":1,"vm":"a"}"#);
        let read: Value = from_str(&sealed).expect("JSON");
        assert_eq!((&read["version"], &read["vm"]), (&1.into(), &"a".into()));
        assert!(key(1).has_sealed(&sealed));
        assert!(!key(2).has_sealed(&sealed), "of another run");
        assert!(!key(1).has_sealed(r#"{"version":1,"vm":"a"}"#), "without a seal");
        assert_eq!(key(1).seal("nothing"), "nothing");
    }

    #[test]
    fn keys_differ_read_back_and_are_not_shown() {
        let drawn = SealKey::draw().expect("random bytes");
        assert_ne!(drawn, SealKey::draw().expect("random bytes"));
        let text = serde_json::to_string(&drawn).expect("JSON");
        assert_eq!(from_str::<SealKey>(&text).expect("a key"), drawn);
        assert!(from_str::<SealKey>(r#""00""#).is_err(), "too short");
        assert_eq!(format!("{drawn:?}"), "SealKey(..)");
    }

    proptest! {
        #[test]
        fn no_other_text_has_the_seal(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let sealed = key(1).seal(r#"{"version":1,"vm":"a","address":"10.100.0.2"}"#);
            let mut changed = sealed.clone().into_bytes();
            let place = place.index(changed.len());
            changed[place] = byte;
            if let Ok(changed) = String::from_utf8(changed) {
                prop_assert_eq!(key(1).has_sealed(&changed), changed == sealed);
            }
        }

        #[test]
        fn any_text_is_looked_at(text: String) {
            prop_assert!(!key(1).has_sealed(&text));
        }
    }
}
