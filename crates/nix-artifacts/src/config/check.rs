//! Holding a document against the table of keys.
//!
//! What comes out has only supported keys in it, each of the type that its rule states; everything else has
//! become a refusal or a warning. Rules that span several keys are left to [`super::extract`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use vm_model::{Cores, CredentialName, MacAddress, NetworkName, shown_path};

use super::document::Node;
use super::keys::{self, KeyRule, ValueKind, Verdict};
use super::nearest::nearest;
use super::refusal::{ConfigWarning, Refusal, RefusalReason};
use super::section::{Section, Value};

/// Holds `document` against the table.
pub(super) fn check(document: &Node, warnings: &mut Vec<ConfigWarning>) -> Result<Section, Box<Refusal>> {
    let mut checker = Checker { warnings };
    match document {
        Node::Object(members) => checker.section(members, "$".to_owned(), ""),
        other => Err(no_container("$".to_owned(), other, "an object".to_owned())),
    }
}

fn wrong(json_path: String, node: &Node, accepted: String) -> Box<Refusal> {
    Box::new(Refusal { json_path, value: node.shortened(), reason: RefusalReason::WrongValue, accepted })
}

/// The refusal of what stands where an object or a list belongs. A text there is not shown: it may be one that was written as
/// text, with secrets in it.
fn no_container(json_path: String, node: &Node, accepted: String) -> Box<Refusal> {
    match node {
        Node::Text(_) => {
            let value = node.outline();
            Box::new(Refusal { json_path, value, reason: RefusalReason::WrongValue, accepted })
        }
        other => wrong(json_path, other, accepted),
    }
}

fn twice(json_path: String, node: &Node) -> Box<Refusal> {
    Box::new(Refusal {
        json_path,
        value: node.outline(),
        reason: RefusalReason::DuplicateKey,
        accepted: "each key is accepted once".to_owned(),
    })
}

struct Checker<'warnings> {
    warnings: &'warnings mut Vec<ConfigWarning>,
}

