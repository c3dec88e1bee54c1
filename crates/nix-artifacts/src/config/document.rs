//! JSON as it was written: duplicate keys kept, numbers told apart by what they can be.

use std::fmt::{self, Write as _};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::secrets;

/// The largest `vm-config.json` that is read; real ones have a few kibibytes.
pub(crate) const MAX_CONFIG_SIZE: u64 = 1 << 20;
/// Characters of a value that a message shows.
const SHOWN: usize = 60;

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
    /// The value in a few words for a message.
    pub(super) fn shortened(&self) -> String {
        let mut text = String::new();
        self.render(&mut text);
        shorten(&text)
    }

    /// What stands there; where it is a text or has some in it, without what they say.
    pub(super) fn outline(&self) -> String {
        match self {
            Self::Text(text) => format!("a text of {} bytes", text.len()),
            Self::List(values) if !values.is_empty() => format!("a list of {}", values.len()),
            Self::Object(members) if !members.is_empty() => format!("an object of {}", members.len()),
            other => other.shortened(),
        }
    }

    /// Writes JSON, or the start of it once the text is longer than is shown.
    fn render(&self, text: &mut String) {
        let _ = match self {
            Self::Null => text.write_str("null"),
            Self::Boolean(value) => write!(text, "{value}"),
            Self::Integer(value) => write!(text, "{value}"),
            Self::Negative(value) => write!(text, "{value}"),
            Self::Fraction(value) => write!(text, "{value:?}"),
            Self::Text(value) if secrets::is_secret_text(value) => text.write_str(secrets::HIDDEN),
            Self::Text(value) => write!(text, "{:?}", start_of(value)),
            Self::List(values) => {
                text.push('[');
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        text.push_str(", ");
                    }
                    if text.len() > SHOWN {
                        break;
                    }
                    value.render(text);
                }
                text.write_char(']')
            }
            Self::Object(members) => {
                text.push('{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        text.push_str(", ");
                    }
                    if text.len() > SHOWN {
                        break;
                    }
                    let _ = write!(text, "{:?}: ", start_of(name));
                    if secrets::speaks_of_secrets(name) {
                        text.push_str(secrets::HIDDEN);
                    } else {
                        value.render(text);
                    }
                }
                text.write_char('}')
            }
        };
    }
}

/// As much of `text` as can matter for what is shown.
fn start_of(text: &str) -> &str {
    match text.char_indices().nth(SHOWN + 1) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// `text`, cut where a message would get too long.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The JSON path of member `name` of the object at `path`.
pub(super) fn member_path(path: &str, name: &str) -> String {
    let plain = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if plain { format!("{path}.{}", shorten(name)) } else { format!("{path}[{:?}]", shorten(name)) }
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
