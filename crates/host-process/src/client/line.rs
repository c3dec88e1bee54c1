//! The outside end of a process' task: how handles and the pool get to it.
//!
//! What waits for an answer goes through a bounded channel. What must not wait (a kill, a call that was given up, the last
//! handle that is dropped) is an order: a note on a board that the task looks at first, bounded by what it is about.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machine_host::{LaunchError, PortClosed};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use vm_model::{Command, MachineCounters, Reply, VmId};

use super::confinement::Confinement;
use super::launching::LaunchOrder;
use crate::wire::CallId;

/// Requests to one process that may wait; a caller that sends more waits for room.
const REQUESTS: usize = 64;

/// How to get to one process' task.
#[derive(Debug)]
pub(super) struct ProcessLine {
    requests: mpsc::Sender<Request>,
    board: Mutex<Orders>,
    /// Told when something is on the board. The task is the one who waits.
    ordered: Notify,
    next_call: AtomicU64,
    /// The user that its process was given, to whom a machine's directories are handed over.
    pub(super) user: Option<u32>,
    /// Becomes true when the process is gone, and all that is known of its machines is settled.
    gone: watch::Sender<bool>,
    /// What the process may take.
    confinement: Arc<Confinement>,
}

/// What waits for an answer. One that is not answered has its channel dropped.
#[derive(Debug)]
pub(super) enum Request {
    Launch(Box<LaunchOrder>),
    Command { call: CallId, vm: VmId, command: Command, answer: oneshot::Sender<Reply> },
    Counters { call: CallId, vm: VmId, answer: oneshot::Sender<MachineCounters> },
}

/// What does not wait.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Machines to kill.
    pub(super) kill: BTreeSet<VmId>,
    /// Launches that were given up.
    pub(super) give_up: BTreeSet<(CallId, VmId)>,
    /// Calls that nobody waits for any more.
    pub(super) cancel: BTreeSet<CallId>,
    /// Machines without a handle.
    pub(super) let_go: BTreeSet<VmId>,
    /// What is to become of the process, to be obeyed in this order.
    pub(super) process: BTreeSet<ProcessOrder>,
}

/// What is to become of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ProcessOrder {
    /// It is not needed where it has no machine.
    RetireIdle,
    /// Its machines are ended, and it with them.
    ShutDown,
    /// It has had the time for that.
    Kill,
    /// It goes on without us.
    Leave,
}

impl ProcessLine {
    /// A line to the process that was given this user and is confined so, and the task's end of it.
    pub(super) fn new(user: Option<u32>, confinement: Confinement) -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let line = Self {
            requests,
            board: Mutex::default(),
            ordered: Notify::new(),
            next_call: AtomicU64::new(1),
            user,
            gone: watch::Sender::new(false),
            confinement: Arc::new(confinement),
        };
        (line, receiver)
    }

    /// What the process may take, and takes.
    pub(super) fn confinement(&self) -> &Arc<Confinement> {
        &self.confinement
    }

    pub(super) fn new_call(&self) -> CallId {
        CallId(self.next_call.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) async fn command(&self, vm: &VmId, command: Command) -> Result<Reply, PortClosed> {
        let (answer, answered) = oneshot::channel();
        let mut awaited = Awaited { line: self, call: self.new_call(), is_answered: false };
        let request = Request::Command { call: awaited.call, vm: vm.clone(), command, answer };
        self.requests.send(request).await.map_err(|_| PortClosed)?;
        let reply = answered.await.map_err(|_| PortClosed);
        awaited.is_answered = true;
        reply
    }

    pub(super) async fn counters(&self, vm: &VmId) -> Option<MachineCounters> {
        let (answer, answered) = oneshot::channel();
        let mut awaited = Awaited { line: self, call: self.new_call(), is_answered: false };
        let request = Request::Counters { call: awaited.call, vm: vm.clone(), answer };
        self.requests.send(request).await.ok()?;
        let counters = answered.await.ok();
        awaited.is_answered = true;
        counters
    }

    /// Hands a launch over; `None` where the process' task is gone.
    pub(super) async fn launch(&self, order: LaunchOrder) -> Option<()> {
        self.requests.send(Request::Launch(Box::new(order))).await.ok()
    }

    pub(super) fn kill(&self, vm: &VmId) {
        self.order(|orders| {
            orders.kill.insert(vm.clone());
        });
    }

    pub(super) fn give_up_launch(&self, call: CallId, vm: &VmId) {
        self.order(|orders| {
            orders.give_up.insert((call, vm.clone()));
        });
    }

    pub(super) fn let_go(&self, vm: &VmId) {
        self.order(|orders| {
            orders.let_go.insert(vm.clone());
        });
    }

    pub(super) fn order_process(&self, order: ProcessOrder) {
        self.order(|orders| {
            orders.process.insert(order);
        });
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        // Nobody would look at them any more.
        if !*self.gone.borrow() {
            change(&mut self.board());
            self.ordered.notify_one();
        }
    }

    /// Returns what was ordered, when something was. Cancel-safe.
    pub(super) async fn orders(&self) -> Orders {
        self.ordered.notified().await;
        std::mem::take(&mut self.board())
    }

    pub(super) fn set_gone(&self) {
        self.gone.send_replace(true);
        drop(std::mem::take(&mut *self.board()));
    }

    /// Returns when the process is gone, or was left.
    pub(super) async fn gone(&self) {
        // The sender is this line's own.
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }

    /// Held for an insertion or a take: a poisoned lock is used on.
    fn board(&self) -> MutexGuard<'_, Orders> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cancels a call that is given up.
struct Awaited<'a> {
    line: &'a ProcessLine,
    call: CallId,
    is_answered: bool,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.line.order(|orders| {
                orders.cancel.insert(self.call);
            });
        }
    }
}

/// What a launch ends with.
pub(super) type LaunchAnswer = oneshot::Sender<Result<(), LaunchError>>;
