//! What a row of the table says.

use std::fmt;

use vm_model::{CREDENTIAL_NAME_MAX, Cores, NetworkName, PCI_DEVICES_MAX};

use super::super::document::Node;

/// A key and what becomes of it.
#[derive(Debug)]
pub struct KeyRule {
    /// The key, like `disks[].path`.
    pub key: &'static str,
    /// What values it takes.
    pub kind: ValueKind,
    /// What becomes of it.
    pub verdict: Verdict,
    /// What it means, what happens instead, or why it is refused.
    pub note: &'static str,
}

/// What becomes of a key. `null` is always the same as leaving it out.
#[derive(Debug)]
pub enum Verdict {
    /// It says something about the machine that is built.
    Supported,
    /// It is left aside; with a warning unless the value is one of these.
    Ignored(&'static [Literal]),
    /// It would change the machine in a way that is not supported; accepted are these values, which do not.
    Refused(&'static [Literal]),
}

/// A value that a rule names.
#[derive(Debug)]
pub enum Literal {
    /// `false`.
    False,
    /// `true`.
    True,
    /// This number.
    Integer(u64),
    /// This text.
    Text(&'static str),
    /// An empty list, an empty text, or an object in which nothing is set.
    Empty,
}

/// The values that a key takes.
#[derive(Debug)]
pub enum ValueKind {
    /// An object whose members have rows of their own.
    Section,
    /// A list of objects whose members have rows of their own.
    List {
        /// The most entries accepted.
        most: usize,
    },
    /// A list of objects whose members have rows of their own, each a device on the machine's bus.
    Devices,
    /// One of these texts, or an object whose member `member` is one of them.
    Shorthand {
        /// The texts.
        choices: &'static [&'static str],
        /// The member that the text stands for.
        member: &'static str,
    },
    /// `true` or `false`.
    Boolean,
    /// An integer from `least` to `most`.
    Integer {
        /// The least value accepted.
        least: u64,
        /// The greatest value accepted.
        most: u64,
    },
    /// A number of cores, whole or not.
    Cores,
    /// One of these integers.
    OneOf(&'static [u64]),
    /// A list of integers from 0 to `most`, at least one and no more than there are.
    Integers {
        /// The greatest value accepted.
        most: u64,
    },
    /// A list of at most `most` texts, none of them empty or with NUL in it.
    Texts {
        /// The most texts accepted.
        most: usize,
    },
    /// An object whose members have names of the author's choice, those that credentials can have. The rows of a member
    /// stand under `NAME`.
    Named,
    /// A power of two from `least` to `most`.
    PowerOfTwo {
        /// The least value accepted.
        least: u64,
        /// The greatest value accepted.
        most: u64,
    },
    /// A number of bytes from `least` to `most` that `multiple_of` divides.
    Bytes {
        /// The least value accepted.
        least: u64,
        /// The greatest value accepted.
        most: u64,
        /// What it is a multiple of.
        multiple_of: u64,
    },
    /// Text of at most `most` bytes, which may be a secret, or an object whose members have rows of their own and say where
    /// it comes from.
    Secret {
        /// The most bytes accepted.
        most: usize,
    },
    /// An object of texts whose names are of the author's choice, those that devices can have; together at most `most` bytes.
    NamedTexts {
        /// The most bytes of all names and texts.
        most: usize,
    },
    /// Text of at most `most` bytes.
    Text {
        /// The most bytes accepted.
        most: usize,
    },
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// A path of a file in a store root.
    FilePath,
    /// The name of a device in its machine.
    DeviceId,
    /// The name of a network interface of the host.
    InterfaceName,
    /// The name of one of the worker's networks.
    NetworkName,
    /// A hardware address of one interface.
    MacAddress,
    /// An IPv4 address that one host can have.
    Ipv4Address,
    /// An IPv4 netmask.
    Ipv4Mask,
    /// What stands there is not looked into.
    Opaque {
        /// The members that it has in Cloud Hypervisor, or those that its members have; empty for a plain value.
        members: &'static [&'static str],
    },
}

/// What stands in the key of a row for a name of the author's choice.
pub(in crate::config) const NAME: &str = "NAME";

impl KeyRule {
    pub(super) const fn supported(key: &'static str, kind: ValueKind, note: &'static str) -> Self {
        Self { key, kind, verdict: Verdict::Supported, note }
    }

    pub(super) const fn ignored(key: &'static str, quiet: &'static [Literal], note: &'static str) -> Self {
        Self::ignored_with(key, quiet, note, &[])
    }

    pub(super) const fn ignored_with(
        key: &'static str,
        quiet: &'static [Literal],
        note: &'static str,
        members: &'static [&'static str],
    ) -> Self {
        Self { key, kind: ValueKind::Opaque { members }, verdict: Verdict::Ignored(quiet), note }
    }

    pub(super) const fn refused(key: &'static str, harmless: &'static [Literal], note: &'static str) -> Self {
        Self::refused_with(key, harmless, note, &[])
    }

    pub(super) const fn refused_with(
        key: &'static str,
        harmless: &'static [Literal],
        note: &'static str,
        members: &'static [&'static str],
    ) -> Self {
        Self { key, kind: ValueKind::Opaque { members }, verdict: Verdict::Refused(harmless), note }
    }

