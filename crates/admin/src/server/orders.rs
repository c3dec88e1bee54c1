//! What administrators have done: plans, held states, volumes.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use tokio::sync::oneshot;
use utoipa::IntoParams;
use vm_model::{AssignmentSet, EventKind, HoldReason, Lineage, RefusedEntry, RemovedVm, Source, SourceKind};
use worker::node::{HeldChoice, NodeMessage, Outcome, Preview, Verdict};
use worker::vms::{Cleared, KeptSelection};

use super::Answers;
use super::audit::Asked;
use super::extract::{JsonBody, Keys, TextBody, bad_request};
use super::images::CollectionQuery;
use super::names::unknown;
use crate::orders::{
    ActionView, DeletionRequest, DeletionView, PlanView, RemovedList, VerdictView, VolumeList,
};
use crate::{ApiError, ErrorCode};

/// Whose desired state is planned for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanQuery {
    /// Who would say it: `file` (default) or `master`.
    #[serde(default)]
    source: Option<SourceKind>,
}

/// What the desired state in the body would change. Nothing is done.
#[utoipa::path(
    post, path = "/v1/plan", tag = "orders", params(PlanQuery),
    request_body(content = String, content_type = "application/json", description = "A desired state, as an assignments file has it"),
    responses((status = 200, description = "What it would change; nothing is done", body = PlanView))
)]
pub(super) async fn plan(
    State(answers): State<Answers>,
    Keys(PlanQuery { source }): Keys<PlanQuery>,
    TextBody(body): TextBody,
) -> (Extension<Asked>, Result<Json<PlanView>, ApiError>) {
    (Extension(Asked), preview(&answers, source.unwrap_or(SourceKind::File), &body).await)
}

async fn preview(answers: &Answers, source: SourceKind, said: &str) -> Result<Json<PlanView>, ApiError> {
    let desired = AssignmentSet::parse(said).map_err(|problem| bad_request(&problem))?;
    let refused_entries = desired.refused.clone();
    let source = speaker(answers, source)?;
    let kind = source.kind();
    let (answer, plan) = oneshot::channel();
    let preview = ask(answers, NodeMessage::Plan { source, desired, answer }, plan).await?;
    Ok(Json(planned(kind, preview.map_err(|refusal| conflict(&refusal))?, refused_entries)))
}

/// Who says what a plan is asked for. A master speaks in the counting in force.
fn speaker(answers: &Answers, kind: SourceKind) -> Result<Source, ApiError> {
    match kind {
        SourceKind::File => Ok(Source::File),
        SourceKind::Master => {
            let status = answers.vm_manager.node_status().borrow().clone();
            let known = status.sources.get(&kind).and_then(|master| master.lineage.clone());
            let lineage = known.map_or_else(|| Lineage::new("master", "plan"), Ok);
            lineage.map(Source::Master).map_err(|problem| bad_request(&problem))
        }
        SourceKind::Local => {
            Err(bad_request(&"commands change one VM each: `set --dry-run` shows what one does"))
        }
    }
}

fn planned(source: SourceKind, preview: Preview, refused_entries: Vec<RefusedEntry>) -> PlanView {
    let Preview { held, actions, notes } = preview;
    let actions = actions.iter().map(|action| ActionView {
        vm: action.vm().clone(),
        action: action.to_string(),
        problem: None,
        restarts: action.restarts(),
    });
    PlanView { source: Some(source), actions: actions.collect(), held, refused_entries, notes }
}

/// Which held state is meant.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct HeldQuery {
    /// Whose: `file` or `master`. Has to be said where those of several wait for the same word.
    #[serde(default)]
    source: Option<SourceKind>,
}

/// Applies a desired state that is held for what it removes.
#[utoipa::path(
    post, path = "/v1/allow-removals", tag = "orders", params(HeldQuery),
    responses((status = 200, description = "What was ordered", body = VerdictView))
)]
pub(super) async fn allow_removals(
    State(answers): State<Answers>,
    Keys(HeldQuery { source }): Keys<HeldQuery>,
) -> Result<Json<VerdictView>, ApiError> {
    let_go(&answers, HeldChoice { word: HoldReason::Removals, source }).await
}

