//! The name of a store path below its store, as Nix makes them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::shown_text;

/// The alphabet of Nix's base 32: digits and lower-case letters without `e`, `o`, `t`, `u`.
const BASE32: &[u8] = b"0123456789abcdfghijklmnpqrsvwxyz";
/// Characters of the hash part.
const HASH_LENGTH: usize = 32;
/// The longest name Nix gives a store path, hash and dash not counted.
const LONGEST_NAME: usize = 211;

/// The last component of a store path: `<32 characters of base 32>-<name>`. It is one harmless file name. Cloning is cheap.
///
/// ```
/// let name: vm_model::StoreName = "3n58xw4373jp0ljirf06d8077j15pc4j-vm-image".parse()?;
/// assert_eq!(name.hash_part(), "3n58xw4373jp0ljirf06d8077j15pc4j");
/// # Ok::<(), vm_model::InvalidStoreName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreName(Arc<str>);

/// Why a text is no [`StoreName`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text} is no name of a store path: {} is accepted", StoreName::ACCEPTED)]
pub struct InvalidStoreName {
    text: String,
}

impl StoreName {
    /// What is accepted, in words.
    pub const ACCEPTED: &str =
        "<32 characters of Nix's base 32>-<name>, the name made of letters, digits and + - . _ ? =";

    /// Whether `name` is one.
    pub fn accepts(name: &[u8]) -> bool {
        let Some((hash, rest)) = name.split_at_checked(HASH_LENGTH) else {
            return false;
        };
        let Some(rest) = rest.strip_prefix(b"-") else {
            return false;
        };
        hash.iter().all(|byte| BASE32.contains(byte)) && Self::is_plain(rest)
    }

    /// Whether `name` could follow the hash: one file name that is neither hidden nor special anywhere.
    pub fn is_plain(name: &[u8]) -> bool {
        (1..=LONGEST_NAME).contains(&name.len())
            && name[0] != b'.'
            && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-._?=".contains(byte))
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its first part, by which a binary cache knows it.
    pub fn hash_part(&self) -> &str {
        &self.0[..HASH_LENGTH]
    }
}

impl FromStr for StoreName {
    type Err = InvalidStoreName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if Self::accepts(text.as_bytes()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidStoreName { text: shown_text(text) })
        }
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nix_are_told_from_others() {
        assert!(StoreName::accepts(b"3n58xw4373jp0ljirf06d8077j15pc4j-vm-image_1.0+b?="));
        for bad in [
            &b""[..],
            b"vm-image",
            b"3n58xw4373jp0ljirf06d8077j15pc4j",
            b"3n58xw4373jp0ljirf06d8077j15pc4j-",
            b"3n58xw4373jp0ljirf06d8077j15pc4j-.hidden",
            b"3n58xw4373jp0ljirf06d8077j15pc4e-letter-e",
            b"3N58XW4373JP0LJIRF06D8077J15PC4J-capitals",
            b"3n58xw4373jp0ljirf06d8077j15pc4j-a/b",
            b"3n58xw4373jp0ljirf06d8077j15pc4j-a\0",
        ] {
            assert!(!StoreName::accepts(bad), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn plain_names_are_one_harmless_component() {
        assert!(StoreName::is_plain(b"my-image"));
        for bad in [&b""[..], b".", b"..", b".links", b"a/b", b"a b", &[b'a'; 212]] {
            assert!(!StoreName::is_plain(bad), "{}", String::from_utf8_lossy(bad));
        }
    }
}
