//! VMs that are told to start, stop, pause, go on, or begin anew.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use tokio::time::timeout;
use tracing::{Instrument, info, warn};
use vm_model::{Caller, DesiredState, StopMethod, VmId, VmStatus, VolumeInfo, VolumePolicy};
use worker::node::LocalCommand;
use worker::vms::{RestartMode, VmManagerError};

use super::Answers;
use super::assigning::command;
use super::extract::{JsonBody, bad_request};
use super::refusal::of_vm;
use crate::access::{CallerFields, Peer};
use crate::{ApiError, ErrorCode, OperationState, OperationView, PowerRequest, PowerVerb};

/// Longest that an operation may be given.
const LONGEST: u64 = 86_400;
/// How long one is waited for that was given no time; the worker's own limits end it before.
const PATIENCE: Duration = Duration::from_secs(LONGEST);

/// Have a VM started, stopped, restarted, paused, resumed, reset or interrupted.
///
/// The answer comes when that is done, or, with
/// `wait` false, at once; then the operation is followed at the place that the header `location` names.
#[utoipa::path(
    post, path = "/v1/vms/{id}/{verb}", tag = "vms",
    params(
        ("id" = String, Path, description = "The VM's name"),
        ("verb" = PowerVerb, Path, description = "What it is to be told"),
    ),
    request_body = PowerRequest,
    responses(
        (status = 200, description = "Done", body = OperationView),
        (status = 202, description = "Begun", body = OperationView),
    )
)]
pub(super) async fn power(
    State(answers): State<Answers>,
    Extension(peer): Extension<Peer>,
    Path((id, verb)): Path<(String, String)>,
    JsonBody(request): JsonBody<PowerRequest>,
) -> Result<Response, ApiError> {
    let vm = VmId::parse(&id).map_err(|problem| bad_request(&problem).about(id))?;
    let verb = named(&verb)?;
    let longest = match request.timeout_seconds {
        None => PATIENCE,
        Some(seconds @ 1..=LONGEST) => Duration::from_secs(seconds),
        Some(seconds) => {
            let problem = format!("invalid timeout_seconds = {seconds}: 1 to {LONGEST} is accepted");
            return Err(bad_request(&problem).about("timeout_seconds"));
        }
    };
    let vm_manager = &answers.vm_manager;
    vm_manager.get_vm_status(&vm).map_err(|problem| of_vm(vm_manager, &vm, problem))?;
    let begun = answers.operations.begin(verb, vm, peer.caller)?;
    tokio::spawn(carry_out(answers.clone(), begun.clone(), request, longest).in_current_span());
    if !request.wait {
        let place = format!("/v1/operations/{}", begun.id);
        return Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(begun)).into_response());
    }
    let ended = answers.operations.wait(begun.id, longest + Duration::from_secs(1)).await?;
    match (ended.state, ended.error.clone()) {
        (OperationState::Failed, Some(error)) => Err(error),
        (OperationState::Running | OperationState::Done | OperationState::Failed, _) => {
            Ok(Json(ended).into_response())
        }
    }
}

fn named(verb: &str) -> Result<PowerVerb, ApiError> {
    PowerVerb::ALL.into_iter().find(|known| known.name() == verb).ok_or_else(|| {
        let names = PowerVerb::ALL.map(PowerVerb::name).join(", ");
        ApiError::new(ErrorCode::NoSuchPath, format!("a VM cannot be told {verb:?}"))
            .about(verb)
            .hint(Some(format!("it can be told {names}")))
    })
}

/// Carries the operation `begun` out and notes what became of it, also where nobody waits for that.
async fn carry_out(answers: Answers, begun: OperationView, request: PowerRequest, longest: Duration) {
    let OperationView { id, what, vm, by, .. } = begun;
    let told = tell(&answers, what, &vm, request.force, by);
    let result = match timeout(longest, told).await {
        Ok(result) => result,
        Err(_late) => {
            let message = format!("{what} of VM {vm} was not done within {}s; it goes on", longest.as_secs());
            Err(ApiError::new(ErrorCode::Late, message).about(vm.as_str()))
        }
    };
    let CallerFields { uid, gid, pid, address } = by.into();
    match &result {
        Ok(outcome) => {
            info!(target: "audit", uid, gid, pid, address, verb = %what, vm_id = %vm, operation = id, outcome, "audit: done");
        }
        Err(error) => {
            warn!(target: "audit", uid, gid, pid, address, verb = %what, vm_id = %vm, operation = id, %error, "audit: failed");
        }
    }
    answers.operations.end(id, result);
}

