//! How one is told that there is no VM of a name: by the worker, and by its command line, which has the names already.

use vm_model::nearest;

use crate::{ApiError, ErrorCode};

/// There is no VM `name`. The nearest of the `known` names is the hint.
pub fn no_such_vm(name: &str, known: &[&str]) -> ApiError {
    let refusal = ApiError::new(ErrorCode::NoSuchVm, format!("there is no VM {name}")).about(name);
    match known {
        [] => refusal.hint(Some("this host has no VMs".to_owned())),
        known => refusal.hint(nearest_of(name, known)),
    }
}

/// VM `name` was removed, and is kept for a while.
pub fn removed_vm(name: &str) -> ApiError {
    ApiError::new(ErrorCode::NoSuchVm, format!("VM {name} was removed"))
        .about(name)
        .hint(Some(format!(
            "`procurator-worker undelete {name}` brings it back, with its volumes, its console and its logs, while they are kept; \
             `procurator-worker events {name}` shows what happened to it"
        )))
}

/// VM `name` was removed, and nothing is kept of it but events.
pub fn gone_vm(name: &str) -> ApiError {
    let hint = format!(
        "`procurator-worker events {name}` shows what happened to it, and `procurator-worker undelete {name}` assigns it again as \
         it was, as long as the worker knows that"
    );
    ApiError::new(ErrorCode::NoSuchVm, format!("VM {name} was removed, and nothing is kept of it"))
        .about(name)
        .hint(Some(hint))
}

/// Which of the `known` names was probably meant by `name`.
pub(crate) fn nearest_of(name: &str, known: &[&str]) -> Option<String> {
    nearest(name, known).map(|near| format!("the nearest is {near}"))
}