impl Checker<'_> {
    fn section(
        &mut self,
        members: &[(String, Node)],
        path: String,
        prefix: &str,
    ) -> Result<Section, Box<Refusal>> {
        let mut checked = Vec::new();
        let mut seen: Vec<&'static str> = Vec::new();
        for (name, node) in members {
            let json_path = shown_path(&path, name);
            let Some(rule) = keys::member(prefix, name) else {
                return Err(unknown(json_path, name, node, prefix));
            };
            if seen.contains(&rule.name()) {
                return Err(twice(json_path, node));
            }
            seen.push(rule.name());
            if let Some(value) = self.member(rule, node, json_path)? {
                checked.push((rule.name(), value));
            }
        }
        Ok(Section { path, members: checked })
    }

    fn member(
        &mut self,
        rule: &'static KeyRule,
        node: &Node,
        json_path: String,
    ) -> Result<Option<Value>, Box<Refusal>> {
        if *node == Node::Null {
            return Ok(None);
        }
        match &rule.verdict {
            Verdict::Supported => self.supported(rule, node, json_path).map(Some),
            Verdict::Ignored(quiet) => {
                if !quiet.iter().any(|literal| literal.matches(node)) {
                    self.warnings.push(ConfigWarning {
                        json_path,
                        value: node.shortened(),
                        consequence: rule.note.to_owned(),
                    });
                }
                Ok(None)
            }
            Verdict::Refused(harmless) => {
                if harmless.iter().any(|literal| literal.matches(node)) {
                    return Ok(None);
                }
                Err(Box::new(Refusal {
                    json_path,
                    value: node.shortened(),
                    reason: RefusalReason::NotSupported(rule.note),
                    accepted: rule.accepted(),
                }))
            }
        }
    }

    fn supported(
        &mut self,
        rule: &'static KeyRule,
        node: &Node,
        json_path: String,
    ) -> Result<Value, Box<Refusal>> {
        match (&rule.kind, node) {
            (ValueKind::Section | ValueKind::Shorthand { .. }, Node::Object(members)) => {
                self.section(members, json_path, &rule.member_prefix()).map(Value::Section)
            }
            (ValueKind::Shorthand { choices, member }, Node::Text(text))
                if choices.contains(&text.as_str()) =>
            {
                Ok(Value::Section(Section {
                    path: json_path,
                    members: vec![(member, Value::Text(text.clone()))],
                }))
            }
            (ValueKind::Secret { .. }, Node::Object(members)) => {
                self.section(members, json_path, &rule.member_prefix()).map(Value::Section)
            }
            (ValueKind::Secret { most }, Node::Text(text))
                if is_accepted_text(&ValueKind::Text { most: *most }, text) =>
            {
                let members = vec![("value", Value::Text(text.clone()))];
                Ok(Value::Section(Section { path: json_path, members }))
            }
            (ValueKind::NamedTexts { most }, Node::Object(members)) => named_texts(members, *most)
                .map(Value::NamedTexts)
                .ok_or_else(|| wrong(json_path, node, rule.accepted())),
            (ValueKind::Devices, Node::List(entries)) => {
                self.list(rule, entries, &json_path).map(Value::List)
            }
            (ValueKind::List { most }, Node::List(entries)) if entries.len() <= *most => {
                self.list(rule, entries, &json_path).map(Value::List)
            }
            (ValueKind::Named, Node::Object(members)) => {
                self.named(rule, members, &json_path).map(Value::Named)
            }
            (ValueKind::Texts { most }, Node::List(nodes)) if nodes.len() <= *most => {
                texts(nodes, &json_path).map(Value::Texts)
            }
            (ValueKind::Integers { most }, Node::List(nodes)) => integers(nodes, *most)
                .map(Value::Integers)
                .ok_or_else(|| wrong(json_path, node, rule.accepted())),
            (
                ValueKind::Section
                | ValueKind::Devices
                | ValueKind::List { .. }
                | ValueKind::Named
                | ValueKind::NamedTexts { .. }
                | ValueKind::Secret { .. }
                | ValueKind::Texts { .. }
                | ValueKind::Integers { .. },
                node,
            ) => Err(no_container(json_path, node, rule.accepted())),
            (kind, node) => scalar(kind, node).ok_or_else(|| wrong(json_path, node, rule.accepted())),
        }
    }

    /// The objects of a container whose members the author names.
    fn named(
        &mut self,
        rule: &KeyRule,
        members: &[(String, Node)],
        json_path: &str,
    ) -> Result<Vec<(String, Section)>, Box<Refusal>> {
        let prefix = format!("{}.{}", rule.key, keys::NAME);
        let mut named: Vec<(String, Section)> = Vec::with_capacity(members.len());
        for (name, node) in members {
            let path = shown_path(json_path, name);
            if CredentialName::parse(name).is_err() {
                return Err(wrong(path, node, rule.accepted()));
            }
            if named.iter().any(|(known, _)| known == name) {
                return Err(twice(path, node));
            }
            match node {
                Node::Null => {}
                Node::Object(members) => named.push((name.clone(), self.section(members, path, &prefix)?)),
                other => return Err(no_container(path, other, "an object".to_owned())),
            }
        }
        Ok(named)
    }

    fn list(
        &mut self,
        rule: &KeyRule,
        entries: &[Node],
        json_path: &str,
    ) -> Result<Vec<Section>, Box<Refusal>> {
        let prefix = rule.member_prefix();
        let mut sections = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let path = format!("{json_path}[{index}]");
            match entry {
                Node::Object(members) => sections.push(self.section(members, path, &prefix)?),
                other => return Err(no_container(path, other, "an object".to_owned())),
            }
        }
        Ok(sections)
    }
}

fn texts(nodes: &[Node], json_path: &str) -> Result<Vec<String>, Box<Refusal>> {
    let text = |(index, node): (usize, &Node)| match node {
        Node::Text(text) if !text.is_empty() && !text.contains('\0') => Ok(text.clone()),
        other => {
            Err(wrong(format!("{json_path}[{index}]"), other, "text, not empty and without NUL".to_owned()))
        }
    };
    nodes.iter().enumerate().map(text).collect()
}

/// The texts of an object, where all of it is accepted.
fn named_texts(members: &[(String, Node)], most: usize) -> Option<BTreeMap<String, String>> {
    let (mut texts, mut bytes) = (BTreeMap::new(), 0_usize);
    for (name, node) in members {
        let text = match node {
            Node::Null => continue,
            Node::Text(text) => text,
            _ => return None,
        };
        bytes = bytes.saturating_add(name.len()).saturating_add(text.len());
        // What is no character of YAML makes a guest's reader refuse the whole document.
        let is_plain = |character: char| !character.is_control() || matches!(character, '\n' | '\t');
        let is_first = texts.insert(name.clone(), text.clone()).is_none();
        if !is_first || bytes > most || !is_name(name, 63) || !text.chars().all(is_plain) {
            return None;
        }
    }
    Some(texts)
}