/// Tells `vm` to do `what`, and returns when that is done; with more to say of how, where there is more. This is the one
/// place that decides what an operator's order is to the VMs of this host.
///
/// Where a VM should be is ordered of the reconciler, which would otherwise undo it; the manager then waits for it.
async fn tell(
    answers: &Answers,
    what: PowerVerb,
    vm: &VmId,
    force: bool,
    by: Caller,
) -> Result<Option<String>, ApiError> {
    let vm_manager = &answers.vm_manager;
    let before = vm_manager.get_vm(vm).map_err(|problem| of_vm(vm_manager, vm, problem))?;
    let what = match (what, &before.status) {
        // There is no machine to be replaced.
        (PowerVerb::Restart, VmStatus::Stopped | VmStatus::Failed(_) | VmStatus::Restarting) => {
            PowerVerb::Start
        }
        (what, _) => what,
    };
    may_be_told(what, vm, &before.status)?;
    if vm_manager.is_being_removed(vm) {
        return tell_leaving(answers, what, vm, force).await;
    }
    if let Some(desired) = ordered_state(what) {
        order(answers, LocalCommand::Order { vm: vm.clone(), desired, by: CallerFields::from(by).uid })
            .await?;
    }
    if what == PowerVerb::Reset {
        may_be_reset(answers, vm).await?;
    }
    let mode = if force { RestartMode::Hard } else { RestartMode::Graceful };
    let done = match what {
        // The order does it: to tell the manager so again would do it twice, or undo what was ordered meanwhile.
        PowerVerb::Start => vm_manager.await_start_async(vm, &before).await.map(|()| None),
        PowerVerb::Stop if force => vm_manager.force_stop_vm_async(vm).await.map(|how| Some(ended_by(how))),
        PowerVerb::Stop => vm_manager.await_stop_async(vm, before).await.map(|how| Some(ended_by(how))),
        PowerVerb::Restart => vm_manager.restart_vm_async(vm, mode).await.map(|()| None),
        PowerVerb::Pause => vm_manager.await_parked_async(vm, DesiredState::Paused).await.map(|()| None),
        PowerVerb::Resume => vm_manager.await_parked_async(vm, DesiredState::Running).await.map(|()| None),
        PowerVerb::Reset => vm_manager.reset_vm_async(vm).await.map(|()| None),
        PowerVerb::Nmi => vm_manager.inject_nmi_async(vm).await.map(|()| None),
    };
    done.map_err(|problem| of_vm(vm_manager, vm, problem))
}

/// Refuses to reset `vm` in place where disks of it begin anew with each boot: only another machine can have them so.
async fn may_be_reset(answers: &Answers, vm: &VmId) -> Result<(), ApiError> {
    // Where volumes cannot be listed, the machine decides.
    let volumes = answers.vm_manager.list_volumes_async().await.unwrap_or_default();
    let is_ephemeral =
        |volume: &VolumeInfo| volume.vm == *vm && volume.policy == Some(VolumePolicy::Ephemeral);
    let disks: Vec<String> = volumes.into_iter().filter(is_ephemeral).map(|volume| volume.disk).collect();
    if disks.is_empty() {
        return Ok(());
    }
    let disks = disks.join(", ");
    let problem =
        format!("VM {vm} cannot be reset in place: its ephemeral disks begin anew with each boot ({disks})");
    let hint = format!(
        "`procurator-worker restart {vm}` boots it anew; what was written to these disks is gone then"
    );
    Err(ApiError::new(ErrorCode::Conflict, problem).about(vm.as_str()).hint(Some(hint)))
}

/// Tells a VM that is being removed: its guest may be killed, and that is all.
async fn tell_leaving(
    answers: &Answers,
    what: PowerVerb,
    vm: &VmId,
    force: bool,
) -> Result<Option<String>, ApiError> {
    let vm_manager = &answers.vm_manager;
    if what == PowerVerb::Stop && force {
        return match vm_manager.force_stop_vm_async(vm).await {
            Ok(how) => Ok(Some(ended_by(how))),
            // It was in its way out, and is gone.
            Err(VmManagerError::NoSuchVm { .. }) => Ok(Some(ended_by(StopMethod::Kill))),
            Err(problem) => Err(of_vm(vm_manager, vm, problem)),
        };
    }
    let refusal =
        ApiError::new(ErrorCode::WrongPhase, format!("VM {vm} is being removed: it cannot be told {what}"));
    let hint = format!(
        "`procurator-worker undelete {vm}` keeps it, `procurator-worker stop --force {vm}` ends its guest at once"
    );
    Err(refusal.about(vm.as_str()).hint(Some(hint)))
}

/// Has the reconciler take an operator's order.
async fn order(answers: &Answers, order: LocalCommand) -> Result<(), ApiError> {
    let Json(verdict) = command(answers, order).await?;
    match verdict.actions.into_iter().find_map(|action| action.problem) {
        None => Ok(()),
        Some(problem) => Err(ApiError::new(ErrorCode::Conflict, problem)),
    }
}

/// Where a VM should be from then on that is told `what`; nothing where that stays as it is.
fn ordered_state(what: PowerVerb) -> Option<DesiredState> {
    match what {
        PowerVerb::Start | PowerVerb::Resume => Some(DesiredState::Running),
        PowerVerb::Stop => Some(DesiredState::Stopped),
        PowerVerb::Pause => Some(DesiredState::Paused),
        PowerVerb::Restart | PowerVerb::Reset | PowerVerb::Nmi => None,
    }
}

/// Refuses what makes no sense of a VM in its present phase, before anything is ordered of it.
fn may_be_told(what: PowerVerb, vm: &VmId, status: &VmStatus) -> Result<(), ApiError> {
    let may = match (what, status) {
        (PowerVerb::Start | PowerVerb::Stop | PowerVerb::Restart, _) => true,
        (PowerVerb::Pause | PowerVerb::Nmi | PowerVerb::Reset, VmStatus::Running | VmStatus::Paused) => true,
        (PowerVerb::Pause, VmStatus::Creating | VmStatus::Booting) => true,
        (PowerVerb::Nmi | PowerVerb::Reset, VmStatus::Booting) => true,
        (PowerVerb::Resume, VmStatus::Running | VmStatus::Paused) => true,
        (PowerVerb::Pause | PowerVerb::Resume | PowerVerb::Nmi | PowerVerb::Reset, _) => false,
    };
    if may {
        return Ok(());
    }
    let phase = status.phase_name();
    let hint = "`start` runs it".to_owned();
    let refusal =
        ApiError::new(ErrorCode::WrongPhase, format!("VM {vm} is {phase}: it cannot be told {what}"));
    Err(refusal.about(vm.as_str()).hint(Some(hint)))
}

fn ended_by(method: StopMethod) -> String {
    match method {
        StopMethod::AlreadyStopped => "already stopped",
        StopMethod::PowerButton => "by its power button",
        StopMethod::Kill => "killed",
    }
    .to_owned()
}
