//! What happened to this host's desired state between two of its statuses. Pure.

use vm_model::{EventKind, NodeStatus, SourceKind, SourceStatus};

/// What happened between `before` and `now`.
pub(crate) fn node_changes(before: &NodeStatus, now: &NodeStatus) -> Vec<EventKind> {
    let unheard_of = SourceStatus::default();
    let changes = now.sources.iter().flat_map(|(kind, source)| {
        source_changes(*kind, before.sources.get(kind).unwrap_or(&unheard_of), source)
    });
    changes.collect()
}

fn source_changes(
    kind: SourceKind,
    before: &SourceStatus,
    now: &SourceStatus,
) -> impl Iterator<Item = EventKind> + use<> {
    let taken = now.generation.filter(|_| before.generation != now.generation);
    let taken = taken.map(|generation| EventKind::SourceTaken { source: kind, generation });
    let held = now.held.as_ref().filter(|_| before.held != now.held).map(|held| EventKind::SourceHeld {
        source: kind,
        generation: held.generation,
        reason: held.reason.clone(),
    });
    let refused = now.refusal.as_ref().filter(|_| before.refusal != now.refusal);
    let refused = refused.map(|problem| EventKind::SourceRefused { source: kind, problem: problem.clone() });
    [taken, held, refused].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use vm_model::Generation;

    use super::*;

    #[test]
    fn what_became_of_a_state_is_told_once() {
        let status = |source| NodeStatus {
            sources: BTreeMap::from([(SourceKind::File, source)]),
            ..NodeStatus::default()
        };
        let nothing = NodeStatus::default();
        let taken = status(SourceStatus { generation: Some(Generation::new(3)), ..SourceStatus::default() });
        let told = EventKind::SourceTaken { source: SourceKind::File, generation: Generation::new(3) };
        assert_eq!(node_changes(&nothing, &taken), [told]);
        assert_eq!(node_changes(&taken, &taken), []);
        let refused = status(SourceStatus {
            generation: Some(Generation::new(3)),
            refusal: Some("it is no JSON".to_owned()),
            ..SourceStatus::default()
        });
        let told = EventKind::SourceRefused { source: SourceKind::File, problem: "it is no JSON".to_owned() };
        assert_eq!(node_changes(&taken, &refused), [told]);
        assert_eq!(node_changes(&refused, &taken), [], "a refusal that is over is told by what is taken");
    }
}
