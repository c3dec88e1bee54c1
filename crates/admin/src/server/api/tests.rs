//! The document says what is answered.

use serde::Serialize;
use serde_json::{Value, json};
use vm_model::{
    Assignment, BootTrouble, Bytes, Caller, Condition, ConditionKind, DesiredState, DiskAccess, DiskFormat,
    EndCause, EndMethod, Event, EventKind, EventReason, FailureClass, FailureKind, FailureReason, Generation,
    Health, MachineShape, Readiness, RunEnd, SourceKind, Timestamp, VmDisk, VmId, VmInfo, VmStatus,
    VolumeInfo, VolumeKeep, VolumePolicy, WantedChange,
};
use worker::vms::{CallFilter, HostingProcess, ProcessJail, VmMetrics};

use super::openapi;
use crate::{
    ApiError, ErrorCode, EventGap, EventList, OperationState, OperationView, PowerVerb, ProcessView, VmView,
    VolumeList,
};

fn document() -> Value {
    serde_json::to_value(openapi()).expect("the document has a JSON form")
}

/// What of `value` is not as `schema` says, as far as the schema speaks of types, keys, constants and references.
fn mismatches(document: &Value, schema: &Value, value: &Value, place: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#'));
        let Some(target) = target else { return vec![format!("{place}: {reference} leads nowhere")] };
        return mismatches(document, target, value, place);
    }
    if let Some(one_of) = schema["oneOf"].as_array() {
        let tried = one_of.iter().map(|one| mismatches(document, one, value, place));
        return match tried.min_by_key(Vec::len) {
            Some(fewest) => fewest,
            None => vec![format!("{place}: nothing is allowed")],
        };
    }
    let mut found = Vec::new();
    for part in schema["allOf"].as_array().into_iter().flatten() {
        found.extend(mismatches(document, part, value, place));
    }
    if !schema["type"].is_null() && !has_type(&schema["type"], value) {
        found.push(format!("{place}: {value} is no {}", schema["type"]));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        found.push(format!("{place}: {value} is none of {allowed:?}"));
    }
    for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.get(key).is_none() {
            found.push(format!("{place}: no {key}"));
        }
    }
    for (key, part) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(inner) = value.get(key) {
            found.extend(mismatches(document, part, inner, &format!("{place}.{key}")));
        }
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        for (index, inner) in values.iter().enumerate() {
            found.extend(mismatches(document, items, inner, &format!("{place}[{index}]")));
        }
    }
    found
}

fn has_type(wanted: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the document has a type {other}"),
    };
    match wanted {
        Value::String(name) => is(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is),
        other => panic!("the document has a type {other}"),
    }
}

/// Panics unless `value` is as the document's schema `name` says, with every key of it described.
fn check(name: &str, value: &impl Serialize) {
    let (document, value) = (document(), serde_json::to_value(value).expect("serialises"));
    let schema = &document["components"]["schemas"][name];
    assert!(schema.is_object(), "the document has no schema {name}");
    assert_eq!(mismatches(&document, schema, &value, name), [""; 0]);
    if let (Some(described), Some(keys)) = (schema["properties"].as_object(), value.as_object()) {
        let unknown: Vec<_> = keys.keys().filter(|key| !described.contains_key(*key)).collect();
        assert!(unknown.is_empty(), "{name} does not describe {unknown:?}");
    }
}

fn reason() -> FailureReason {
    FailureReason::new(FailureKind::Guest, "it triple-faulted".to_owned()).of_class(FailureClass::TripleFault)
}

fn info() -> VmInfo {
    let assignment = Assignment::new(VmId::new("a"), "sha256-x=", "/nix/store/x");
    let disk = VmDisk {
        id: "root".to_owned(),
        path: "/nix/store/x/disk.img".into(),
        size: Bytes::from_mib(1),
        access: DiskAccess::ReadWrite,
        format: DiskFormat::Raw,
        policy: Some(VolumePolicy::FromImage),
    };
    let wanted = WantedChange { assignment: assignment.clone(), refusal: Some(reason()), next_try_at: None };
    let end = RunEnd {
        at: Timestamp::from_millis(1),
        ran_for: Some(std::time::Duration::from_millis(1500)),
        method: EndMethod::Failed,
        cause: EndCause::Failure { kind: FailureKind::Guest, class: None },
        detail: Some("x".to_owned()),
    };
    let condition = Condition {
        kind: ConditionKind::Ready,
        holds: false,
        since: Timestamp::from_millis(1),
        reason: Some("x".to_owned()),
    };
    let trouble =
        BootTrouble { class: FailureClass::NoRootDevice, line: "ALERT!".to_owned(), hint: "x".to_owned() };
    VmInfo {
        status: VmStatus::Failed(reason()),
        wanted: Some(wanted),
        machine: Some(MachineShape {
            vcpus: 1,
            memory: Bytes::from_mib(64),
            cmdline: "quiet".to_owned(),
            disks: vec![disk],
        }),
        ends: vec![end],
        conditions: vec![condition],
        boot_trouble: Some(trouble),
        health: Some(Box::new(Health::unknown(Timestamp::from_millis(1)))),
        unverified: vec!["/nix/store/y".into()],
        ..VmInfo::new(assignment, Generation::new(1))
    }
}

