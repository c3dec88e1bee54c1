//! What is logged about a VM.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use tokio::task::spawn_blocking;
use utoipa::IntoParams;
use worker::vms::VmManagerError;

use super::Answers;
use super::extract::{Keys, VmName, bad_request};
use super::refusal::of_vm;
use crate::vm_log::{VmLogSource, VmLogView, read};
use crate::{ApiError, ErrorCode};

/// How a log is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    /// Who logs.
    #[param(inline)]
    source: VmLogSource,
    /// `next` of an answer before: only what came after it.
    after: Option<String>,
}

/// Show what the worker, or the process that runs a VM, has logged about it.
#[utoipa::path(
    get, path = "/v1/vms/{id}/log", tag = "vms",
    params(("id" = String, Path, description = "The VM's name"), LogQuery),
    responses((status = 200, description = "What is kept, oldest first", body = VmLogView))
)]
pub(super) async fn log(
    State(Answers { vm_manager, .. }): State<Answers>,
    VmName(id): VmName,
    Keys(LogQuery { source, after }): Keys<LogQuery>,
) -> Result<Json<VmLogView>, ApiError> {
    vm_manager.get_vm_status(&id).map_err(|problem| of_vm(&vm_manager, &id, problem))?;
    let after = after.map(|after| after.parse()).transpose();
    let after = after.map_err(|problem: &str| bad_request(&problem).about("after"))?;
    let directory = vm_manager.config().vm_artifacts_dir.join(id.as_str());
    let reading = spawn_blocking(move || read(source, &directory, after));
    let read = reading.await.map_err(VmManagerError::TaskLost)?;
    read.map(Json).map_err(|problem| {
        ApiError::new(ErrorCode::Internal, format!("the log of VM {id} cannot be read: {problem}"))
            .about(id.as_str())
    })
}
