//! VMs, as they are.

use axum::Json;
use axum::extract::State;
use worker::vms::{ConsoleSnapshot, VmInfo, VmManager};

use super::Answers;
use super::extract::VmName;
use super::refusal::of_vm;
use crate::{ApiError, ProcessView, VmList, VmView};

/// List all VMs.
#[utoipa::path(
    get, path = "/v1/vms", tag = "vms",
    responses((status = 200, description = "Ordered by name", body = VmList))
)]
pub(super) async fn list(State(Answers { vm_manager, .. }): State<Answers>) -> Json<VmList> {
    let vms = vm_manager.list_vms().into_iter().map(|info| view(&vm_manager, info)).collect();
    Json(VmList { vms })
}

/// Show all that is known of a VM.
#[utoipa::path(
    get, path = "/v1/vms/{id}", tag = "vms", params(("id" = String, Path, description = "The VM's name")),
    responses((status = 200, description = "The VM", body = VmView))
)]
pub(super) async fn inspect(
    State(Answers { vm_manager, .. }): State<Answers>,
    VmName(id): VmName,
) -> Result<Json<VmView>, ApiError> {
    let info = vm_manager.get_vm(&id).map_err(|problem| of_vm(&vm_manager, &id, problem))?;
    Ok(Json(view(&vm_manager, info)))
}

/// Show what is kept of a VM's console, as its guest wrote it: its first and its latest part.
#[utoipa::path(
    get, path = "/v1/vms/{id}/console", tag = "vms",
    params(("id" = String, Path, description = "The VM's name")),
    responses((status = 200, description = "Bytes of any kind", body = Vec<u8>, content_type = "application/octet-stream"))
)]
pub(super) async fn console(
    State(Answers { vm_manager, .. }): State<Answers>,
    VmName(id): VmName,
) -> Result<Vec<u8>, ApiError> {
    let console = vm_manager.get_vm_console(&id).map_err(|problem| of_vm(&vm_manager, &id, problem))?;
    let ConsoleSnapshot { head, omitted, tail, .. } = console;
    let gap = match omitted {
        0 => Vec::new(),
        bytes => format!("\n[{bytes} bytes are not kept]\n").into_bytes(),
    };
    Ok([head, gap, tail].concat())
}

fn view(vm_manager: &VmManager, info: VmInfo) -> VmView {
    let metrics = vm_manager.get_vm_metrics(&info.id).ok();
    let directory = Some(vm_manager.config().vm_artifacts_dir.join(info.id.as_str()));
    let status = vm_manager.node_status();
    let status = status.borrow();
    let source = status.owners.get(&info.id).copied();
    let drained_by = source.filter(|kind| status.sources.get(kind).is_some_and(|source| source.drained));
    let removing = vm_manager.is_being_removed(&info.id);
    let process = vm_manager.process_of(&info.id).map(ProcessView::new);
    VmView { directory, source, drained_by, removing, process, ..VmView::new(info, metrics.as_ref()) }
}
