//! Changing what an assignment says, key by key. Pure.

use serde_json::{Map, Value, json};
use vm_model::{Assignment, AssignmentSet, shown_value};

use super::admit::Refusal;

/// `assignment` with `changes` put over it as RFC 7396 has it: objects member by member, `null` takes a key away, everything
/// else takes the place of what was there.
///
/// # Errors
/// The changes name another VM, or what comes of them is no assignment.
pub(super) fn amended(assignment: &Assignment, changes: &Map<String, Value>) -> Result<Assignment, Refusal> {
    let unusable = |problem: String| Refusal::Unusable { id: assignment.id.clone(), problem };
    if let Some(id) = changes.get("id").filter(|id| *id != assignment.id.as_str()) {
        return Err(unusable(format!("its name cannot become {}", shown_value(id))));
    }
    let mut entry = serde_json::to_value(assignment).map_err(|problem| unusable(problem.to_string()))?;
    merge(&mut entry, &Value::Object(changes.clone()));
    let set = AssignmentSet::parse(&json!({ "vms": [entry] }).to_string());
    let AssignmentSet { vms, refused, .. } = set.map_err(|problem| unusable(problem.to_string()))?;
    match (vms.into_iter().next(), refused.into_iter().next()) {
        (Some(amended), _) => Ok(amended),
        (None, Some(entry)) => Err(unusable(entry.problem)),
        (None, None) => Err(unusable("nothing is left of it".to_owned())),
    }
}

fn merge(target: &mut Value, changes: &Value) {
    let Value::Object(changes) = changes else {
        target.clone_from(changes);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (key, change) in changes {
        match change {
            Value::Null => drop(members.remove(key)),
            change => merge(members.entry(key.clone()).or_insert(Value::Null), change),
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_model::{Bytes, VmId};

    use super::*;

    fn changed(assignment: &Assignment, changes: Value) -> Result<Assignment, String> {
        let Value::Object(changes) = changes else { panic!("an object") };
        amended(assignment, &changes).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn what_is_not_named_stays_and_null_takes_away() {
        let mut before = Assignment::new(VmId::new("a"), "sha256-x=", "/nix/store/x");
        before.hash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".to_owned();
        before.overrides.vcpus = Some(2);
        before.procurator.insert("health".to_owned(), json!({ "probes": [] }));
        let changes =
            json!({ "overrides": { "memory_bytes": 1 << 29 }, "procurator": { "restart": "never" } });
        let after = changed(&before, changes).expect("usable");
        assert_eq!(
            (after.overrides.vcpus, after.overrides.memory_bytes),
            (Some(2), Some(Bytes::from_mib(512)))
        );
        assert_eq!((after.procurator.len(), &after.procurator["restart"]), (2, &json!("never")));
        let back = json!({ "overrides": { "memory_bytes": null }, "procurator": { "restart": null } });
        assert_eq!(changed(&after, back).expect("usable"), before);
        assert_eq!(changed(&before, json!({})).expect("usable"), before);
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_place() {
        let mut before = Assignment::new(VmId::new("a"), "", "/nix/store/x");
        before.hash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".to_owned();
        let refused = |changes| changed(&before, changes).expect_err("refused");
        assert!(refused(json!({ "id": "b" })).contains("its name cannot become \"b\""));
        assert!(refused(json!({ "overrides": { "vcpus": 0 } })).contains("overrides.vcpus"));
        assert!(refused(json!({ "memory": 1 })).contains("no known key"));
        assert!(refused(json!({ "store_path": null })).contains("store_path"));
    }
}
