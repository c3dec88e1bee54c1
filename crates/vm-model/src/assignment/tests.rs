//! What documents of assignments are taken, and what is said of the others.

use proptest::prelude::*;

use super::*;
use crate::VMS_MOST;

const HASH: &str = "sha256-vZsuiNNAbVoV1qgClBpHhRQ8DSbbp6Lz6NMMLS5CqVY=";

fn entry(more: &str) -> String {
    format!(r#"{{"id": "web-1", "hash": "{HASH}", "store_path": "/nix/store/x"{more}}}"#)
}

fn set(entries: &[String]) -> String {
    format!("{{\"vms\": [\n{}]}}", entries.join(",\n"))
}

fn refused(document: &str) -> String {
    AssignmentSet::parse(document).expect_err(document).to_string()
}

/// The problem of the one entry that is refused; another one holds.
fn refused_entry(entry: &str) -> String {
    let other = entry.replace("web-1", "web-2");
    let good = format!(r#"{{"id": "db", "hash": "{HASH}", "store_path": "/nix/store/y"}}"#);
    let parsed = AssignmentSet::parse(&set(&[entry.to_owned(), good, other])).expect("the set is taken");
    assert_eq!(parsed.vms.iter().map(|vm| vm.id.as_str()).collect::<Vec<_>>(), ["db"]);
    let ids: Vec<&str> = parsed.refused.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(ids, ["web-1", "web-2"]);
    parsed.refused[0].problem.clone()
}

#[test]
fn the_documented_form_parses() {
    let text = format!(
        r#"{{ "generation": 7, "allow_removals": true, "vms": [ {{ "id": "web-1", "hash": "{HASH}",
             "store_path": "/nix/store/x", "desired": "paused",
             "overrides": {{ "vcpus": 2, "memory_bytes": 536870912, "cmdline_append": "quiet" }},
             "references": {{ "/nix/store/r": "{HASH}" }},
             "procurator": {{ "restart": {{ "policy": null }} }} }} ] }}"#
    );
    let set = AssignmentSet::parse(&text).expect("the documented form parses");
    assert_eq!((set.generation, set.allow_removals), (Some(Generation::new(7)), true));
    let vm = &set.vms[0];
    assert_eq!((vm.desired, vm.hash.as_str()), (DesiredState::Paused, HASH));
    assert_eq!(vm.overrides.memory_bytes, Some(Bytes::from_mib(512)));
    assert_eq!(vm.references[&PathBuf::from("/nix/store/r")], HASH);
    assert_eq!(vm.procurator["restart"], serde_json::json!({ "policy": null }), "it is passed on as it is");
}

