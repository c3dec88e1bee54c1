//! JSON as it was written: duplicate keys kept, numbers told apart by what they can be.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use vm_model::{shown_number, shown_text};

/// The largest `vm-config.json` that is read; real ones have a few kibibytes.
pub(crate) const MAX_CONFIG_SIZE: u64 = 1 << 20;

/// Any JSON value. Its depth is bounded by the parser (127).
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Boolean(bool),
    Integer(u64),
    Negative(i64),
    /// A number with a fraction or an exponent, or one too large for 64 bits.
    Fraction(f64),
    Text(String),
    List(Vec<Node>),
    /// Members in the order of the file; a name may come twice.
    Object(Vec<(String, Node)>),
}

impl Node {
    /// The value in a few words for a message: see [`vm_model::shown_text`].
    pub(super) fn shortened(&self) -> String {
        match self {
            Self::Text(text) => shown_text(text),
            other => other.outline(),
        }
    }

    /// What stands there; where it is a text or has some in it, without what they say.
    pub(super) fn outline(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Boolean(value) => value.to_string(),
            Self::Integer(value) => shown_number(&value.to_string()),
            Self::Negative(value) => shown_number(&value.to_string()),
            Self::Fraction(value) => shown_number(&format!("{value:?}")),
            Self::Text(text) => format!("a text of {} bytes", text.len()),
            Self::List(values) if values.is_empty() => "[]".to_owned(),
            Self::List(values) => format!("a list of {}", values.len()),
            Self::Object(members) if members.is_empty() => "{}".to_owned(),
            Self::Object(members) => format!("an object of {}", members.len()),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Boolean(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Integer(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(u64::try_from(value).map_or(Node::Negative(value), Node::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Fraction(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Node, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element()? {
            values.push(value);
        }
        Ok(Node::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Node::Object(members))
    }
}