fn scalar(kind: &ValueKind, node: &Node) -> Option<Value> {
    match (kind, node) {
        (ValueKind::Boolean, Node::Boolean(value)) => Some(Value::Boolean(*value)),
        (ValueKind::Cores, Node::Integer(value)) => {
            let cores = Cores::from_thousandths(u32::try_from(value.checked_mul(1000)?).ok()?);
            cores.map(Value::Cores)
        }
        (ValueKind::Cores, Node::Fraction(value)) => Cores::try_from(*value).ok().map(Value::Cores),
        (kind, Node::Integer(value)) => is_accepted_integer(kind, *value).then_some(Value::Integer(*value)),
        (ValueKind::MacAddress, Node::Text(text)) => {
            let address: MacAddress = text.parse().ok()?;
            address.is_unicast().then_some(Value::Mac(address))
        }
        (ValueKind::Ipv4Address, Node::Text(text)) => {
            let address: Ipv4Addr = text.parse().ok()?;
            is_host_address(address).then_some(Value::Address(address))
        }
        (ValueKind::Ipv4Mask, Node::Text(text)) => {
            let mask: Ipv4Addr = text.parse().ok()?;
            is_mask(mask).then_some(Value::Address(mask))
        }
        (kind, Node::Text(text)) => is_accepted_text(kind, text).then(|| Value::Text(text.clone())),
        _ => None,
    }
}

fn integers(nodes: &[Node], most: u64) -> Option<Vec<u64>> {
    if nodes.is_empty() || nodes.len() as u64 > most.saturating_add(1) {
        return None;
    }
    let integer = |node: &Node| match node {
        Node::Integer(value) if *value <= most => Some(*value),
        _ => None,
    };
    nodes.iter().map(integer).collect()
}

fn is_accepted_integer(kind: &ValueKind, value: u64) -> bool {
    match kind {
        ValueKind::Integer { least, most } => (*least..=*most).contains(&value),
        ValueKind::OneOf(values) => values.contains(&value),
        ValueKind::PowerOfTwo { least, most } => (*least..=*most).contains(&value) && value.is_power_of_two(),
        ValueKind::Bytes { least, most, multiple_of } => {
            (*least..=*most).contains(&value) && value.is_multiple_of(*multiple_of)
        }
        _ => false,
    }
}

fn is_accepted_text(kind: &ValueKind, text: &str) -> bool {
    match kind {
        ValueKind::Text { most } => text.len() <= *most && !text.contains('\0'),
        ValueKind::Choice(choices) => choices.contains(&text),
        ValueKind::FilePath => !text.is_empty() && !text.contains('\0'),
        ValueKind::DeviceId => is_name(text, 63),
        ValueKind::InterfaceName => is_name(text, 15),
        ValueKind::NetworkName => NetworkName::parse(text).is_ok(),
        _ => false,
    }
}

/// Names end up in file names, metrics and interface names: nothing in them may have a meaning there.
fn is_name(text: &str, most: usize) -> bool {
    let bytes = text.as_bytes();
    (1..=most).contains(&bytes.len())
        && (bytes[0].is_ascii_alphanumeric() || bytes[0] == b'_')
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn is_host_address(address: Ipv4Addr) -> bool {
    let reserved = address.octets()[0] == 0 || address.octets()[0] >= 224;
    !reserved && !address.is_loopback()
}

fn is_mask(mask: Ipv4Addr) -> bool {
    let bits = mask.to_bits();
    bits != 0 && bits.leading_ones() + bits.trailing_zeros() == 32
}

/// The refusal of an unknown key, with what was probably meant.
fn unknown(json_path: String, name: &str, node: &Node, prefix: &str) -> Box<Refusal> {
    let elsewhere = keys::known_keys().find(|rule| rule.name() == name);
    let nearest = nearest(name, keys::members(prefix).map(KeyRule::name));
    let accepted = match (nearest, elsewhere) {
        (Some(nearest), Some(rule)) => {
            format!("the nearest known one is {nearest:?}, and this name is known as \"$.{}\"", rule.key)
        }
        (Some(nearest), None) => format!("the nearest known one is {nearest:?}"),
        (None, _) => "no key is known here".to_owned(),
    };
    Box::new(Refusal { json_path, value: node.outline(), reason: RefusalReason::UnknownKey, accepted })
}
