//! JSON as it stands in a text that a person may have written: each value with its place, each key as often as it is there.
//!
//! A parser that only yields values cannot say where one of the wrong kind stands, and hides keys that are there twice.
//! Memory is bounded by a multiple of the text's length, nesting by [`MAX_DEPTH`].

mod reader;

use std::fmt;

use serde_json::{Map, Number, Value};

use crate::{shown_number, shown_text};

pub(crate) use reader::read;

/// Deepest nesting of lists and objects.
pub(crate) const MAX_DEPTH: usize = 64;

/// Where something begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// From 1 on.
    pub(crate) line: usize,
    /// In characters, from 1 on.
    pub(crate) column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}, column {}", self.line, self.column)
    }
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) content: Content,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    /// In the text's order; a name may be there more than once.
    Object(Vec<Member>),
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    /// Where the key stands.
    pub(crate) place: Place,
    pub(crate) name: String,
    pub(crate) value: Node,
}

/// Why a text is no JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxProblem {
    pub(crate) place: Place,
    /// What was met there.
    pub(crate) met: String,
    /// What is accepted instead.
    pub(crate) accepted: &'static str,
}

/// `text` as a message calls it: quoted where it is short and plain.
pub(crate) fn text_in_words(text: &str) -> String {
    let shown = shown_text(text);
    if shown.starts_with('"') { format!("the text {shown}") } else { shown }
}

impl Node {
    /// What stands there, as a message calls it.
    pub(crate) fn description(&self) -> String {
        match &self.content {
            Content::Text(text) => text_in_words(text),
            Content::Null | Content::Bool(_) | Content::Number(_) | Content::List(_) | Content::Object(_) => {
                self.outline()
            }
        }
    }

    /// What stands there without what it says, where that is a text.
    pub(crate) fn outline(&self) -> String {
        match &self.content {
            Content::Null => "null".to_owned(),
            Content::Bool(value) => value.to_string(),
            Content::Number(number) => shown_number(&number.to_string()),
            Content::Text(text) => format!("a text of {} bytes", text.len()),
            Content::List(_) => "a list".to_owned(),
            Content::Object(_) => "an object".to_owned(),
        }
    }

    /// The value without places, or the first key that is there twice.
    pub(crate) fn into_value(self) -> Result<Value, Member> {
        Ok(match self.content {
            Content::Null => Value::Null,
            Content::Bool(value) => Value::Bool(value),
            Content::Number(number) => Value::Number(number),
            Content::Text(text) => Value::String(text),
            Content::List(items) => {
                Value::Array(items.into_iter().map(Self::into_value).collect::<Result<_, _>>()?)
            }
            Content::Object(members) => Value::Object(into_map(members)?),
        })
    }
}

/// The members of an object without places, or the first key that is there twice.
pub(crate) fn into_map(members: Vec<Member>) -> Result<Map<String, Value>, Member> {
    let mut map = Map::new();
    for member in members {
        if map.contains_key(&member.name) {
            return Err(member);
        }
        map.insert(member.name, member.value.into_value()?);
    }
    Ok(map)
}
