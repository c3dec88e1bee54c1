//! The schema of the configuration file, made from the table of its keys.

use serde_json::{Map, Value, json};

use crate::settings::keys::{KEYS, Key, Kind};

pub(super) fn schema() -> Value {
    let mut root = Map::new();
    for key in KEYS {
        let (table, name) = key.parts();
        match (key.named_in(), table) {
            (Some(table), _) => {
                let tables = root.entry(table.to_owned()).or_insert_with(empty_tables);
                tables["additionalProperties"]["properties"][name] = property(key);
            }
            (None, "") => {
                root.insert(name.to_owned(), property(key));
            }
            (None, table) => {
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

/// Tables with names of the author's choice, of networks.
fn empty_tables() -> Value {
    let mut table = empty_table();
    table["required"] = json!(["bridge", "subnet"]);
    json!({
        "type": "object",
        "propertyNames": { "maxLength": 32, "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" },
        "additionalProperties": table,
    })
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
        Kind::Cores => json!({ "type": "number", "minimum": 0.01, "maximum": 1024 }),
        Kind::Ratio => json!({ "anyOf": [
            { "type": "number", "minimum": 0.005, "maximum": 100.004 },
            { "const": "off" },
        ] }),
        Kind::AbsolutePath => json!({ "type": "string", "pattern": "^/" }),
        Kind::Path | Kind::Text => json!({ "type": "string" }),
        Kind::Caches => {
            json!({ "type": "array", "items": { "type": "string", "pattern": "^(https?|file)://" } })
        }
        Kind::PublicKeys => {
            json!({ "type": "array", "items": { "type": "string", "pattern": "^[^:]+:[A-Za-z0-9+/]{43}=$" } })
        }
        Kind::Paths => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Services => json!({
            "type": "array",
            "items": { "type": "string", "pattern": "^(tcp|udp)/[0-9]{1,5}$" },
        }),
        Kind::AddressRanges => json!({
            "type": "array",
            "items": { "type": "string", "pattern": "^[0-9.]+([-/][0-9.]+)?$" },
        }),
        Kind::UserRange => json!({ "type": "string", "pattern": "^[0-9]+-[0-9]+$" }),
        Kind::LinkName => json!({ "type": "string", "minLength": 1, "maxLength": 15 }),
        Kind::Domain => json!({ "type": "string", "pattern": "^[A-Za-z0-9.-]+$" }),
        Kind::Subnet => json!({ "type": "string", "pattern": "^[0-9.]+/[0-9]{1,2}$" }),
        Kind::Ipv6Subnet => json!({ "type": "string", "pattern": "^[0-9A-Fa-f:]+/64$" }),
        Kind::Ipv4Address => json!({ "type": "string", "pattern": "^[0-9]{1,3}(\\.[0-9]{1,3}){3}$" }),
        Kind::HostAndPort | Kind::AddressAndPort => json!({ "type": "string", "pattern": "^.*:[0-9]{1,5}$" }),
    }
}
