//! VMs that are told to start, stop, pause, go on, or begin anew.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use tokio::time::timeout;
use tracing::{info, warn};
use vm_model::{StopMethod, VmId};
use worker::vms::VmManager;

use super::Answers;
use super::extract::{JsonBody, bad_request};
use super::refusal::of_vm;
use crate::access::Peer;
use crate::{ApiError, ErrorCode, OperationState, OperationView, PowerRequest, PowerVerb};

/// Longest that an operation may be given.
const LONGEST: u64 = 86_400;
/// How long one is waited for that was given no time; the worker's own limits end it before.
const PATIENCE: Duration = Duration::from_secs(LONGEST);

/// Have a VM started, stopped, restarted, paused, resumed, reset or interrupted. The answer comes when that is done, or, with
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
    tokio::spawn(carry_out(answers.clone(), begun.clone(), request, longest));
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
    let told = tell(&answers.vm_manager, what, &vm, request.force);
    let result = match timeout(longest, told).await {
        Ok(result) => result,
        Err(_late) => {
            let message = format!("{what} of VM {vm} was not done within {}s; it goes on", longest.as_secs());
            Err(ApiError::new(ErrorCode::Late, message).about(vm.as_str()))
        }
    };
    let (uid, gid, pid) = (by.uid, by.gid, by.pid);
    match &result {
        Ok(outcome) => {
            info!(target: "audit", uid, gid, ?pid, verb = %what, vm_id = %vm, operation = id, outcome, "done");
        }
        Err(error) => {
            warn!(target: "audit", uid, gid, ?pid, verb = %what, vm_id = %vm, operation = id, %error, "failed");
        }
    }
    answers.operations.end(id, result);
}

/// Tells `vm` to do `what`, and returns when that is done; with more to say of how, where there is more. This is the one
/// place that decides what an operator's order is to the VMs of this host.
async fn tell(
    vm_manager: &Arc<VmManager>,
    what: PowerVerb,
    vm: &VmId,
    force: bool,
) -> Result<Option<String>, ApiError> {
    let forced = matches!(what, PowerVerb::Stop | PowerVerb::Restart) && force;
    if forced {
        return Err(unsupported("stopping a guest without asking it first", vm));
    }
    let done = match what {
        PowerVerb::Start => vm_manager.start_vm_async(vm).await.map(|()| None),
        PowerVerb::Stop => vm_manager.stop_vm_async(vm).await.map(|method| Some(ended_by(method))),
        PowerVerb::Restart => match vm_manager.stop_vm_async(vm).await {
            Ok(_) => vm_manager.start_vm_async(vm).await.map(|()| None),
            Err(problem) => Err(problem),
        },
        PowerVerb::Pause => vm_manager.pause_vm_async(vm).await.map(|()| None),
        PowerVerb::Resume => vm_manager.resume_vm_async(vm).await.map(|()| None),
        PowerVerb::Reset => return Err(unsupported("a reset", vm)),
        PowerVerb::Nmi => return Err(unsupported("a non-maskable interrupt", vm)),
    };
    done.map_err(|problem| of_vm(vm_manager, vm, problem))
}

fn unsupported(what: &str, vm: &VmId) -> ApiError {
    ApiError::new(ErrorCode::Unsupported, format!("this worker does not offer {what}")).about(vm.as_str())
}

fn ended_by(method: StopMethod) -> String {
    match method {
        StopMethod::AlreadyStopped => "already stopped",
        StopMethod::PowerButton => "by its power button",
        StopMethod::Kill => "killed",
    }
    .to_owned()
}
