//! Texts and lists with the most that they may hold in their type, so that no message holds more.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use thiserror::Error;

/// What ends a text that was cut.
pub const TEXT_ELLIPSIS: &str = "…";

/// More than a text or list of a message may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{length} {unit}, at most {most} are accepted")]
pub struct TooLong {
    length: usize,
    unit: &'static str,
    most: usize,
}

/// Text of at most `MOST` bytes of UTF-8.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<const MOST: usize>(String);

impl<const MOST: usize> Text<MOST> {
    /// `text` as it is.
    ///
    /// # Errors
    /// It is longer than `MOST` bytes.
    pub fn new(text: impl Into<String>) -> Result<Self, TooLong> {
        let text = text.into();
        if text.len() > MOST {
            return Err(TooLong { length: text.len(), unit: "bytes", most: MOST });
        }
        Ok(Self(text))
    }

    /// `text`, cut at a character and ended by [`TEXT_ELLIPSIS`] where it is too long.
    pub fn cut(text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > MOST {
            let ellipsis = if MOST > TEXT_ELLIPSIS.len() { TEXT_ELLIPSIS } else { "" };
            text.truncate(text.floor_char_boundary(MOST - ellipsis.len()));
            text.push_str(ellipsis);
        }
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, owned.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl<const MOST: usize> Deref for Text<MOST> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MOST: usize> fmt::Debug for Text<MOST> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

impl<const MOST: usize> fmt::Display for Text<MOST> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl<const MOST: usize> Serialize for Text<MOST> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de, const MOST: usize> Deserialize<'de> for Text<MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A list of at most `MOST` items. On the wire, `null` and a missing key are the empty list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T, const MOST: usize>(Vec<T>);

impl<T, const MOST: usize> List<T, MOST> {
    /// `items`, all of them.
    ///
    /// # Errors
    /// There are more than `MOST`.
    pub fn new(items: Vec<T>) -> Result<Self, TooLong> {
        if items.len() > MOST {
            return Err(TooLong { length: items.len(), unit: "items", most: MOST });
        }
        Ok(Self(items))
    }

    /// The first `MOST` of `items`.
    pub fn cut(items: impl IntoIterator<Item = T>) -> Self {
        Self(items.into_iter().take(MOST).collect())
    }

    /// The items, owned.
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }

    /// Splits off the second half of the items, rounded down.
    pub(crate) fn split_off_half(&mut self) -> Self {
        Self(self.0.split_off(self.0.len().div_ceil(2)))
    }
}

impl<T, const MOST: usize> Default for List<T, MOST> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MOST: usize> Deref for List<T, MOST> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Serialize, const MOST: usize> Serialize for List<T, MOST> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for List<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MOST: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Items<T, MOST> {
            type Value = Vec<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "a list of at most {MOST} items")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Vec::new())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = sequence.next_element()? {
                    // Checked while reading: what is too long is not gathered first.
                    if items.len() == MOST {
                        return Err(de::Error::invalid_length(MOST + 1, &self));
                    }
                    items.push(item);
                }
                Ok(items)
            }
        }

        deserializer.deserialize_any(Items::<T, MOST>(PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_too_long_is_refused_on_the_wire() {
        assert_eq!(serde_json::from_str::<Text<3>>("\"abc\"").expect("three bytes").as_str(), "abc");
        let said = serde_json::from_str::<Text<3>>("\"abcd\"").expect_err("four bytes").to_string();
        assert!(said.starts_with("4 bytes, at most 3 are accepted"), "{said}");
        let said = serde_json::from_str::<List<u8, 2>>("[1,2,3]").expect_err("three items").to_string();
        assert!(said.contains("a list of at most 2 items"), "{said}");
        assert_eq!(serde_json::from_str::<List<u8, 2>>("null").expect("empty").len(), 0);
    }

    proptest! {
        #[test]
        fn a_cut_text_fits_and_begins_as_it_did(text in "\\PC{0,40}") {
            let cut = Text::<16>::cut(text.clone());
            prop_assert!(cut.len() <= 16);
            match cut.strip_suffix(TEXT_ELLIPSIS) {
                Some(start) if text.len() > 16 => prop_assert!(text.starts_with(start)),
                Some(_) | None => prop_assert_eq!(cut.as_str(), text),
            }
        }
    }
}
