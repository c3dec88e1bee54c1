//! VMs that are assigned by this host's administrator, one at a time.

use axum::Json;
use axum::extract::{Path as Argument, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use vm_model::{Assignment, AssignmentSet, nearest};
use worker::node::{LocalCommand, NodeMessage};

use super::orders::{ask, bad_request, shown};
use super::{Answers, Refusal, parse};
use crate::orders::{AssignRequest, VerdictView};

/// Assigns the VM in the body.
pub(super) async fn assign(
    State(answers): State<Answers>,
    Json(AssignRequest { mut entry }): Json<AssignRequest>,
) -> Result<Json<VerdictView>, Refusal> {
    if let (None | Some(Value::Null), Some(Value::String(store_path))) =
        (entry.get("hash"), entry.get("store_path"))
    {
        let hash = answers.vm_manager.hash_store_path_async(store_path.as_ref()).await;
        let hash = hash.map_err(|problem| bad_request(&problem))?;
        entry.insert("hash".to_owned(), hash.to_string().into());
    }
    let set = AssignmentSet::parse(&json!({ "vms": [entry] }).to_string());
    let AssignmentSet { vms, refused, .. } = set.map_err(|problem| bad_request(&problem))?;
    match (vms.into_iter().next(), refused.into_iter().next()) {
        (Some(assignment), _) => command(&answers, LocalCommand::Assign(assignment)).await,
        (None, Some(entry)) => Err(bad_request(&entry.problem)),
        (None, None) => Err(bad_request(&"the body names no VM")),
    }
}

/// Takes back what was assigned by hand.
pub(super) async fn remove(
    State(answers): State<Answers>,
    Argument(id): Argument<String>,
) -> Result<Json<VerdictView>, Refusal> {
    let id = parse(&id)?;
    if answers.vm_manager.get_vm(&id).is_err() {
        return Err(no_such(
            "VM",
            id.as_str(),
            answers.vm_manager.list_vms().iter().map(|vm| vm.id.as_str()),
        ));
    }
    command(&answers, LocalCommand::Remove(id)).await
}

/// Assigns a removed VM again as it was.
pub(super) async fn undelete(
    State(answers): State<Answers>,
    Argument(id): Argument<String>,
) -> Result<Json<VerdictView>, Refusal> {
    let id = parse(&id)?;
    let removed = answers.vm_manager.list_removed_vms();
    let Some(found) = removed.iter().find(|vm| vm.assignment.id == id) else {
        let names = removed.iter().map(|vm| vm.assignment.id.as_str());
        return Err(no_such("removed VM that is kept", id.as_str(), names));
    };
    command(&answers, LocalCommand::Assign(Assignment::clone(&found.assignment))).await
}

async fn command(answers: &Answers, command: LocalCommand) -> Result<Json<VerdictView>, Refusal> {
    let (answer, verdict) = oneshot::channel();
    shown(ask(answers, NodeMessage::Command { command, answer }, verdict).await?)
}

fn no_such<'a>(what: &str, id: &str, known: impl Iterator<Item = &'a str>) -> Refusal {
    let known: Vec<&str> = known.collect();
    let error = match nearest(id, &known) {
        Some(near) => format!("there is no {what} {id}; the nearest is {near}"),
        None => format!("there is no {what} {id}"),
    };
    Refusal { status: StatusCode::NOT_FOUND, error }
}
