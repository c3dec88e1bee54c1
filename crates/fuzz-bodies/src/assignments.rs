//! A document of assignments, as a file, a master or a request has it.

use std::collections::BTreeSet;

use vm_model::{AssignmentSet, is_possible_memory};

/// Reads a document. What is taken is written in a form that is read as the same; what is refused is refused at a place that
/// the document has.
pub(crate) fn document(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match AssignmentSet::parse(text) {
        Ok(set) => taken(set),
        Err(problem) => {
            let lines = text.split('\n').count();
            assert!((1..=lines).contains(&problem.line), "line {} of {lines}", problem.line);
            let column = problem.column;
            assert!((1..=text.chars().count() + 1).contains(&column), "column {column}");
            assert!(!problem.met.is_empty() && !problem.accepted.is_empty(), "{problem:?}");
        }
    }
}

fn taken(mut set: AssignmentSet) {
    let mut ids = BTreeSet::new();
    let entries = set.vms.iter().map(|vm| &vm.id).chain(set.refused.iter().map(|entry| &entry.id));
    entries.for_each(|id| assert!(ids.insert(id.clone()), "{id} is there twice"));
    for vm in &set.vms {
        assert!(vm.overrides.memory_bytes.is_none_or(is_possible_memory), "{:?}", vm.overrides);
        assert!(vm.store_path.is_absolute(), "{:?}", vm.store_path);
    }
    set.refused.clear();
    let written = serde_json::to_string(&set).expect("assignments are JSON");
    let mut again = AssignmentSet::parse(&written).expect("its own words");
    for (vm, same) in set.vms.iter_mut().zip(&mut again.vms) {
        // Passed on as it is, and fractions may differ in their last bit.
        assert!(vm.procurator.keys().eq(same.procurator.keys()), "{:?}", vm.procurator);
        vm.procurator.clear();
        same.procurator.clear();
    }
    assert_eq!(again, set);
}
