//! What a VM's vCPUs are about, for a guest that does not answer any more.

use axum::Json;
use axum::extract::State;
use vm_model::VmStatus;

use super::Answers;
use super::extract::VmName;
use super::refusal::of_vm;
use crate::{ApiError, DumpView};

/// Look where the vCPUs of a VM are. The machine goes on. Not on the socket for reading: registers are a guest's own.
#[utoipa::path(
    post, path = "/v1/vms/{id}/dump", tag = "vms", params(("id" = String, Path, description = "The VM's name")),
    responses((status = 200, description = "Every vCPU, by index", body = DumpView))
)]
pub(super) async fn dump(
    State(Answers { vm_manager, .. }): State<Answers>,
    VmName(id): VmName,
) -> Result<Json<DumpView>, ApiError> {
    let vcpus = vm_manager.dump_vcpus_async(&id).await.map_err(|problem| of_vm(&vm_manager, &id, problem))?;
    let paused = vm_manager.get_vm(&id).is_ok_and(|vm| vm.status == VmStatus::Paused);
    Ok(Json(DumpView { paused, vcpus }))
}
