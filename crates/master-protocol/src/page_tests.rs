//! `docs/protocol.md` says what the code does: its examples are messages, and its tables name every key.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::codec::{decode_master_message, decode_worker_message};
use crate::samples;

const PAGE: &str = include_str!("../../../docs/protocol.md");

fn examples() -> Vec<Value> {
    let blocks = PAGE.split("```json\n").skip(1);
    let texts = blocks.map(|block| block.split("```").next().expect("a block ends"));
    texts.map(|text| serde_json::from_str(text).expect(text)).collect()
}

/// Every key of a message, as the page's tables write it.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                found.insert(path.clone());
                keys(member, &path, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, &format!("{path}[]"), found)),
        _ => {}
    }
}

fn keys_of(message: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    keys(message, "", &mut found);
    found
}

#[test]
fn every_example_is_read_and_written_back_as_it_stands() {
    for example in examples() {
        let frame = serde_json::to_vec(&example).expect("JSON");
        let from_worker = decode_worker_message(&frame).expect("a message");
        let from_master = decode_master_message(&frame).expect("a message");
        let written: Vec<Value> = [
            from_worker.map(|message| serde_json::to_value(message).expect("JSON")),
            from_master.map(|message| serde_json::to_value(message).expect("JSON")),
        ]
        .into_iter()
        .flatten()
        .collect();
        assert!(!written.is_empty(), "nobody sends {example}");
        assert!(written.iter().all(|written| *written == example), "{example}\n{written:?}");
    }
}

#[test]
fn every_message_has_an_example_with_all_its_keys_and_a_row_for_each() {
    let examples: Vec<_> = examples().iter().map(keys_of).collect();
    let worker =
        samples::worker_messages().into_iter().map(|message| serde_json::to_value(message).expect("JSON"));
    let master =
        samples::master_messages().into_iter().map(|message| serde_json::to_value(message).expect("JSON"));
    for message in worker.chain(master) {
        let keys = keys_of(&message);
        assert!(examples.contains(&keys), "no example has all keys of {message}");
        // What stands in an assignment's list of VMs is described with assignments.
        let is_assignment = message["type"] == "assignment";
        let described =
            keys.iter().filter(|key| *key != "type" && !(is_assignment && key.starts_with("vms[]")));
        for key in described {
            // Keys of a form that was described before are not repeated.
            let is_repeated = ["node.held.", "node.conditions[]."].iter().any(|form| key.starts_with(form));
            assert!(is_repeated || PAGE.contains(&format!("`{key}`")), "no row describes {key}");
        }
    }
}

#[test]
fn the_bounds_on_the_page_are_those_of_the_types() {
    use crate::wire::v1::{FRAME_MOST_BYTES, NESTING_MOST, Welcome};

    let grouped = |number: u64| {
        let digits = number.to_string();
        let groups: Vec<&str> = digits
            .as_bytes()
            .rchunks(3)
            .rev()
            .map(|group| std::str::from_utf8(group).expect("digits"))
            .collect();
        groups.join(",")
    };
    assert!(PAGE.contains(&format!("| length of a frame | 1 to {} bytes", grouped(FRAME_MOST_BYTES as u64))));
    assert!(PAGE.contains(&format!("| lists and objects within each other | {NESTING_MOST},")));
    let heartbeat = *Welcome::HEARTBEAT_MS.end();
    assert!(PAGE.contains(&format!("the interval, 50 to {} milliseconds", grouped(heartbeat))));
}
