//! VMs that are assigned by this host's administrator, one at a time.

use std::path::Path;

use axum::Extension;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;
use utoipa::IntoParams;
use vm_model::{AssignmentSet, SourceKind, VmId, VmStatus};
use worker::node::{CommandMode, LocalCommand, NodeMessage, Refusal, Verdict};
use worker::vms::VmInfo;

use super::Answers;
use super::audit::{Asked, AuditedVm};
use super::extract::{JsonBody, Keys, VmName, bad_request};
use super::orders::{ask, shown};
use super::refusal::no_such_vm;
use crate::orders::{AssignRequest, ChangeRequest, VerdictView};
use crate::unknown_name::nearest_of;
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
    hash_store_path(&answers, &mut entry).await?;
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

/// Puts the hash of the store path into what is said of a VM, where it names a store path and no hash.
async fn hash_store_path(answers: &Answers, said: &mut Map<String, Value>) -> Result<(), ApiError> {
    if let (None | Some(Value::Null), Some(Value::String(store_path))) =
        (said.get("hash"), said.get("store_path"))
    {
        let hash = answers.vm_manager.hash_store_path_async(store_path.as_ref()).await;
        let is_missing = || !Path::new(store_path).exists();
        let hash = hash.map_err(|problem| {
            let fetches = answers.vm_manager.config().fetch.is_some() && is_missing();
            bad_request(&problem).hint(fetches.then(|| how_to_fetch(store_path)))
        })?;
        said.insert("hash".to_owned(), hash.to_string().into());
    }
    Ok(())
}

/// How a store path is named that is not here yet: its hash cannot be found out.
fn how_to_fetch(store_path: &str) -> String {
    format!(
        "with its NAR hash (`--hash`, as `nix path-info --json` prints it) it is fetched when the VM is started; `procurator-worker \
         fetch {store_path}` fetches it now"
    )
}

/// How a change is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeQuery {
    /// Whether only what would follow is answered.
    #[serde(default)]
    dry_run: bool,
}

/// Changes what was assigned by hand.
#[utoipa::path(
    patch, path = "/v1/vms/{id}", tag = "vms",
    params(("id" = String, Path, description = "The VM's name"), ChangeQuery),
    request_body = ChangeRequest,
    responses((status = 200, description = "What was ordered, or would be", body = VerdictView))
)]
pub(super) async fn change(
    State(answers): State<Answers>,
    VmName(vm): VmName,
    Keys(ChangeQuery { dry_run }): Keys<ChangeQuery>,
    JsonBody(ChangeRequest { changes }): JsonBody<ChangeRequest>,
) -> Response {
    if dry_run {
        (Extension(Asked), amend(&answers, vm, changes, CommandMode::Show).await).into_response()
    } else {
        amend(&answers, vm, changes, CommandMode::CarryOut).await.into_response()
    }
}

async fn amend(
    answers: &Answers,
    vm: VmId,
    mut changes: Map<String, Value>,
    mode: CommandMode,
) -> Result<Json<VerdictView>, ApiError> {
    if answers.vm_manager.get_vm(&vm).is_err() {
        return Err(no_such_vm(&answers.vm_manager, &vm));
    }
    hash_store_path(answers, &mut changes).await?;
    let verdict = told(answers, LocalCommand::Amend { vm, changes }, mode).await?;
    match &verdict {
        Err(Refusal::NotLocal { owner, .. }) => {
            let hint = Some(how_to_change(answers, *owner));
            shown(verdict).map_err(|refusal| refusal.hint(hint))
        }
        Err(refusal @ Refusal::Unusable { id, .. }) => Err(bad_request(refusal).about(id.as_str())),
        Err(
            Refusal::Older { .. }
            | Refusal::Contradiction { .. }
            | Refusal::NotKept { .. }
            | Refusal::ListedTwice { .. }
            | Refusal::TooMany { .. }
            | Refusal::NotAssigned { .. },
        )
        | Ok(_) => shown(verdict),
    }
}

/// Where a VM of `owner` is changed.
fn how_to_change(answers: &Answers, owner: SourceKind) -> String {
    let status = (answers.status)();
    match owner {
        SourceKind::File => {
            let file =
                status.assignments.map_or_else(String::new, |file| format!(" of {}", file.path.display()));
            format!("edit its entry{file}: `overrides` and `procurator` there say what this would")
        }
        SourceKind::Master => {
            let master = status.master.map_or_else(String::new, |master| format!(" {}", master.address));
            format!("the master{master} says what it is")
        }
        SourceKind::Local => "`procurator-worker set` changes it".to_owned(),
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
    // It is still being stopped: assigned again, it goes on with what it has.
    if let Ok(leaving) = answers.vm_manager.get_vm(&id)
        && answers.vm_manager.is_being_removed(&id)
    {
        return command(&answers, LocalCommand::Assign(leaving.assignment)).await;
    }
    let Some(found) = answers.vm_manager.recall_removed_vm(&id) else {
        if answers.vm_manager.is_being_deleted(&id) {
            let problem = format!("VM {id} was removed and is being deleted: it does not come back");
            return Err(ApiError::new(ErrorCode::NothingKept, problem).about(id.as_str()));
        }
        let removed = answers.vm_manager.list_removed_vms();
        return Err(not_kept(&id, removed.iter().map(|vm| vm.assignment.id.as_str())));
    };
    command(&answers, LocalCommand::Assign(found.assignment)).await
}

/// Has the reconciler change one VM by hand.
pub(super) async fn command(answers: &Answers, command: LocalCommand) -> Result<Json<VerdictView>, ApiError> {
    shown(told(answers, command, CommandMode::CarryOut).await?)
}

/// What becomes of `command`.
async fn told(
    answers: &Answers,
    command: LocalCommand,
    mode: CommandMode,
) -> Result<Result<Verdict, Refusal>, ApiError> {
    let (answer, verdict) = oneshot::channel();
    ask(answers, NodeMessage::Command { command, mode, answer }, verdict).await
}

fn not_kept<'a>(id: &VmId, known: impl Iterator<Item = &'a str>) -> ApiError {
    let known: Vec<&str> = known.collect();
    ApiError::new(ErrorCode::NothingKept, format!("no removed VM {id} is kept"))
        .about(id.as_str())
        .hint(nearest_of(id.as_str(), &known))
}
