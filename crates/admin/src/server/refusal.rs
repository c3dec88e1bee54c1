//! How what goes wrong is answered.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use vm_model::{VmId, error_chain};
use worker::vms::{CommandError, VmManager, VmManagerError};

use crate::{ApiError, ErrorCode};

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self)).into_response()
    }
}

impl From<VmManagerError> for ApiError {
    fn from(problem: VmManagerError) -> Self {
        let code = code(&problem);
        let (vm, hint) = match &problem {
            VmManagerError::Failed { id, reason } | VmManagerError::NotRestarted { id, reason } => {
                (Some(id), reason.hint.clone())
            }
            VmManagerError::NoSuchVm { id }
            | VmManagerError::Exists { id, .. }
            | VmManagerError::Damaged { id, .. }
            | VmManagerError::NeverRan { id }
            | VmManagerError::Console { id, .. }
            | VmManagerError::Follow { id, .. }
            | VmManagerError::NotUp { id, .. }
            | VmManagerError::RunsElsewhere { id, .. }
            | VmManagerError::Overtaken { id, .. }
            | VmManagerError::LastDisk { id, .. }
            | VmManagerError::Late { id, .. } => (Some(id), None),
            VmManagerError::Hypervisor(_)
            | VmManagerError::Network { .. }
            | VmManagerError::Setting { .. }
            | VmManagerError::State { .. }
            | VmManagerError::Jail(_)
            | VmManagerError::Threads(_)
            | VmManagerError::HostProcesses(_)
            | VmManagerError::Machine(_)
            | VmManagerError::OnRuntimeThread { .. }
            | VmManagerError::MachinesRemain { .. }
            | VmManagerError::NetworkRemains(_)
            | VmManagerError::Volumes(_)
            | VmManagerError::Collection(_)
            | VmManagerError::StorePath(_)
            | VmManagerError::TaskLost(_) => (None, None),
        };
        let what = vm.map(|id| id.as_str().to_owned());
        Self { code, message: error_chain(&problem), what, hint }
    }
}

fn code(problem: &VmManagerError) -> ErrorCode {
    match problem {
        VmManagerError::NoSuchVm { .. } => ErrorCode::NoSuchVm,
        VmManagerError::NeverRan { .. } => ErrorCode::NeverRan,
        VmManagerError::Damaged { .. } => ErrorCode::Damaged,
        VmManagerError::Exists { .. }
        | VmManagerError::NotRestarted { .. }
        | VmManagerError::RunsElsewhere { .. }
        | VmManagerError::LastDisk { .. }
        | VmManagerError::Overtaken { .. } => ErrorCode::Conflict,
        VmManagerError::NotUp { .. } => ErrorCode::WrongPhase,
        VmManagerError::Failed { .. } => ErrorCode::VmFailed,
        VmManagerError::Late { .. } | VmManagerError::Machine(CommandError::Deadline { .. }) => {
            ErrorCode::Late
        }
        VmManagerError::Machine(CommandError::Denied { .. } | CommandError::Ended { .. }) => {
            ErrorCode::WrongPhase
        }
        VmManagerError::StorePath(_) => ErrorCode::BadRequest,
        VmManagerError::TaskLost(_) => ErrorCode::Ending,
        VmManagerError::Machine(_)
        | VmManagerError::Hypervisor(_)
        | VmManagerError::Network { .. }
        | VmManagerError::Setting { .. }
        | VmManagerError::State { .. }
        | VmManagerError::Jail(_)
        | VmManagerError::Threads(_)
        | VmManagerError::Console { .. }
        | VmManagerError::Follow { .. }
        | VmManagerError::HostProcesses(_)
        | VmManagerError::OnRuntimeThread { .. }
        | VmManagerError::MachinesRemain { .. }
        | VmManagerError::NetworkRemains(_)
        | VmManagerError::Volumes(_)
        | VmManagerError::Collection(_) => ErrorCode::Internal,
    }
}

/// The refusal for `problem` with VM `id`: says what is damaged of it, or which VM was probably meant.
pub(super) fn of_vm(vm_manager: &VmManager, id: &VmId, problem: VmManagerError) -> ApiError {
    match problem {
        VmManagerError::NoSuchVm { .. } => match vm_manager.list_damaged().remove(id) {
            Some(problem) => VmManagerError::Damaged { id: id.clone(), problem }.into(),
            None => no_such_vm(vm_manager, id),
        },
        problem => problem.into(),
    }
}

/// There is no VM `id`; the nearest name is the hint.
pub(super) fn no_such_vm(vm_manager: &VmManager, id: &VmId) -> ApiError {
    // It looks after none any more, which is not to say that there is none.
    if vm_manager.is_ending() {
        return ApiError::new(ErrorCode::Ending, "the worker is ending").about(id.as_str());
    }
    if vm_manager.list_removed_vms().iter().any(|removed| removed.assignment.id == *id) {
        return crate::removed_vm(id.as_str());
    }
    let vms = vm_manager.list_vms();
    let names: Vec<&str> = vms.iter().map(|vm| vm.id.as_str()).collect();
    crate::no_such_vm(id.as_str(), &names)
}