    /// The last part of the key.
    pub fn name(&self) -> &'static str {
        self.key.rsplit_once('.').map_or(self.key, |(_, name)| name)
    }

    /// The key that this one is a member of; empty at the top.
    pub fn container(&self) -> &'static str {
        self.key.rsplit_once('.').map_or("", |(container, _)| container)
    }

    /// The prefix of this key's members, when it has any.
    pub(in crate::config) fn member_prefix(&self) -> String {
        match self.kind {
            ValueKind::List { .. } | ValueKind::Devices => format!("{}[]", self.key),
            _ => self.key.to_owned(),
        }
    }

    /// What values are accepted, in words.
    pub fn accepted(&self) -> String {
        match &self.verdict {
            Verdict::Supported => self.kind.to_string(),
            Verdict::Ignored(_) => "anything".to_owned(),
            Verdict::Refused(harmless) => {
                let mut texts: Vec<String> = harmless.iter().map(Literal::to_string).collect();
                texts.push("null".to_owned());
                texts.push("leaving it out".to_owned());
                join(&texts)
            }
        }
    }
}

impl Literal {
    pub(in crate::config) fn matches(&self, node: &Node) -> bool {
        match (self, node) {
            (Self::False, Node::Boolean(value)) => !value,
            (Self::True, Node::Boolean(value)) => *value,
            (Self::Integer(wanted), Node::Integer(value)) => wanted == value,
            (Self::Text(wanted), Node::Text(value)) => wanted == value,
            (Self::Empty, node) => is_empty(node),
            _ => false,
        }
    }
}

fn is_empty(node: &Node) -> bool {
    match node {
        Node::Null => true,
        Node::Text(text) => text.is_empty(),
        Node::List(values) => values.is_empty(),
        Node::Object(members) => members.iter().all(|(_, value)| is_empty(value)),
        Node::Boolean(_) | Node::Integer(_) | Node::Negative(_) | Node::Fraction(_) => false,
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::False => formatter.write_str("false"),
            Self::True => formatter.write_str("true"),
            Self::Integer(value) => write!(formatter, "{value}"),
            Self::Text(text) => write!(formatter, "{text:?}"),
            Self::Empty => formatter.write_str("an empty value"),
        }
    }
}

impl fmt::Display for ValueKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Section => formatter.write_str("an object"),
            Self::List { most } => write!(formatter, "a list of at most {most} objects"),
            Self::Devices => {
                write!(formatter, "a list of objects; all devices together are at most {PCI_DEVICES_MAX}")
            }
            Self::Shorthand { choices, member } => {
                write!(formatter, "{}, or an object with the member {member:?}", quoted(choices))
            }
            Self::Boolean => formatter.write_str("true or false"),
            Self::Integer { least, most } => write!(formatter, "an integer from {least} to {most}"),
            Self::Cores => formatter.write_str(Cores::ACCEPTED),
            Self::OneOf(values) => {
                let texts: Vec<String> = values.iter().map(u64::to_string).collect();
                formatter.write_str(&join(&texts))
            }
            Self::Integers { most } => {
                write!(formatter, "a list of 1 to {} integers from 0 to {most}", most + 1)
            }
            Self::Texts { most } => {
                write!(formatter, "a list of at most {most} texts, not empty and without NUL")
            }
            Self::Named => write!(
                formatter,
                "an object whose members have names of 1 to {CREDENTIAL_NAME_MAX} printable ASCII characters without '/', \
                 ':' and '='"
            ),
            Self::PowerOfTwo { least, most } => {
                write!(formatter, "a power of two from {least} to {most}")
            }
            Self::Bytes { least, most, multiple_of } => {
                write!(formatter, "a number of bytes from {least} to {most}, a multiple of {multiple_of}")
            }
            Self::Text { most } => write!(formatter, "text of at most {most} bytes without NUL"),
            Self::Secret { most } => write!(
                formatter,
                "text of at most {most} bytes without NUL, or an object that says where it comes from"
            ),
            Self::NamedTexts { most } => write!(
                formatter,
                "an object of texts by names of 1 to 63 letters, digits, '-', '_' and '.'; names and texts have at most \
                 {most} bytes together, and no control characters but line feeds and tabs"
            ),
            Self::Choice(choices) => formatter.write_str(&quoted(choices)),
            Self::FilePath => {
                formatter.write_str("a path relative to the store path, or absolute inside a store root")
            }
            Self::DeviceId => formatter
                .write_str("1 to 63 letters, digits, '-', '_' and '.', starting with a letter, digit or '_'"),
            Self::InterfaceName => formatter
                .write_str("1 to 15 letters, digits, '-', '_' and '.', starting with a letter, digit or '_'"),
            Self::NetworkName => formatter.write_str(NetworkName::ACCEPTED),
            Self::MacAddress => {
                formatter.write_str("the unicast address of one interface, like \"52:54:00:12:34:56\"")
            }
            Self::Ipv4Address => formatter.write_str("the IPv4 address of one host, like \"10.100.0.5\""),
            Self::Ipv4Mask => formatter.write_str("an IPv4 netmask, like \"255.255.0.0\""),
            Self::Opaque { .. } => formatter.write_str("anything"),
        }
    }
}

fn quoted(choices: &[&str]) -> String {
    let quoted: Vec<String> = choices.iter().map(|choice| format!("{choice:?}")).collect();
    join(&quoted)
}

/// `a, b or c`.
fn join(texts: &[String]) -> String {
    match texts {
        [] => String::new(),
        [only] => only.clone(),
        [start @ .., last] => format!("{} or {last}", start.join(", ")),
    }
}
