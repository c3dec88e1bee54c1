//! VMs that are assigned by this host's administrator, one at a time.

use axum::Extension;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use vm_model::{Assignment, AssignmentSet, VmId, VmStatus};
use worker::node::{LocalCommand, NodeMessage};
use worker::vms::VmInfo;

use super::Answers;
use super::audit::AuditedVm;
use super::extract::{JsonBody, VmName, bad_request};
use super::orders::{ask, shown};
use super::refusal::{nearest_of, no_such_vm};
use crate::orders::{AssignRequest, VerdictView};
use crate::{ApiError, ErrorCode};

/// Assigns the VM in the body.
#[utoipa::path(
    post, path = "/v1/vms", tag = "vms", request_body = AssignRequest,
    responses((status = 200, description = "What was ordered", body = VerdictView))
)]
pub(super) async fn assign(
    State(answers): State<Answers>,
    JsonBody(AssignRequest { mut entry }): JsonBody<AssignRequest>,
) -> Result<Response, ApiError> {
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
        (Some(assignment), _) => {
            let named = Extension(AuditedVm(assignment.id.clone()));
            let verdict = command(&answers, LocalCommand::Assign(assignment)).await;
            Ok((named, verdict).into_response())
        }
        (None, Some(entry)) => Err(bad_request(&entry.problem)),
        (None, None) => Err(bad_request(&"the body names no VM")),
    }
}

/// Takes back what was assigned by hand.
#[utoipa::path(
    delete, path = "/v1/vms/{id}", tag = "vms", params(("id" = String, Path, description = "The VM's name")),
    responses((status = 200, description = "What was ordered", body = VerdictView))
)]
pub(super) async fn remove(
    State(answers): State<Answers>,
    VmName(id): VmName,
) -> Result<Json<VerdictView>, ApiError> {
    if answers.vm_manager.get_vm(&id).is_err() {
        return Err(no_such_vm(&answers.vm_manager, &id));
    }
    let removed = command(&answers, LocalCommand::Remove(id.clone())).await;
    removed.map_err(|refusal| match answers.vm_manager.get_vm(&id) {
        Ok(VmInfo { status: VmStatus::Stopping, last_failure: Some(reason), .. }) => {
            refusal.hint(Some(format!("it is being stopped: {}", reason.message)))
        }
        Ok(_) | Err(_) => refusal,
    })
}

/// Assigns a removed VM again as it was.
#[utoipa::path(
    post, path = "/v1/removed/{id}/undelete", tag = "volumes",
    params(("id" = String, Path, description = "The VM's name")),
    responses((status = 200, description = "What was ordered", body = VerdictView))
)]
pub(super) async fn undelete(
    State(answers): State<Answers>,
    VmName(id): VmName,
) -> Result<Json<VerdictView>, ApiError> {
    let removed = answers.vm_manager.list_removed_vms();
    let Some(found) = removed.iter().find(|vm| vm.assignment.id == id) else {
        return Err(not_kept(&id, removed.iter().map(|vm| vm.assignment.id.as_str())));
    };
    command(&answers, LocalCommand::Assign(Assignment::clone(&found.assignment))).await
}

/// Has the reconciler change one VM by hand.
pub(super) async fn command(answers: &Answers, command: LocalCommand) -> Result<Json<VerdictView>, ApiError> {
    let (answer, verdict) = oneshot::channel();
    shown(ask(answers, NodeMessage::Command { command, answer }, verdict).await?)
}

fn not_kept<'a>(id: &VmId, known: impl Iterator<Item = &'a str>) -> ApiError {
    let known: Vec<&str> = known.collect();
    ApiError::new(ErrorCode::NothingKept, format!("there is no removed VM that is kept {id}"))
        .about(id.as_str())
        .hint(nearest_of(id.as_str(), &known))
}