#[test]
fn what_is_answered_is_as_described() {
    check("VmView", &VmView::new(info(), Some(&VmMetrics::default())));
    let bare = Assignment::new(VmId::new("a"), "sha256-x=", "/nix/store/x");
    check("VmView", &VmView::new(VmInfo::new(bare, Generation::new(1)), None));
    let jail = ProcessJail { user: Some(1_879_048_192), gaps: vec!["Landlock: x".to_owned()] };
    let process = HostingProcess { pid: 1, jail: Some(jail), filter: CallFilter::Trap };
    check("ProcessView", &ProcessView::new(process));
    check("ApiError", &ApiError::new(ErrorCode::NoSuchVm, "there is no VM a").about("a"));
    let by = Caller::process(1, 2, Some(3));
    let operation = OperationView {
        id: 1,
        what: PowerVerb::Stop,
        vm: VmId::new("a"),
        state: OperationState::Failed,
        started_at: Timestamp::from_millis(1),
        ended_at: Some(Timestamp::from_millis(2)),
        by,
        outcome: None,
        error: Some(ApiError::new(ErrorCode::Late, "it took too long")),
    };
    check("OperationView", &operation);
    let volume = VolumeInfo {
        vm: VmId::new("a"),
        disk: "root".to_owned(),
        number: 1,
        policy: None,
        size: Bytes::new(1),
        allocated: Bytes::new(1),
        created: Timestamp::from_millis(1),
        keep: VolumeKeep::Removed { until: Timestamp::from_millis(2) },
        problem: None,
    };
    check("VolumeList", &VolumeList { volumes: vec![volume] });
}

#[test]
fn events_are_as_described() {
    let kinds = [
        EventKind::VmCreated { store_path: "/nix/store/x".into() },
        EventKind::VmRemoved { kept_until: None },
        EventKind::PhaseChanged {
            from: "running".to_owned(),
            to: "failed".to_owned(),
            reason: Some(EventReason::from(&reason())),
        },
        EventKind::DesiredChanged { from: DesiredState::Running, to: DesiredState::Stopped },
        EventKind::ReadinessChanged { readiness: Readiness::NotReady, reason: Some("x".to_owned()) },
        EventKind::Undisturbed,
        EventKind::Ordered { verb: "stop".to_owned(), by: Caller::process(1, 2, None), status: 200 },
        EventKind::SourceTaken { source: SourceKind::File, generation: Generation::new(1) },
    ];
    let events = kinds.into_iter().map(|kind| Event {
        id: 1,
        at: Timestamp::from_millis(1),
        vm: Some(VmId::new("a")),
        kind,
    });
    let list = EventList { gap: Some(EventGap { after: 1, before: 3 }), events: events.collect(), newest: 1 };
    check("EventList", &list);
}

#[test]
fn a_document_that_says_something_else_is_noticed() {
    let schema =
        json!({ "type": "object", "required": ["id"], "properties": { "id": { "type": "string" } } });
    assert_eq!(mismatches(&json!({}), &schema, &json!({ "id": 1 }), "x").len(), 1);
    assert_eq!(mismatches(&json!({}), &schema, &json!({}), "x").len(), 1);
    assert_eq!(mismatches(&json!({}), &schema, &json!({ "id": "a" }), "x").len(), 0);
}

/// Every reference within the document.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(keys) => {
            found.extend(keys.get("$ref").and_then(Value::as_str));
            keys.values().for_each(|inner| references(inner, found));
        }
        Value::Array(values) => values.iter().for_each(|inner| references(inner, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_document_is_whole_and_every_path_refuses_in_one_shape() {
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 30, "{found:?}");
    for reference in found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
    }
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() >= 14, "{:?}", paths.keys());
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().expect("operations") {
            let refusal = &operation["responses"]["default"]["content"]["application/json"]["schema"]["$ref"];
            assert_eq!(refusal, "#/components/schemas/ApiError", "{method} {path}");
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
        }
    }
}

#[test]
fn every_path_and_event_is_documented_in_prose() {
    let prose = include_str!("../../../../../docs/api.md");
    let document = document();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for method in operations.as_object().expect("operations").keys() {
            let row = format!("`{} {path}`", method.to_uppercase());
            let with_body = format!("`{} {path}` with", method.to_uppercase());
            assert!(prose.contains(&row) || prose.contains(&with_body), "docs/api.md has no row {row}");
        }
    }
    for event in EventKind::NAMES {
        assert!(prose.contains(&format!("| `{event}` |")), "docs/api.md has no row for {event}");
    }
}