#[test]
fn null_is_the_same_as_leaving_a_key_out() {
    let nulls = entry(
        r#", "desired": null, "references": null, "procurator": null,
            "overrides": {"vcpus": null, "memory_bytes": null, "cmdline_append": null}"#,
    );
    let document = format!(r#"{{"generation": null, "allow_removals": null, "vms": [{nulls}]}}"#);
    assert_eq!(AssignmentSet::parse(&document), AssignmentSet::parse(&set(&[entry("")])));
    let nothing = entry(r#", "overrides": {"cmdline_append": ""}, "references": {"/nix/store/r": null}"#);
    assert_eq!(AssignmentSet::parse(&set(&[nothing])), AssignmentSet::parse(&set(&[entry("")])));
    // A list that was left out must not remove every VM.
    for document in ["{}", r#"{"vms": null}"#] {
        assert!(refused(document).contains("\"vms\" is missing"));
    }
    assert_eq!(AssignmentSet::parse(r#"{"vms": []}"#).expect("nothing is to run").vms, []);
}

#[test]
fn a_hash_is_taken_in_every_form_that_nix_prints() {
    let hex = "bd9b2e88d3406d5a15d6a802941a4785143c0d26dba7a2f3e8d30c2d2e42a956";
    for form in [
        format!("\"{HASH}\""),
        format!("\"sha256:{hex}\""),
        format!(r#"{{"algorithm": "sha256", "format": "base64", "hash": "{}"}}"#, &HASH[7..]),
        format!(r#"{{"algorithm": "sha256", "format": "base16", "hash": "{hex}"}}"#),
        format!(r#"{{"hash": "{HASH}", "format": null}}"#),
    ] {
        let entry = entry("").replace(&format!("\"{HASH}\""), &form);
        let parsed = AssignmentSet::parse(&set(&[entry])).expect("taken");
        assert!(parsed.refused.is_empty(), "{form}: {:?}", parsed.refused);
        assert_eq!(parsed.vms[0].hash, HASH, "{form}");
    }
}

#[test]
fn a_document_that_is_none_is_refused_in_the_words_of_its_author() {
    for (document, words) in [
        ("[99, []]", "line 1, column 1: a list; accepted is an object like {\"vms\""),
        ("", "line 1, column 1: nothing: the text is empty; accepted is an object"),
        ("vms:\n- id: a\n", "looks like YAML"),
        ("{\"vms\": [],}", "line 1, column 11: a comma after the last item"),
        ("{\"vmz\": []}", "line 1, column 2, vmz: \"vmz\" is no known key; the nearest is \"vms\""),
        ("{\"vms\": {}}", "line 1, column 9, vms: an object; accepted is a list"),
        (
            "{\"vms\": [],\n \"vms\": []}",
            "line 2, column 2, vms: the key \"vms\" is there twice: here and at line 1, column 2",
        ),
        ("{\"generation\": -1, \"vms\": []}", "generation: -1; accepted is a whole number from 0 on, like 7"),
        ("{\"generation\": 1.5, \"vms\": []}", "generation: 1.5"),
        ("{\"generation\": \"7\", \"vms\": []}", "generation: the text \"7\""),
        ("{\"allow_removals\": 1, \"vms\": []}", "allow_removals: 1; accepted is true or false"),
    ] {
        let said = refused(document);
        assert!(said.contains(words), "{document:?}: {said}");
        for name in ["AssignmentSet", "struct", "u64", "expected", "invalid type", "serde"] {
            assert!(!said.contains(name), "{name} in: {said}");
        }
    }
    assert_eq!(
        AssignmentSet::parse("{\"generation\": 7.0, \"vms\": []}").expect("7").generation,
        Some(Generation::new(7))
    );
}

#[test]
fn a_bad_entry_is_refused_by_its_id_and_the_others_hold() {
    for (more, words) in [
        (r#", "sotre": "x""#, "vms[0].sotre: \"sotre\" is no known key; the nearest is \"store_path\""),
        (
            r#", "desired": "on""#,
            "vms[0].desired: the text \"on\"; accepted is \"running\", \"paused\" or \"stopped\"",
        ),
        (r#", "hash": "x""#, "the key \"hash\" is there twice: here and at line 2, column 17"),
        (
            r#", "overrides": {"memory_bytes": "512M"}"#,
            "vms[0].overrides.memory_bytes: the text \"512M\"; accepted is a number of bytes: 536870912",
        ),
        (r#", "overrides": {"memory_bytes": 0}"#, "like 536870912"),
        (
            r#", "overrides": {"memory_bytes": -1}"#,
            "vms[0].overrides.memory_bytes: -1; accepted is a number of bytes from 16777216 (16 MiB)",
        ),
        (
            r#", "overrides": {"memory_bytes": 1024}"#,
            "memory_bytes: 1024; accepted is a number of bytes from 1677",
        ),
        (r#", "overrides": {"memory_bytes": 16777217}"#, "that is a multiple of 4096"),
        (r#", "overrides": {"memory_bytes": "1K"}"#, "a number of bytes from 16777216 (16 MiB)"),
        (
            r#", "overrides": {"vcpus": 65}"#,
            "vms[0].overrides.vcpus: 65; accepted is a number of vCPUs from 1 to 64",
        ),
        (r#", "overrides": []"#, "vms[0].overrides: a list"),
        (r#", "references": {"x": "y"}"#, "no absolute path"),
        (r#", "references": {"/x": "y"}"#, "vms[0].references[\"/x\"]: \"y\" is no hash of a store path"),
        (r#", "procurator": {"a": {"b": 1, "b": 2}}"#, "the key \"b\" is there twice"),
        (r#", "procurator": 7"#, "vms[0].procurator: 7"),
    ] {
        let said = refused_entry(&entry(more));
        assert!(said.contains(words), "{more}: {said}");
        assert!(said.starts_with("line 2, column "), "{said}");
    }
    for (was, is, words) in [
        (HASH, "sha512-AAAA", "no SHA-256"),
        ("/nix/store/x", "nix/store/x", "an absolute path like \"/nix/store/…-vm-image\""),
    ] {
        let said = refused_entry(&entry("").replace(was, is));
        assert!(said.contains(words), "{is}: {said}");
    }
    let said = refused_entry(r#"{"id": "web-1", "store_path": "/x"}"#);
    assert!(said.contains("the key \"hash\" is missing; accepted is \"hash\" with the SHA-256"), "{said}");
}

#[test]
fn an_entry_of_nobody_knows_whom_refuses_the_set() {
    for (entry_text, words) in [
        ("7".to_owned(), "vms[1]: 7; accepted is an object like {\"id\""),
        ("null".to_owned(), "vms[1]: null"),
        ("[\"b1\", \"x\"]".to_owned(), "vms[1]: a list"),
        ("{}".to_owned(), "the key \"id\" is missing"),
        (entry("").replace("\"web-1\"", "null"), "the key \"id\" is missing"),
        (entry("").replace("\"web-1\"", "7"), "vms[1].id: 7; accepted is a DNS label"),
        (entry("").replace("web-1", "Web_1"), "vms[1].id: invalid VM id \"Web_1\""),
        (entry(", \"id\": \"web-2\""), "vms[1].id: the key \"id\" is there twice"),
        (
            entry("").replace("web-1", "a"),
            "VM a is listed more than once: here and at line 2, column 1, vms[0]",
        ),
        // One of the two cannot be used: still nobody knows which was meant.
        (entry(", \"desired\": 7").replace("web-1", "a"), "VM a is listed more than once"),
    ] {
        let said = refused(&set(&[entry("").replace("web-1", "a"), entry_text]));
        assert!(said.contains(words) && said.starts_with("line 3, column "), "{said}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_and_what_it_says_is_bounded(
        text in prop_oneof![
            "\\PC{0,80}",
            r#"\{"vms": ?\[(\{"(id|hash|store_path|x)": ?("a"|7|null|\[\]|\{\})(, ?"(id|desired|hash)": ?("b"|1e9|true))?\},?){0,3}\]\}"#,
        ],
    ) {
        match AssignmentSet::parse(&text) {
            Ok(set) => prop_assert!(set.refused.iter().all(|entry| entry.problem.len() < 2000)),
            Err(problem) => {
                prop_assert!(problem.to_string().len() < 2000);
                prop_assert!(problem.line >= 1 && problem.column >= 1);
            }
        }
    }

    #[test]
    fn a_document_that_was_cut_short_is_never_taken(cut in 0_usize..400) {
        let whole = set(&[entry(r#", "desired": "stopped""#), entry("").replace("web-1", "b")]);
        if cut < whole.len() {
            prop_assert!(AssignmentSet::parse(&whole[..cut]).is_err());
        }
    }

    #[test]
    fn what_is_written_is_read_back(generation in proptest::option::of(any::<u64>()), vcpus in proptest::option::of(1..=crate::VCPUS_MOST)) {
        let mut vm = Assignment::new(VmId::new("a"), HASH, "/nix/store/x");
        vm.overrides.vcpus = vcpus;
        let set = AssignmentSet { generation: generation.map(Generation::new), vms: vec![vm], ..AssignmentSet::default() };
        let json = serde_json::to_string(&set).expect("sets serialise");
        prop_assert_eq!(AssignmentSet::parse(&json), Ok(set));
    }
}

#[test]
fn secrets_are_not_shown() {
    let Value::Object(procurator) =
        serde_json::json!({"restart": "never", "credentials": {"db": {"value": "hunter2"}}})
    else {
        panic!("an object")
    };
    let assignment = Assignment { procurator, ..Assignment::new(VmId::new("web-1"), HASH, "/nix/store/x") };
    let shown = format!("{assignment:?}");
    assert!(shown.contains("never") && shown.contains("db") && !shown.contains("hunter2"), "{shown}");
    let json = serde_json::to_string(&assignment.without_secrets()).expect("serialises");
    assert!(json.contains("never") && json.contains("db") && !json.contains("hunter2"), "{json}");
}

#[test]
fn a_refusal_shows_nothing_of_what_may_be_secret() {
    let secret = r#"{"credentials": {"db": {"value": "hunter2"}}}"#;
    let twice = serde_json::to_string(secret).expect("a text");
    let entry = |further: &str| {
        format!(r#"{{"vms": [{{"id": "web-1", "hash": "{HASH}", "store_path": "/nix/store/x"{further}}}]}}"#)
    };
    for (document, words) in [
        (entry(&format!(r#", "procurator": {twice}"#)), "vms[0].procurator: a text of 45 bytes"),
        (entry(r#", "procurator": "hunter2""#), "vms[0].procurator: a text of 7 bytes"),
        (entry(&format!(r#", "overrides": {twice}"#)), "vms[0].overrides: a text of 45 bytes"),
        (entry(&format!(r#", "overrides": {{"vcpus": {twice}}}"#)), "overrides.vcpus: a text of 45 bytes"),
        (entry(&format!(r#", "references": {twice}"#)), "vms[0].references: a text of 45 bytes"),
        (entry(r#", "procurator": {"credentials": {"db": hunter2}}"#), "a word of 7 bytes"),
        (format!(r#"{{"vms": [{twice}]}}"#), "vms[0]: a text of 45 bytes"),
        (format!(r#"{{"vms": {twice}}}"#), "vms: a text of 45 bytes"),
        (twice.clone(), "a text of 45 bytes"),
    ] {
        let said = match AssignmentSet::parse(&document) {
            Ok(set) => set.refused[0].problem.clone(),
            Err(problem) => problem.to_string(),
        };
        assert!(said.contains(words) && !said.contains("hunter2"), "{document}: {said}");
    }
}

/// A document that says everything that can be said.
fn everything() -> Value {
    serde_json::json!({
        "generation": 7, "allow_removals": false,
        "vms": [{
            "id": "web-1", "hash": {"algorithm": "sha256", "format": "sri", "hash": HASH}, "store_path": "/nix/store/x",
            "desired": "running", "overrides": {"vcpus": 2, "memory_bytes": 536870912, "cmdline_append": "quiet"},
            "references": {"/nix/store/y": HASH}, "procurator": {"restart": "never", "ports": ["80:80"]},
        }, {"id": "web-2", "hash": HASH, "store_path": "/nix/store/x"}],
    })
}

/// Every document that comes of `value` where one value or one key becomes `marker`.
fn marked(value: &Value, marker: &Value) -> Vec<Value> {
    let mut all = vec![marker.clone()];
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let with = |key: &str, member: Value| {
                    let others = members.iter().filter(|(other, _)| *other != key);
                    let mut changed: Map<String, Value> =
                        others.map(|(key, member)| (key.clone(), member.clone())).collect();
                    changed.insert(key.to_owned(), member);
                    Value::Object(changed)
                };
                all.extend(marked(member, marker).into_iter().map(|member| with(key, member)));
                if let Value::String(marker) = marker {
                    all.push(with(marker, member.clone()));
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                all.extend(marked(item, marker).into_iter().map(|item| {
                    let mut items = items.clone();
                    items[index] = item;
                    Value::Array(items)
                }));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    all
}

proptest! {
    #[test]
    fn a_secret_in_any_place_is_in_no_refusal(
        secret in prop_oneof!["[a-zA-Z0-9/+_.-]{32,60}", "[a-z0-9]{4,12}[=!$&{\"`]{1,3}[a-z0-9]{4,12}", "\\{\"value\": \"[a-z0-9]{8}\"\\}"],
        number in 10_000_000_000_000_000_u64..,
    ) {
        for marker in [Value::from(secret.clone()), serde_json::json!({ secret.clone(): 1 }), serde_json::json!([secret]), number.into()] {
            let hidden = match &marker {
                Value::Number(number) => number.to_string(),
                _ => secret.clone(),
            };
            for document in marked(&everything(), &marker) {
                let said = match AssignmentSet::parse(&document.to_string()) {
                    Ok(set) => set.refused.into_iter().map(|entry| entry.problem).collect(),
                    Err(problem) => problem.to_string(),
                };
                prop_assert!(!said.contains(&hidden), "{document}: {said}");
            }
        }
    }
}

#[test]
fn a_state_with_more_vms_than_a_host_takes_is_refused_by_name() {
    let entry =
        |number: usize| format!(r#"{{"id": "vm-{number}", "hash": "{HASH}", "store_path": "/nix/store/x"}}"#);
    let state = |count: usize| {
        let entries: Vec<String> = (0..count).map(entry).collect();
        AssignmentSet::parse(&format!(r#"{{"vms": [{}]}}"#, entries.join(",")))
    };
    assert_eq!(state(VMS_MOST).expect("as many as it takes").vms.len(), VMS_MOST);
    let said = state(VMS_MOST + 2).expect_err("too many").to_string();
    assert!(
        said.contains("vms[4096]: 4098 VMs are listed, of which vm-4096 is the first too many; accepted is a list of at most 4096 VMs"),
        "{said}"
    );
}
