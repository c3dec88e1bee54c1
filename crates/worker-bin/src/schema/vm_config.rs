//! The schema of `vm-config.json`, made from the table of keys that the reader itself follows.

use nix_artifacts::{KeyRule, Literal, ValueKind, Verdict, known_keys};
use serde_json::{Map, Value, json};
use vm_model::{CREDENTIAL_NAME_MAX, PCI_DEVICES_MAX};

/// The definition of a value in which nothing is set.
const EMPTY: &str = "#/$defs/empty";

/// Whether members that the reader requires must be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Completeness {
    /// They must.
    Whole,
    /// They may stand in a document below this one.
    Overlay,
}

pub(super) fn schema() -> Value {
    let mut schema = object("", Completeness::Whole);
    if let Some(members) = schema.as_object_mut() {
        members.insert("$defs".to_owned(), definitions());
    }
    schema
}

/// What the schemas of keys refer to.
pub(super) fn definitions() -> Value {
    json!({ "empty": {
        "description": "Nothing is set in it.",
        "anyOf": [
            { "type": "null" },
            { "const": "" },
            { "type": "array", "maxItems": 0 },
            { "type": "object", "additionalProperties": { "$ref": EMPTY } },
        ],
    } })
}

/// An object with the members of the container `prefix` (`""`, `disks[]`, …).
pub(super) fn object(prefix: &str, completeness: Completeness) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for rule in known_keys().filter(|rule| rule.container() == prefix) {
        let is_required = completeness == Completeness::Whole && is_required(rule);
        if is_required {
            required.push(rule.name());
        }
        properties.insert(rule.name().to_owned(), property(rule, is_required, completeness));
    }
    let mut object = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

/// The table says it in the last word of what a key means.
fn is_required(rule: &KeyRule) -> bool {
    rule.note.ends_with("Required.")
}

/// The schema of one key with its description. `null` is the same as leaving a key out.
fn property(rule: &KeyRule, is_required: bool, completeness: Completeness) -> Value {
    let mut schema = match &rule.verdict {
        Verdict::Supported => {
            let accepted = accepted(rule, completeness);
            if is_required { accepted } else { json!({ "anyOf": [accepted, { "type": "null" }] }) }
        }
        Verdict::Ignored(_) => json!({}),
        Verdict::Refused(harmless) => {
            let mut choices: Vec<Value> = harmless.iter().map(literal).collect();
            choices.push(json!({ "type": "null" }));
            json!({ "anyOf": choices })
        }
    };
    let description = match &rule.verdict {
        Verdict::Supported => rule.note.to_owned(),
        Verdict::Ignored(_) => format!("Ignored: {}.", rule.note),
        Verdict::Refused(_) => format!("Not supported: {}.", rule.note),
    };
    if let Some(members) = schema.as_object_mut() {
        members.insert("description".to_owned(), description.into());
    }
    schema
}

fn literal(literal: &Literal) -> Value {
    match literal {
        Literal::False => json!({ "const": false }),
        Literal::True => json!({ "const": true }),
        Literal::Integer(value) => json!({ "const": value }),
        Literal::Text(text) => json!({ "const": text }),
        Literal::Empty => json!({ "$ref": EMPTY }),
    }
}

/// What a supported key takes.
fn accepted(rule: &KeyRule, completeness: Completeness) -> Value {
    let list = |most: usize| {
        let items = object(&format!("{}[]", rule.key), completeness);
        json!({ "type": "array", "maxItems": most, "items": items })
    };
    match &rule.kind {
        ValueKind::Section => object(rule.key, completeness),
        ValueKind::List { most } => list(*most),
        ValueKind::Devices => list(PCI_DEVICES_MAX),
        ValueKind::Shorthand { choices, .. } => {
            json!({ "anyOf": [{ "enum": choices }, object(rule.key, completeness)] })
        }
        ValueKind::Named => named(rule, completeness),
        ValueKind::Secret { most } => json!({
            "anyOf": [{ "type": "string", "maxLength": most }, object(rule.key, completeness)],
        }),
        ValueKind::NamedTexts { .. } => json!({
            "type": "object",
            "additionalProperties": { "anyOf": [{ "type": "string" }, { "type": "null" }] },
        }),
        plain => scalar(plain),
    }
}

/// An object whose members have names of the author's choice: printable ASCII but for `/`, `:` and `=`.
fn named(rule: &KeyRule, completeness: Completeness) -> Value {
    let member = object(&format!("{}.NAME", rule.key), completeness);
    json!({
        "type": "object",
        "propertyNames": {
            "pattern": format!("^[!-.0-9;<>-~]{{1,{CREDENTIAL_NAME_MAX}}}$"),
        },
        "additionalProperties": { "anyOf": [member, { "type": "null" }] },
    })
}

/// A value without members of its own.
fn scalar(kind: &ValueKind) -> Value {
    match kind {
        ValueKind::Boolean => json!({ "type": "boolean" }),
        ValueKind::Integer { least, most } => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        ValueKind::Cores => json!({ "type": "number", "minimum": 0.01, "maximum": 1024 }),
        ValueKind::OneOf(values) => json!({ "enum": values }),
        ValueKind::Integers { most } => json!({
            "type": "array",
            "minItems": 1,
            "maxItems": most.saturating_add(1),
            "items": { "type": "integer", "minimum": 0, "maximum": most },
        }),
        ValueKind::Texts { most } => json!({
            "type": "array",
            "maxItems": most,
            "items": { "type": "string", "minLength": 1 },
        }),
        ValueKind::PowerOfTwo { least, most } => {
            let powers = (0..u64::BITS).map(|shift| 1_u64 << shift);
            let powers: Vec<u64> = powers.filter(|power| (least..=most).contains(&power)).collect();
            json!({ "enum": powers })
        }
        ValueKind::Bytes { least, most, multiple_of } => {
            json!({ "type": "integer", "minimum": least, "maximum": most, "multipleOf": multiple_of })
        }
        ValueKind::Text { most } => json!({ "type": "string", "maxLength": most }),
        ValueKind::Choice(choices) => json!({ "enum": choices }),
        ValueKind::FilePath => json!({ "type": "string", "minLength": 1 }),
        ValueKind::DeviceId => name(63),
        ValueKind::InterfaceName => name(15),
        ValueKind::NetworkName => {
            json!({ "type": "string", "maxLength": 32, "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" })
        }
        ValueKind::MacAddress => {
            json!({ "type": "string", "pattern": "^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$" })
        }
        ValueKind::Ipv4Address | ValueKind::Ipv4Mask => {
            json!({ "type": "string", "pattern": "^[0-9]{1,3}(\\.[0-9]{1,3}){3}$" })
        }
        // Those with members are handled by the caller; what is opaque takes anything.
        ValueKind::Section
        | ValueKind::List { .. }
        | ValueKind::Devices
        | ValueKind::Shorthand { .. }
        | ValueKind::Named
        | ValueKind::NamedTexts { .. }
        | ValueKind::Secret { .. }
        | ValueKind::Opaque { .. } => json!({}),
    }
}

fn name(most: usize) -> Value {
    let more = most.saturating_sub(1);
    json!({ "type": "string", "pattern": format!("^[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{more}}}$") })
}
