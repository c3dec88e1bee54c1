//! What configurations say, what is refused and in which words, and that the documentation says the same.

mod access;
mod cloud_init;
mod documentation;
mod health;
mod networks;
mod overlay;
mod reading;
mod refusing;
mod services;
mod upstream;

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::*;
use crate::tests::chain;

/// Parses `json` as `vm-config.json` of a store path with no files.
fn parse(json: &str) -> Result<extract::ParsedConfig, String> {
    parse_with(json, Conventional::default())
}

fn parse_with(json: &str, present: Conventional) -> Result<extract::ParsedConfig, String> {
    parse_all(json, present, &Map::new())
}

/// Parses `json` with an assignment's `procurator` laid over it.
fn parse_all(
    json: &str,
    present: Conventional,
    assignment: &Map<String, Value>,
) -> Result<extract::ParsedConfig, String> {
    parse_config(json.as_bytes(), Path::new("vm-config.json"), Uuid::nil(), present, assignment)
        .map_err(|error| chain(&error))
}

/// Why `json` is refused.
fn refusal(json: &str) -> String {
    match parse(json) {
        Ok(parsed) => panic!("{json} must be refused, but is {parsed:?}"),
        Err(error) => error,
    }
}

/// The warnings that `json` gives.
fn warnings(json: &str) -> Vec<String> {
    let parsed = parse(json).expect("accepted");
    parsed.warnings.iter().map(ToString::to_string).collect()
}

/// Any JSON value, often with known keys.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let names: Vec<&'static str> = known_keys().map(KeyRule::name).collect();
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<u64>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        (0_u64..300).prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        "\\PC{0,12}".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        let name =
            prop_oneof![4 => prop::sample::select(names.clone()).prop_map(str::to_owned), 1 => "\\PC{0,8}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::hash_map(name, inner, 0..6)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_panics(json in any_json()) {
        let _ = parse(&json.to_string());
    }

    #[test]
    fn no_known_section_with_any_member_panics(index in any::<prop::sample::Index>(), value in any_json()) {
        let rules: Vec<&KeyRule> = known_keys().collect();
        let rule = index.get(&rules);
        let json = documentation::document_with(rule, &value);
        let _ = parse(&json.to_string());
    }

    #[test]
    fn no_assignment_panics(own in any_json(), laid in any_json()) {
        if let Value::Object(laid) = laid {
            let json = serde_json::json!({ "procurator": own }).to_string();
            let _ = parse_all(&json, Conventional::default(), &laid);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_config(&bytes, Path::new("x"), Uuid::nil(), Conventional::default(), &Map::new());
    }

    #[test]
    fn messages_stay_short(name in "\\PC{0,400}", value in "\\PC{0,400}") {
        let json = serde_json::json!({ "cpus": { name: value } });
        if let Err(error) = parse(&json.to_string()) {
            prop_assert!(error.chars().count() < 900, "{}", error);
        }
    }
}
