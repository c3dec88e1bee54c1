//! What administrators have done: plans, held states, volumes.

use axum::Json;
use axum::extract::State;
use tokio::sync::oneshot;
use vm_model::{AssignmentSet, EventKind, RemovedVm, Source};
use worker::node::{NodeMessage, Outcome, Preview, Verdict};
use worker::vms::KeptSelection;

use super::Answers;
use super::extract::{JsonBody, TextBody, bad_request};
use super::names::unknown;
use crate::orders::{
    ActionView, DeletionRequest, DeletionView, PlanView, RemovedList, VerdictView, VolumeList,
};
use crate::{ApiError, ErrorCode};

/// What the desired state in the body would change. Nothing is done.
#[utoipa::path(
    post, path = "/v1/plan", tag = "orders",
    request_body(content = String, content_type = "application/json", description = "A desired state, as an assignments file has it"),
    responses((status = 200, description = "What it would change; nothing is done", body = PlanView))
)]
pub(super) async fn plan(
    State(answers): State<Answers>,
    TextBody(body): TextBody,
) -> Result<Json<PlanView>, ApiError> {
    let desired = AssignmentSet::parse(&body).map_err(|problem| bad_request(&problem))?;
    let refused_entries = desired.refused.clone();
    let (answer, plan) = oneshot::channel();
    let preview = ask(&answers, NodeMessage::Plan { source: Source::File, desired, answer }, plan).await?;
    let Preview { held, actions, notes } = preview.map_err(|refusal| conflict(&refusal))?;
    let actions = actions.iter().map(|action| ActionView {
        vm: action.vm().clone(),
        action: action.to_string(),
        problem: None,
        restarts: action.restarts(),
    });
    Ok(Json(PlanView { actions: actions.collect(), held, refused_entries, notes }))
}

/// Applies the desired state that is held.
#[utoipa::path(
    post, path = "/v1/allow-removals", tag = "orders",
    responses((status = 200, description = "What was ordered", body = VerdictView))
)]
pub(super) async fn allow_removals(State(answers): State<Answers>) -> Result<Json<VerdictView>, ApiError> {
    let (answer, verdict) = oneshot::channel();
    match ask(&answers, NodeMessage::AllowRemovals { answer }, verdict).await? {
        None => Err(conflict(&"no desired state is held: there is nothing to allow")),
        Some(verdict) => shown(verdict),
    }
}

/// Follows the master that waits to be accepted.
#[utoipa::path(
    post, path = "/v1/accept-master", tag = "orders",
    responses((status = 200, description = "What was ordered", body = VerdictView))
)]
pub(super) async fn accept_master(State(answers): State<Answers>) -> Result<Json<VerdictView>, ApiError> {
    let (answer, verdict) = oneshot::channel();
    match ask(&answers, NodeMessage::AcceptMaster { answer }, verdict).await? {
        None => Err(conflict(&"no master waits to be accepted")),
        Some(verdict) => shown(verdict),
    }
}

/// A verdict as it is answered.
pub(super) fn shown(verdict: Result<Verdict, worker::node::Refusal>) -> Result<Json<VerdictView>, ApiError> {
    let Verdict { generation, outcomes, held } = verdict.map_err(|refusal| conflict(&refusal))?;
    let actions = outcomes.into_iter().map(|Outcome { vm, action, problem, restarts }| ActionView {
        vm,
        action,
        problem,
        restarts,
    });
    Ok(Json(VerdictView { generation, actions: actions.collect(), held }))
}

/// Every content of every volume.
#[utoipa::path(
    get, path = "/v1/volumes", tag = "volumes",
    responses((status = 200, description = "Ordered by VM, disk and number", body = VolumeList))
)]
pub(super) async fn volumes(State(answers): State<Answers>) -> Result<Json<VolumeList>, ApiError> {
    let mut volumes = answers.vm_manager.list_volumes_async().await?;
    volumes
        .sort_by(|one, other| (&one.vm, &one.disk, one.number).cmp(&(&other.vm, &other.disk, other.number)));
    Ok(Json(VolumeList { volumes }))
}

/// VMs that were removed and whose volumes are kept.
#[utoipa::path(
    get, path = "/v1/removed", tag = "volumes",
    responses((status = 200, description = "Ordered by name", body = RemovedList))
)]
pub(super) async fn removed(State(answers): State<Answers>) -> Json<RemovedList> {
    let without_secrets = |vm: RemovedVm| RemovedVm { assignment: vm.assignment.without_secrets(), ..vm };
    let removed = answers.vm_manager.list_removed_vms().into_iter().map(without_secrets);
    Json(RemovedList { removed: removed.collect() })
}

/// Deletes what is kept for a while, before its time. What names no VM or disk that there is, is refused.
#[utoipa::path(
    post, path = "/v1/gc", tag = "volumes", request_body = DeletionRequest,
    responses((status = 200, description = "What was deleted", body = DeletionView))
)]
pub(super) async fn gc(
    State(answers): State<Answers>,
    JsonBody(request): JsonBody<DeletionRequest>,
) -> Result<Json<DeletionView>, ApiError> {
    if let Some(error) = unknown(&answers.vm_manager, &request).await? {
        return Err(error);
    }
    let which = match request {
        DeletionRequest::All => KeptSelection::All,
        DeletionRequest::Vm { vm } => KeptSelection::Vm(vm),
        DeletionRequest::Volume { vm, disk } => KeptSelection::Volume(vm, disk),
    };
    let deleted = answers.vm_manager.delete_kept_async(which).await?;
    if !deleted.is_empty() {
        answers.vm_manager.events().record(None, EventKind::VolumesDeleted { deleted: deleted.clone() });
    }
    Ok(Json(DeletionView { deleted }))
}

/// Asks the reconciler.
pub(super) async fn ask<T>(
    answers: &Answers,
    message: NodeMessage,
    answer: oneshot::Receiver<T>,
) -> Result<T, ApiError> {
    let ending = || ApiError::new(ErrorCode::Ending, "the worker is ending");
    answers.node.send(message).await.map_err(|_| ending())?;
    answer.await.map_err(|_| ending())
}

fn conflict(problem: &impl ToString) -> ApiError {
    ApiError::new(ErrorCode::Conflict, problem.to_string())
}
