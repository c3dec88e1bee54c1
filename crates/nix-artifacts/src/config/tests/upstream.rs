//! The table of keys against Cloud Hypervisor's own, so that no description made for it meets an "unknown key".

use super::super::*;

/// A key a line; `#` starts a comment.
const CLOUD_HYPERVISOR: &str = include_str!("cloud-hypervisor-keys.txt");

/// Whether the table speaks of `key`: by a row of its own, or as something inside of what is taken or refused whole.
fn is_known(key: &str) -> bool {
    if known_keys().any(|rule| rule.key == key) {
        return true;
    }
    let Some((container, name)) = key.rsplit_once('.') else {
        return false;
    };
    let whole = known_keys().find(|rule| container.trim_end_matches("[]") == rule.key);
    match whole.map(|rule| &rule.kind) {
        Some(ValueKind::Opaque { members }) => members.contains(&name),
        Some(_) => false,
        // Deeper inside of it: its own members alone are listed.
        None => is_known(container.trim_end_matches("[]")),
    }
}

#[test]
fn every_key_of_cloud_hypervisor_is_known() {
    let keys: Vec<&str> = CLOUD_HYPERVISOR.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(keys.len() > 250, "{} keys are not all of them", keys.len());
    let unknown: Vec<&&str> = keys.iter().filter(|key| !is_known(key)).collect();
    assert!(
        unknown.is_empty(),
        "src/config/keys/ says nothing of {unknown:#?}: support them, or leave them aside or refuse them with a reason"
    );
}

#[test]
fn what_nobody_knows_is_told_apart() {
    for key in ["memroy", "memory.sise", "fs[].sockte", "disks[].queue_affinity[].cpu", "rng.src.path.x"] {
        assert!(!is_known(key), "{key}");
    }
    for key in ["fs[].iommu", "memory.zones[].size", "numa[].distances[].distance"] {
        assert!(is_known(key), "{key}");
    }
}
