//! The schema of the configuration file, made from the table of its keys.

use serde_json::{Map, Value, json};

use crate::settings::keys::{KEYS, Key, Kind};

pub(super) fn schema() -> Value {
    let mut root = Map::new();
    for key in KEYS {
        match key.name.split_once('.') {
            None => {
                root.insert(key.name.to_owned(), property(key));
            }
            Some((table, name)) => {
                let table = root.entry(table.to_owned()).or_insert_with(empty_table);
                table["properties"][name] = property(key);
            }
        }
    }
    json!({ "type": "object", "properties": root, "additionalProperties": false })
}

fn empty_table() -> Value {
    json!({ "type": "object", "properties": {}, "additionalProperties": false })
}

fn property(key: &Key) -> Value {
    let mut schema = accepted(&key.kind);
    schema["description"] = key.meaning.into();
    if let Some(default) = key.default.and_then(|text| toml::from_str::<Value>(&format!("v = {text}")).ok()) {
        schema["default"] = default["v"].clone();
    }
    schema
}

fn accepted(kind: &Kind) -> Value {
    match kind {
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Integer { least, most } => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::Choice(choices) => json!({ "enum": choices }),
        Kind::Ratio => json!({ "anyOf": [
            { "type": "number", "minimum": 0.005, "maximum": 100.004 },
            { "const": "off" },
        ] }),
        Kind::AbsolutePath => json!({ "type": "string", "pattern": "^/" }),
        Kind::Path | Kind::Text => json!({ "type": "string" }),
        Kind::Paths => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Services => json!({
            "type": "array",
            "items": { "type": "string", "pattern": "^(tcp|udp)/[0-9]{1,5}$" },
        }),
        Kind::LinkName => json!({ "type": "string", "minLength": 1, "maxLength": 15 }),
        Kind::Domain => json!({ "type": "string", "pattern": "^[A-Za-z0-9.-]+$" }),
        Kind::Subnet => json!({ "type": "string", "pattern": "^[0-9.]+/[0-9]{1,2}$" }),
        Kind::HostAndPort | Kind::AddressAndPort => json!({ "type": "string", "pattern": "^.*:[0-9]{1,5}$" }),
    }
}
