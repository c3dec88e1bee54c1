//! The schema of assignments: what should run on a host.

use serde_json::{Value, json};
use vm_model::{MEMORY_LEAST, MEMORY_MOST, MEMORY_PAGE, VCPUS_MOST};

use super::vm_config::{Completeness, definitions, object};

pub(super) fn schema() -> Value {
    json!({
        "type": "object",
        "required": ["vms"],
        "additionalProperties": false,
        "properties": {
            "generation": optional(
                json!({ "type": "integer", "minimum": 0 }),
                "Numbers the state. A file may leave it out: the worker numbers changes itself.",
            ),
            "vms": {
                "type": "array",
                "items": entry(),
                "description": "The VMs. One that is not listed is removed.",
            },
            "allow_removals": optional(
                json!({ "type": "boolean" }),
                "Lifts the guard against mass removal for this state. Default: false.",
            ),
        },
        "$defs": definitions(),
    })
}

fn entry() -> Value {
    json!({
        "type": "object",
        "required": ["id", "hash", "store_path"],
        "additionalProperties": false,
        "properties": {
            "id": {
                "type": "string",
                "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
                "description": "The VM's name on the host: a DNS label.",
            },
            "hash": described(hash(), "The NAR hash of `store_path`."),
            "store_path": described(path(), "The artifact, like /nix/store/…-vm-image."),
            "desired": optional(
                json!({ "enum": ["running", "paused", "stopped"] }),
                "The phase that the VM should be in. Default: running.",
            ),
            "overrides": optional(overrides(), "Values that replace those of the artifact."),
            "references": optional(
                json!({
                    "type": "object",
                    "propertyNames": { "pattern": "^/" },
                    "additionalProperties": { "anyOf": [hash(), { "type": "null" }] },
                }),
                "Hashes of further store paths that the artifact reaches.",
            ),
            "procurator": optional(
                object("procurator", Completeness::Overlay),
                "Settings that take precedence over those under the artifact's key `procurator`, member by member.",
            ),
        },
    })
}

fn overrides() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "vcpus": optional(
                json!({ "type": "integer", "minimum": 1, "maximum": VCPUS_MOST }),
                "Number of vCPUs, in place of `cpus.boot_vcpus`.",
            ),
            "memory_bytes": optional(
                json!({
                    "type": "integer",
                    "minimum": MEMORY_LEAST,
                    "maximum": MEMORY_MOST,
                    "multipleOf": MEMORY_PAGE,
                }),
                "Memory in bytes, in place of `memory.size`.",
            ),
            "cmdline_append": optional(
                json!({ "type": "string" }),
                "Text put after the kernel's command line, with a space between.",
            ),
        },
    })
}

/// A hash in any form that Nix prints.
fn hash() -> Value {
    json!({ "anyOf": [
        { "type": "string", "minLength": 1 },
        {
            "type": "object",
            "required": ["hash"],
            "additionalProperties": false,
            "properties": {
                "algorithm": { "enum": ["sha256", null] },
                "format": { "enum": ["base64", "nix32", "base16", "sri", null] },
                "hash": { "type": "string", "minLength": 1 },
            },
        },
    ] })
}

fn path() -> Value {
    json!({ "type": "string", "pattern": "^/" })
}

/// A key that may be left out or `null`.
fn optional(accepted: Value, description: &str) -> Value {
    described(json!({ "anyOf": [accepted, { "type": "null" }] }), description)
}

fn described(mut schema: Value, description: &str) -> Value {
    if let Some(members) = schema.as_object_mut() {
        members.insert("description".to_owned(), description.into());
    }
    schema
}
