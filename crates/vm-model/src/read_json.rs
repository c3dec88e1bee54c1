//! Reading JSON of other programs by its type, with refusals that name the member and what is accepted there.
//!
//! Documents that people write have readers of their own, which tell more: lines, examples, the nearest known key.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde_path_to_error::Segment;
use thiserror::Error;

use crate::unrepeated::Unrepeated;
use crate::{shown_key, shown_path, shown_text};

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

/// The value that `text` is, which is JSON without any key twice in one object, and nothing after it.
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
    let value = read_as(text)?;
    // Maps would take the last of two.
    read_as::<Unrepeated>(text)?;
    Ok(value)
}

fn read_as<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, JsonProblem> {
    serde_json::from_slice(text).map_err(|problem| JsonProblem {
        path: path_of_problem::<T>(text),
        problem: with_ranges(&without_text(problem.to_string())).into_owned(),
    })
}

/// What serde says before a text or a name that it met, in which quotation marks that stands, and how it is shown.
type Met = (&'static str, char, fn(&str) -> String);

const MET: [Met; 4] = [
    ("invalid type: string ", '"', |_| "a text".to_owned()),
    ("invalid value: string ", '"', shown_text),
    ("unknown variant ", '`', shown_text),
    ("unknown field ", '`', shown_key),
];

/// `message`, which serde wrote, without what was met where that may be a secret.
fn without_text(message: String) -> String {
    for (what, quote, show) in MET {
        let Some(begun) = message.find(&format!("{what}{quote}")) else { continue };
        let rest = message.get(begun + what.len() + 1..).unwrap_or_default();
        // What was met may say the same.
        let ends = [", expected ", ", there are no "].map(|next| rest.rfind(&format!("{quote}{next}")));
        let (met, rest) = match ends.into_iter().flatten().max() {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, ""),
        };
        return format!("{}{}{}{rest}", &message[..begun], what.trim_end_matches("string "), show(met));
    }
    message
}

/// Where in `text` the first problem is. Following the path costs time, so only what is refused is read this way.
fn path_of_problem<'a, T: Deserialize<'a>>(text: &'a [u8]) -> String {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read: Result<T, _> = serde_path_to_error::deserialize(&mut reader);
    read.err().map(|problem| path_in_words(problem.path())).unwrap_or_default()
}

/// `path` with its keys as refusals show them: where a map belongs, anything can stand as a key.
fn path_in_words(path: &serde_path_to_error::Path) -> String {
    path.iter().fold(String::new(), |path, segment| match segment {
        Segment::Seq { index } => format!("{path}[{index}]"),
        Segment::Map { key } => shown_path(&path, key),
        Segment::Enum { variant } => shown_path(&path, variant),
        Segment::Unknown => shown_path(&path, "?"),
    })
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
    use crate::{FailureKind, VmId};

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
    fn a_key_that_stands_twice_is_refused_wherever_it_stands() {
        let refused =
            |text: &str| read_json::<serde_json::Value>(text.as_bytes()).expect_err(text).to_string();
        assert!(refused(r#"{"a": 1, "a": null}"#).contains("the key \"a\" stands there twice"));
        let said = refused(r#"{"vms": [{"x": {"b": 1, "c": [], "b": 2}}]}"#);
        assert!(said.starts_with("vms[0].x") && said.contains("\"b\""), "{said}");
        assert!(!refused(r#"{"hunter2 in many words": 1, "hunter2 in many words": 2}"#).contains("hunter2"));
        read_json::<serde_json::Value>(br#"{"a": {"a": 1.5}, "b": [{"a": true}, {"a": null}]}"#)
            .expect("each once");
    }

    #[test]
    fn a_text_where_none_belongs_is_not_shown() {
        let text = r#"{"inner": "{\"value\": \"hunter2, expected x\"}"}"#;
        let said = read_json::<Outer>(text.as_bytes()).expect_err("a text").to_string();
        assert_eq!(said, "inner: invalid type: a text, expected a map at line 1 column 48");
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        #[serde(rename = "kind")]
        _kind: FailureKind,
        #[serde(default, rename = "id")]
        _id: Option<VmId>,
    }

    #[test]
    fn names_and_texts_are_shown_where_they_are_short_and_plain() {
        let refused = |text: &str| read_json::<Strict>(text.as_bytes()).expect_err(text).to_string();
        let said = refused(r#"{"knid": 1}"#);
        assert!(said.contains("unknown field \"knid\", expected `kind` or `id`"), "{said}");
        let said = refused(r#"{"kind": "gest"}"#);
        assert!(said.starts_with("kind: unknown variant \"gest\", expected one of"), "{said}");
        for secret in ["hunter2`, expected x", "hunter2\", expected x", "hunter2 in a text of many words"] {
            let secret = serde_json::to_string(secret).expect("a text");
            for text in [
                format!("{{{secret}: 1}}"),
                format!("{{\"kind\": {secret}}}"),
                format!("{{\"kind\": \"guest\", \"id\": {secret}}}"),
            ] {
                let said = refused(&text);
                assert!(!said.contains("hunter2") && said.contains("bytes"), "{text}: {said}");
            }
        }
        let said = read_json::<Outer>(br#"{"inner": {"hunter2 in many, many words": [{"size": -1}]}}"#);
        let said = said.expect_err("negative").to_string();
        assert!(said.starts_with("inner[a key of 27 bytes][0].size: "), "{said}");
    }

    #[test]
    fn only_whole_names_of_types_are_replaced() {
        for message in ["expected u640", "expected value", "unexpected u8s", ""] {
            assert_eq!(with_ranges(message), message);
        }
        assert_eq!(with_ranges("1, expected u16"), "1, expected a whole number from 0 to 65535");
    }
}