/// Follows the master that waits to be accepted.
#[utoipa::path(
    post, path = "/v1/accept-master", tag = "orders",
    responses((status = 200, description = "What was ordered", body = VerdictView))
)]
pub(super) async fn accept_master(State(answers): State<Answers>) -> Result<Json<VerdictView>, ApiError> {
    let_go(&answers, HeldChoice { word: HoldReason::Lineage, source: None }).await
}

async fn let_go(answers: &Answers, choice: HeldChoice) -> Result<Json<VerdictView>, ApiError> {
    let (answer, verdict) = oneshot::channel();
    let released = ask(answers, NodeMessage::LetGo { choice, answer }, verdict).await?;
    let (source, verdict) = released.map_err(|refusal| conflict(&refusal))?;
    let Json(view) = shown(Ok(verdict))?;
    Ok(Json(VerdictView { source: Some(source), ..view }))
}

/// What would change if the state that waits for `allow-removals` were applied. Nothing is done.
#[utoipa::path(
    get, path = "/v1/allow-removals", tag = "orders", params(HeldQuery),
    responses((status = 200, description = "What it would change; nothing is done", body = PlanView))
)]
pub(super) async fn show_removals(
    State(answers): State<Answers>,
    Keys(HeldQuery { source }): Keys<HeldQuery>,
) -> Result<Json<PlanView>, ApiError> {
    show_held(&answers, HeldChoice { word: HoldReason::Removals, source }).await
}

/// What would change if the master that waits were accepted. Nothing is done.
#[utoipa::path(
    get, path = "/v1/accept-master", tag = "orders",
    responses((status = 200, description = "What it would change; nothing is done", body = PlanView))
)]
pub(super) async fn show_master(State(answers): State<Answers>) -> Result<Json<PlanView>, ApiError> {
    show_held(&answers, HeldChoice { word: HoldReason::Lineage, source: None }).await
}

async fn show_held(answers: &Answers, choice: HeldChoice) -> Result<Json<PlanView>, ApiError> {
    let (answer, preview) = oneshot::channel();
    let shown = ask(answers, NodeMessage::ShowHeld { choice, answer }, preview).await?;
    let (source, preview) = shown.map_err(|refusal| conflict(&refusal))?;
    Ok(Json(planned(source, preview, Vec::new())))
}

/// A verdict as it is answered.
pub(super) fn shown(verdict: Result<Verdict, worker::node::Refusal>) -> Result<Json<VerdictView>, ApiError> {
    let Verdict { generation, outcomes, held, notes } = verdict.map_err(|refusal| conflict(&refusal))?;
    let actions = outcomes.into_iter().map(|Outcome { vm, action, problem, restarts }| ActionView {
        vm,
        action,
        problem,
        restarts,
    });
    Ok(Json(VerdictView { generation, actions: actions.collect(), held, source: None, notes }))
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
    post, path = "/v1/gc", tag = "volumes", params(CollectionQuery), request_body = DeletionRequest,
    responses((status = 200, description = "What was deleted, or would be", body = DeletionView))
)]
pub(super) async fn gc(
    State(answers): State<Answers>,
    Keys(CollectionQuery { dry_run }): Keys<CollectionQuery>,
    JsonBody(request): JsonBody<DeletionRequest>,
) -> Result<(Option<Extension<Asked>>, Json<DeletionView>), ApiError> {
    if let Some(error) = unknown(&answers.vm_manager, &request).await? {
        return Err(error);
    }
    let which = match request {
        DeletionRequest::All => KeptSelection::All,
        DeletionRequest::Vm { vm } => KeptSelection::Vm(vm),
        DeletionRequest::Volume { vm, disk } => KeptSelection::Volume(vm, disk),
    };
    if dry_run {
        let Cleared { deleted, set_aside } = answers.vm_manager.show_kept_async(which).await?;
        return Ok((Some(Extension(Asked)), Json(DeletionView { deleted, set_aside })));
    }
    let Cleared { deleted, set_aside } = answers.vm_manager.delete_kept_async(which).await?;
    if !deleted.is_empty() {
        answers.vm_manager.events().record(None, EventKind::VolumesDeleted { deleted: deleted.clone() });
    }
    Ok((None, Json(DeletionView { deleted, set_aside })))
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
