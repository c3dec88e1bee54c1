//! Reading JSON of other programs by its type, with refusals that name the member and what is accepted there.
//!
//! Documents that people write have readers of their own, which tell more: lines, examples, the nearest known key.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use thiserror::Error;

/// Why JSON is not of the form that was to be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct JsonProblem {
    /// The member, like `vms[2].overrides.vcpus`; empty where the text as a whole is meant, or a member that is missing there.
    pub path: String,
    /// What was met, what is accepted, and where in the text.
    pub problem: String,
}

impl fmt::Display for JsonProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => formatter.write_str(&self.problem),
            path => write!(formatter, "{path}: {}", self.problem),
        }
    }
}

/// The value that `text` is, which is JSON and nothing after it.
///
/// ```
/// #[derive(serde::Deserialize, Debug)]
/// struct Limits {
///     most: u8,
/// }
/// # fn main() {
/// let problem = vm_model::read_json::<Limits>(br#"{"most": -1}"#).expect_err("too small");
/// assert_eq!(
///     problem.to_string(),
///     "most: invalid value: integer `-1`, expected a whole number from 0 to 255 at line 1 column 11"
/// );
/// # }
/// ```
///
/// # Errors
/// It is no JSON, or not of that form.
pub fn read_json<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, JsonProblem> {
    serde_json::from_slice(text).map_err(|problem| JsonProblem {
        path: path_of_problem::<T>(text),
        problem: with_ranges(&without_text(problem.to_string())).into_owned(),
    })
}

/// `message`, which serde wrote, without the text that was met where none belongs: somebody wrote an object as text, and
/// secrets may be in it.
fn without_text(message: String) -> String {
    const MET: &str = "invalid type: string ";
    let Some(begin) = message.find(MET) else { return message };
    // The text itself may say "expected", too.
    let end = message.rfind(", expected ").filter(|end| *end > begin);
    let expected = end.map(|end| &message[end..]).unwrap_or_default();
    format!("{}invalid type: a text{expected}", &message[..begin])
}

/// Where in `text` the first problem is. Following the path costs time, so only what is refused is read this way.
fn path_of_problem<'a, T: Deserialize<'a>>(text: &'a [u8]) -> String {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read: Result<T, _> = serde_path_to_error::deserialize(&mut reader);
    let path = read.err().map(|problem| problem.path().to_string());
    path.filter(|path| path != ".").unwrap_or_default()
}

/// Rust's types of numbers, as serde names them, and what they hold.
const RANGES: [(&str, &str); 8] = [
    ("u8", "a whole number from 0 to 255"),
    ("u16", "a whole number from 0 to 65535"),
    ("u32", "a whole number from 0 to 4294967295"),
    ("u64", "a whole number from 0 to 18446744073709551615"),
    ("usize", "a whole number from 0 to 18446744073709551615"),
    ("i32", "a whole number from -2147483648 to 2147483647"),
    ("i64", "a whole number from -9223372036854775808 to 9223372036854775807"),
    ("f64", "a number"),
];

/// `message`, which serde wrote, with the accepted range where it names a type: `expected u8` becomes `expected a whole
/// number from 0 to 255`.
pub fn with_ranges(message: &str) -> Cow<'_, str> {
    for (name, range) in RANGES {
        for (nonzero, range) in [("", range.to_owned()), ("a nonzero ", range.replace(" 0 ", " 1 "))] {
            let wanted = format!("expected {nonzero}{name}");
            let Some(at) = message.find(&wanted) else { continue };
            let (before, rest) = (&message[..at], &message[at + wanted.len()..]);
            if !rest.starts_with(|next: char| next.is_ascii_alphanumeric()) {
                return Cow::Owned(format!("{before}expected {range}{rest}"));
            }
        }
    }
    Cow::Borrowed(message)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::num::NonZeroU32;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Outer {
        #[serde(rename = "inner")]
        _inner: BTreeMap<String, Vec<Inner>>,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        #[serde(default, rename = "count")]
        _count: Option<NonZeroU32>,
        #[serde(default, rename = "size")]
        _size: u64,
    }

    #[test]
    fn a_refusal_names_the_member_and_the_range() {
        let refused = |text: &str| read_json::<Outer>(text.as_bytes()).expect_err(text).to_string();
        assert_eq!(
            refused(r#"{"inner": {"a": [{}, {"size": -1}]}}"#),
            "inner.a[1].size: invalid value: integer `-1`, expected a whole number from 0 to 18446744073709551615 at line \
             1 column 32"
        );
        let said = refused(r#"{"inner": {"a": [{"count": 0}]}}"#);
        assert!(said.starts_with("inner.a[0].count: ") && said.contains("from 1 to 4294967295"), "{said}");
        assert!(refused("{}").starts_with("missing field `inner`"));
        assert!(refused(r#"{"inner": {}} x"#).starts_with("trailing characters"));
    }

    #[test]
    fn a_text_where_none_belongs_is_not_shown() {
        let text = r#"{"inner": "{\"value\": \"hunter2, expected x\"}"}"#;
        let said = read_json::<Outer>(text.as_bytes()).expect_err("a text").to_string();
        assert_eq!(said, "inner: invalid type: a text, expected a map at line 1 column 48");
    }

    #[test]
    fn only_whole_names_of_types_are_replaced() {
        for message in ["expected u640", "expected value", "unexpected u8s", ""] {
            assert_eq!(with_ranges(message), message);
        }
        assert_eq!(with_ranges("1, expected u16"), "1, expected a whole number from 0 to 65535");
    }
}
