//! A launch on its way to a process: what it takes up on the way, and gives back where it is given up.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use fail_points::{FailPoint, pass};
use machine_host::{LaunchError, LaunchRequest};
use tokio::sync::oneshot;
use vm_model::{MachineStatus, ThreadHealth, VmId};

use super::jailing::hand_over;
use super::limiting::limit_before_launch;
use super::line::{LaunchAnswer, ProcessLine};
use super::pool::{Assignment, Pool, Reservation};
use super::remote::RemoteMachine;
use crate::wire::{CallId, Launch};

/// A launch, for the task of a process.
#[derive(Debug)]
pub(super) struct LaunchOrder {
    pub(super) launch: Launch<OwnedFd>,
    pub(super) machine: Arc<RemoteMachine>,
    pub(super) place: Place,
    pub(super) answer: LaunchAnswer,
}

/// What a machine takes up among those of this host, until it is forgotten.
#[derive(Debug)]
pub(super) struct Place {
    /// Its name; given back when it is released.
    pub(super) reservation: Option<Reservation>,
    _assignment: Assignment,
}

impl Place {
    pub(super) fn new(reservation: Option<Reservation>, assignment: Assignment) -> Self {
        Self { reservation, _assignment: assignment }
    }
}

/// Kills the machine of a launch that is given up.
struct GivesUp<'a> {
    line: &'a ProcessLine,
    call: CallId,
    vm: &'a VmId,
    is_armed: bool,
}

impl Drop for GivesUp<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.line.give_up_launch(self.call, self.vm);
        }
    }
}

/// Launches what `request` says in a process that has room, or in a new one.
pub(super) async fn launch(
    pool: &Arc<Pool>,
    request: LaunchRequest,
) -> Result<(Arc<RemoteMachine>, Arc<ProcessLine>), LaunchError> {
    let LaunchRequest {
        id: vm,
        mut spec,
        verified,
        initial,
        resets,
        isolation,
        limits,
        console_dir,
        lock,
        notes,
    } = request;
    let machine = RemoteMachine::new(vm.clone(), MachineStatus::booting(), ThreadHealth::default());
    let reservation = pool.reserve(&machine)?;
    let assignment = pool.assign(&vm, isolation).await?;
    let line = assignment.line().clone();
    if let Some(user) = line.user {
        hand_over(user, &mut spec, console_dir.as_ref()).map_err(|error| LaunchError::Host {
            vm: vm.clone(),
            problem: format!("its directories cannot be given to user {user}: {error}"),
        })?;
    }
    limit_before_launch(line.confinement(), &vm, limits).await?;
    let call = line.new_call();
    let (answer, answered) = oneshot::channel();
    let order = LaunchOrder {
        launch: Launch { call, vm: vm.clone(), spec, verified, initial, resets, console_dir, lock, notes },
        machine: machine.clone(),
        place: Place::new(Some(reservation), assignment),
        answer,
    };
    let mut gives_up = GivesUp { line: &line, call, vm: &vm, is_armed: true };
    line.launch(order).await;
    pass(FailPoint::HostProcessOrdered);
    let outcome = answered.await;
    gives_up.is_armed = false;
    drop(gives_up);
    match outcome {
        Ok(outcome) => outcome.map(|()| (machine, line)),
        Err(_) => {
            Err(LaunchError::Host { vm, problem: "its host process is gone before it was asked".to_owned() })
        }
    }
}
