//! Texts that a machine's firmware tables carry for its guest: SMBIOS type 11, "OEM strings" (DMTF DSP0134 §7.12).
//!
//! systemd in a guest takes credentials from them (`systemd.system-credentials(7)`), so they may be secret: nothing here
//! shows what they say.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most strings of a machine: their count is one byte.
pub const OEM_STRINGS_MAX: usize = 255;
/// The most bytes of all strings of a machine, each with a NUL at its end. SMBIOS tables share 64 KiB below 1 MiB.
pub const OEM_STRINGS_BYTES_MAX: usize = 60 << 10;

/// The OEM strings of one machine, in order. They fit its tables.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct OemStrings(Vec<String>);

/// Why a string cannot be one of a machine's OEM strings. Never says what stands in it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OemStringsError {
    /// An empty string would end the table.
    #[error("it is empty")]
    Empty,
    /// NUL ends a string.
    #[error("it has a NUL in it")]
    Nul,
    /// There are too many of them.
    #[error("it is one more than the {OEM_STRINGS_MAX} that a machine can have")]
    TooMany,
    /// They are too long together.
    #[error(
        "all strings together would have {bytes} bytes, and a machine's tables have room for {OEM_STRINGS_BYTES_MAX}"
    )]
    TooLarge {
        /// How many bytes they would have, each with its NUL.
        bytes: usize,
    },
}

impl OemStrings {
    /// Appends `text`.
    ///
    /// # Errors
    /// The tables cannot hold it; nothing is appended then.
    pub fn push(&mut self, text: String) -> Result<(), OemStringsError> {
        if text.is_empty() {
            return Err(OemStringsError::Empty);
        }
        if text.contains('\0') {
            return Err(OemStringsError::Nul);
        }
        if self.0.len() >= OEM_STRINGS_MAX {
            return Err(OemStringsError::TooMany);
        }
        let bytes = self.bytes() + text.len() + 1;
        if bytes > OEM_STRINGS_BYTES_MAX {
            return Err(OemStringsError::TooLarge { bytes });
        }
        self.0.push(text);
        Ok(())
    }

    /// The strings, in order. They may be secret.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes they have, each with its NUL.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|text| text.len() + 1).sum()
    }
}

impl TryFrom<Vec<String>> for OemStrings {
    type Error = OemStringsError;

    fn try_from(texts: Vec<String>) -> Result<Self, OemStringsError> {
        let mut strings = Self::default();
        texts.into_iter().try_for_each(|text| strings.push(text))?;
        Ok(strings)
    }
}

impl From<OemStrings> for Vec<String> {
    fn from(strings: OemStrings) -> Self {
        strings.0
    }
}

impl fmt::Debug for OemStrings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "OemStrings({} not shown, {} bytes)", self.len(), self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_tables_cannot_hold_is_refused() {
        let mut strings = OemStrings::default();
        assert_eq!(strings.push(String::new()), Err(OemStringsError::Empty));
        assert_eq!(strings.push("a\0b".to_owned()), Err(OemStringsError::Nul));
        let longest = "x".repeat(OEM_STRINGS_BYTES_MAX - 1);
        assert_eq!(
            strings.push(format!("{longest}y")),
            Err(OemStringsError::TooLarge { bytes: OEM_STRINGS_BYTES_MAX + 1 })
        );
        assert!(strings.is_empty());
        assert_eq!(strings.push(longest), Ok(()));
        assert_eq!(strings.bytes(), OEM_STRINGS_BYTES_MAX);
        let mut many = OemStrings::try_from(vec!["x".to_owned(); OEM_STRINGS_MAX]).expect("so many fit");
        assert_eq!(many.push("x".to_owned()), Err(OemStringsError::TooMany));
    }

    #[test]
    fn what_they_say_is_not_shown() {
        let strings = OemStrings::try_from(vec!["secret".to_owned()]).expect("fits");
        assert_eq!(format!("{strings:?}"), "OemStrings(1 not shown, 7 bytes)");
    }

    proptest! {
        #[test]
        fn strings_that_fit_cross_a_wire_and_others_do_not(texts in prop::collection::vec(".{0,20}", 0..300)) {
            let json = serde_json::to_string(&texts).expect("texts serialise");
            let read = serde_json::from_str::<OemStrings>(&json);
            let fits = texts.len() <= OEM_STRINGS_MAX
                && texts.iter().all(|text| !text.is_empty() && !text.contains('\0'));
            prop_assert_eq!(read.is_ok(), fits);
            if let Ok(strings) = read {
                prop_assert_eq!(serde_json::to_string(&strings).expect("serialises"), json);
            }
        }
    }
}
