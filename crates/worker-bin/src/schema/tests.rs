//! The schemas against what the worker reads, in both directions, and against its documentation.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use nix_artifacts::known_keys;
use serde_json::{Value, json};
use vm_model::AssignmentSet;

use super::validator::problems;
use super::*;

fn repository(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn assert_valid(schema: &Value, document: &Value) {
    assert_eq!(problems(schema, document), [""; 0], "{document}");
}

fn assert_invalid(schema: &Value, document: &Value) {
    assert_ne!(problems(schema, document), [""; 0], "{document}");
}

/// The keys that a schema speaks of, written as the documentation writes them.
fn keys_of(schema: &Value, prefix: &str, keys: &mut BTreeSet<String>) {
    for choice in schema["anyOf"].as_array().into_iter().flatten() {
        keys_of(choice, prefix, keys);
    }
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        keys_of(member, &key, keys);
        keys.insert(key);
    }
    if schema["items"].is_object() {
        keys_of(&schema["items"], &format!("{prefix}[]"), keys);
    }
    if schema["additionalProperties"].is_object() && !schema["propertyNames"].is_null() {
        let key = format!("{prefix}.NAME");
        keys_of(&schema["additionalProperties"], &key, keys);
        keys.insert(key);
    }
}

#[test]
fn the_schema_of_a_machine_has_every_key_of_its_reader_and_of_the_documentation() {
    let mut keys = BTreeSet::new();
    keys_of(&vm_config::schema(), "", &mut keys);
    let known: BTreeSet<String> = known_keys().map(|rule| rule.key.to_owned()).collect();
    assert_eq!(keys, known);
    let page = repository("docs/vm-config.md");
    for key in keys {
        assert!(page.contains(&format!("| `{key}` |")), "{key} is not documented");
    }
}

#[test]
fn the_sample_of_a_machine_is_valid_and_mistakes_are_not() {
    let sample: Value = serde_json::from_str(&repository("examples/vm-config.json")).expect("JSON");
    assert_valid(&vm_config::schema(), &sample);
    for document in [
        json!({}),
        json!({ "memory": null, "cpus": { "boot_vcpus": null } }),
        json!({ "procurator": { "restart": "always", "credentials": { "a.b": { "value": "x" } } } }),
        json!({ "fs": [], "tpm": { "socket": null }, "disks": [{ "path": "a", "backing_files": false }] }),
        json!({ "landlock_rules": ["anything"] }),
    ] {
        assert_valid(&vm_config::schema(), &document);
    }
    for document in [
        json!([]),
        json!({ "memroy": {} }),
        json!({ "memory": { "size": "512M" } }),
        json!({ "memory": { "size": 4097 } }),
        json!({ "cpus": { "boot_vcpus": 0 } }),
        json!({ "disks": [{ "readonly": true }] }),
        json!({ "disks": [{ "path": "a", "backing_files": true }] }),
        json!({ "net": [{ "mac": "53:54:00:12:34:56" }] }),
        json!({ "net": [{ "queue_size": 100 }] }),
        json!({ "fs": [{ "tag": "x" }] }),
        json!({ "procurator": { "restart": "sometimes" } }),
        json!({ "procurator": { "credentials": { "a/b": { "value": "x" } } } }),
    ] {
        assert_invalid(&vm_config::schema(), &document);
    }
}

/// The first block of JSON below `heading` of a page.
fn block(page: &str, heading: &str) -> Value {
    let below = page.split_once(heading).expect("the heading is there").1;
    let text = below.split_once("```json\n").and_then(|(_, rest)| rest.split_once("```")).expect("a block").0;
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn documented_assignments_are_valid_and_what_the_reader_refuses_is_not() {
    let sample = block(&repository("docs/configuration.md"), "## Assignments");
    let entry = json!({ "id": "a", "hash": sample["vms"][0]["hash"], "store_path": "/nix/store/x" });
    let with = |name: &str, value: Value| {
        let mut entry = entry.clone();
        entry[name] = value;
        json!({ "vms": [entry] })
    };
    for document in [
        sample,
        json!({ "vms": [], "generation": 7, "allow_removals": true }),
        with("desired", Value::Null),
        with("procurator", json!({ "disks": [{ "id": "data", "size": 8192 }] })),
        with("references", json!({ "/nix/store/y": entry["hash"] })),
    ] {
        let read = AssignmentSet::parse(&document.to_string()).expect("the reader takes it");
        assert!(read.refused.is_empty(), "{:?}", read.refused);
        assert_valid(&assignments::schema(), &document);
    }
    for document in [
        json!([]),
        json!({ "vms": {} }),
        json!({ "vms": [{ "id": "a" }] }),
        with("id", json!("No!")),
        with("store_path", json!("relative")),
        with("desired", json!("on")),
        with("overrides", json!({ "vcpus": 0 })),
        with("references", json!({ "x": "y" })),
        with("unknown", json!(1)),
    ] {
        let is_taken = AssignmentSet::parse(&document.to_string()).is_ok_and(|set| set.refused.is_empty());
        assert!(!is_taken, "{document}");
        assert_invalid(&assignments::schema(), &document);
    }
}

#[test]
fn the_schema_of_assignments_has_every_key_of_an_assignment() {
    let whole = json!({ "vms": [{
        "id": "a", "hash": "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "store_path": "/nix/store/x",
        "overrides": { "vcpus": 1, "memory_bytes": 16_777_216, "cmdline_append": "x" },
        "references": { "/nix/store/y": "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" },
        "procurator": { "isolation": "strict" },
    }] });
    let set = AssignmentSet::parse(&whole.to_string()).expect("valid");
    let written = serde_json::to_value(&set.vms[0]).expect("JSON");
    let names =
        |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<BTreeSet<_>>();
    let entry = &assignments::schema()["properties"]["vms"]["items"]["properties"];
    assert_eq!(names(&written), names(entry));
    assert_eq!(names(&written["overrides"]), names(&entry["overrides"]["anyOf"][0]["properties"]));
}

#[test]
fn configurations_of_the_documentation_are_valid() {
    let page = repository("docs/configuration.md");
    let blocks: Vec<&str> =
        page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() > 1, "{page}");
    for text in blocks {
        assert_valid(&worker_config::schema(), &toml::from_str(text).expect("TOML"));
    }
    for text in ["brigde = 'x'", "auto_restart = 1", "[network]\nsubnet = 'x'", "stop_timeout_seconds = 0"] {
        assert_invalid(&worker_config::schema(), &toml::from_str(text).expect("TOML"));
    }
}

#[test]
fn the_options_for_nix_are_made_of_this_schema() {
    let kept: Value = serde_json::from_str(&repository("nix/worker-config.json")).expect("JSON");
    let printed = titled("Configuration of a Procurator worker", worker_config::schema());
    assert!(kept == printed, "run: procurator-worker schema worker-config >nix/worker-config.json");
}

#[test]
fn a_schema_names_its_dialect() {
    let whole = titled("it", worker_config::schema());
    assert_eq!((&whole["$schema"], &whole["title"]), (&DIALECT.into(), &"it".into()));
    assert_eq!(whole["type"], "object");
}
