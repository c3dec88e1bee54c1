//! The table of keys against `docs/vm-config.md`, and against what the reader does.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::super::*;
use super::parse;

/// The lines around the part of the documentation that follows the table.
const BEGIN: &str = "<!-- keys: begin -->\n";
const END: &str = "<!-- keys: end -->\n";

/// A configuration in which the key of `rule` has this value.
pub(super) fn document_with(rule: &KeyRule, value: &Value) -> Value {
    let mut document = value.clone();
    for part in rule.key.split('.').rev() {
        document = match part.strip_suffix("[]") {
            Some(name) => json!({ name: [document] }),
            None => json!({ part: document }),
        };
    }
    document
}

/// The table as the documentation shows it: one part for each section, and one for single keys.
fn rendered() -> String {
    const SINGLE: &str = "Other keys";
    let mut parts: Vec<(String, String)> = Vec::new();
    for rule in known_keys() {
        let top = rule.key.split(['.', '[']).next().unwrap_or(rule.key);
        let is_section = known_keys().any(|other| other.container().trim_end_matches("[]") == top);
        let heading = match top {
            "kernel" | "initramfs" | "cmdline" => "`payload`".to_owned(),
            top if is_section => format!("`{top}`"),
            _ => SINGLE.to_owned(),
        };
        match parts.iter_mut().find(|(known, _)| *known == heading) {
            Some((_, rows)) => rows.push_str(&row(rule)),
            None => parts.push((heading, row(rule))),
        }
    }
    parts.sort_by_key(|(heading, _)| heading == SINGLE);
    let mut text = String::new();
    for (heading, rows) in parts {
        let head = "| Key | Verdict | Accepted | Meaning |\n|---|---|---|---|\n";
        let _ = write!(text, "\n### {heading}\n\n{head}{rows}");
    }
    text.push('\n');
    text
}

fn row(rule: &KeyRule) -> String {
    let (verdict, meaning) = match &rule.verdict {
        Verdict::Supported => ("supported", rule.note.to_owned()),
        Verdict::Ignored(_) => ("ignored with a warning", format!("{}.", sentence(rule.note))),
        Verdict::Refused(_) => ("refused", format!("{}.", sentence(rule.note))),
    };
    let quiet = match &rule.verdict {
        Verdict::Ignored(quiet) if !quiet.is_empty() => {
            let quiet: Vec<String> = quiet.iter().map(ToString::to_string).collect();
            format!("; without a warning: {}", quiet.join(", "))
        }
        _ => String::new(),
    };
    let members = match rule.kind {
        ValueKind::Opaque { members } if !members.is_empty() => {
            format!(" Its members: `{}`.", members.join("`, `"))
        }
        _ => String::new(),
    };
    let accepted = rule.accepted();
    format!("| `{}` | {verdict} | {accepted}{quiet} | {meaning}{members} |\n", rule.key)
}

fn sentence(note: &str) -> String {
    let mut characters = note.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

#[test]
fn the_documentation_lists_every_key() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/vm-config.md");
    let text = fs::read_to_string(&path).expect("docs/vm-config.md is there");
    let begin = text.find(BEGIN).expect("it has the line that begins the keys") + BEGIN.len();
    let end = text.find(END).expect("it has the line that ends the keys");
    if text[begin..end] == rendered() {
        return;
    }
    if std::env::var_os("PROCURATOR_UPDATE_DOCS").is_some() {
        let updated = format!("{}{}{}", &text[..begin], rendered(), &text[end..]);
        fs::write(&path, updated).expect("docs/vm-config.md is writable");
    } else {
        panic!(
            "docs/vm-config.md does not say what the table of keys says; PROCURATOR_UPDATE_DOCS=1 rewrites it"
        );
    }
}

#[test]
fn the_table_is_well_formed() {
    let keys: Vec<&str> = known_keys().map(|rule| rule.key).collect();
    for (index, rule) in known_keys().enumerate() {
        assert!(!keys[..index].contains(&rule.key), "{} stands there twice", rule.key);
        let container = rule.container().trim_end_matches("[]");
        assert!(container.is_empty() || keys[..index].contains(&container), "{} has no container", rule.key);
        assert!(!rule.note.contains('|'), "{}: a bar breaks the documentation's table", rule.key);
    }
}

#[test]
fn every_verdict_is_kept() {
    let odd = json!({"set": [1]});
    for rule in known_keys() {
        let with = |value: &Value| {
            let mut document = document_with(rule, value);
            if rule.container() == "disks[]" && rule.name() != "path" {
                document["disks"][0]["path"] = json!("disk.img");
            }
            parse(&document.to_string())
        };
        match &rule.verdict {
            Verdict::Supported => assert!(with(&odd).is_err(), "{} takes anything", rule.key),
            Verdict::Ignored(_) => {
                let parsed = with(&odd).unwrap_or_else(|error| panic!("{}: {error}", rule.key));
                assert_eq!(parsed.warnings.len(), 1, "{} is left aside without a word", rule.key);
            }
            Verdict::Refused(harmless) => {
                let error = with(&odd).expect_err(rule.key);
                assert!(error.contains(rule.note), "{}: {error}", rule.key);
                for literal in *harmless {
                    let value = match literal {
                        Literal::False => json!(false),
                        Literal::True => json!(true),
                        Literal::Integer(value) => json!(value),
                        Literal::Text(text) => json!(text),
                        Literal::Empty => json!([]),
                    };
                    let parsed = with(&value).unwrap_or_else(|error| panic!("{}: {error}", rule.key));
                    assert_eq!(parsed.warnings, [], "{}", rule.key);
                }
            }
        }
    }
}
