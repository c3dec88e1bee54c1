//! The task of one host process: speaks with it, keeps what is known of its machines, and settles everything when it is
//! gone.
//!
//! ```text
//!   Up ── connection ends, machines are there ──▶ Down ── dialled again ──▶ Up
//!    └── no machine is left, or the pool leaves ──▶ Closed          any ── process is gone ──▶ settled
//! ```

mod calls;
mod link;
mod machines;
mod silence;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use jail::TakenUser;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};
use vm_model::{ThreadHealth, error_chain};

use super::hearsay::repeated;
use super::line::{Orders, ProcessLine, ProcessOrder, Request};
use super::pool::{Pool, ProcessKey};
use super::process::WatchedProcess;
use crate::wire::{ConnectionError, FromHost, Message, Outgoing, ToHost};
use calls::Calls;
use machines::Machines;
use silence::Silence;

pub(super) use link::{Link, greet};

/// How long a process may leave a message unread.
const SEND_PATIENCE: Duration = Duration::from_secs(5);
/// How long a process may take to end after its last machine.
const EXIT_PATIENCE: Duration = Duration::from_secs(15);
/// How long a machine that is killed may take to end until its process is killed. Longer than the five seconds that a machine
/// gives I/O in flight: a process that is killed with such I/O does not end and tells nothing, while one that lives says which
/// disk does not answer.
const KILL_PATIENCE: Duration = Duration::from_secs(8);
/// Later than anything.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The task's state.
pub(super) struct Conversation {
    pool: Arc<Pool>,
    /// `None` of a process that is not in the pool.
    key: Option<ProcessKey>,
    line: Arc<ProcessLine>,
    /// The name of the socket at which the process listens.
    name: String,
    process: WatchedProcess,
    /// Its user, which nobody else gets as long as it is there.
    _user: Option<TakenUser>,
    machines: Machines,
    calls: Calls,
    silence: Silence,
    /// When the process is killed because it did not end by itself.
    exit_by: Option<Instant>,
}

/// What is known of a process when its task begins.
#[derive(Debug)]
pub(super) struct Known {
    /// `None` of a process that is not in the pool.
    pub(super) key: Option<ProcessKey>,
    /// The name of the socket at which it listens.
    pub(super) name: String,
    pub(super) process: WatchedProcess,
    /// The user that it was given.
    pub(super) user: Option<TakenUser>,
}

/// Whether the task goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    Leave,
}

impl Conversation {
    pub(super) fn new(
        pool: Arc<Pool>,
        line: Arc<ProcessLine>,
        Known { key, name, process, user }: Known,
    ) -> Self {
        let (machines, calls, silence) = (Machines::default(), Calls::default(), Silence::default());
        Self { pool, key, line, name, process, _user: user, machines, calls, silence, exit_by: None }
    }

    /// Runs the task, until the process is gone or left.
    pub(super) async fn run(mut self, mut link: Link, mut requests: mpsc::Receiver<Request>) {
        if link.is_closed() {
            self.exit_by = Some(Instant::now() + EXIT_PATIENCE);
        }
        loop {
            let deadline = self.deadline(&link);
            // Each arm is cancel-safe. Orders come before requests, so that a kill overtakes what waits. What the process says
            // comes last: one that says more than can be read keeps nothing else from its turn.
            tokio::select! {
                biased;
                () = self.process.gone() => break,
                orders = self.line.orders() => {
                    if self.carry_out(orders, &mut link).await == Next::Leave {
                        self.finish();
                        return;
                    }
                }
                () = sleep_until(deadline) => self.overdue(&mut link).await,
                Some(request) = requests.recv(), if link.is_up() => self.send_request(request, &mut link).await,
                message = link.receive() => {
                    self.hear(message, &mut link).await;
                    // Nothing above waits where there is always a message, and other tasks of this thread have to run.
                    yield_now().await;
                }
            }
        }
        // What it said last is not lost.
        for message in link.received_already() {
            self.handle_message(message, &mut Link::closed()).await;
        }
        let end = self.process.how_it_ended(self.line.confinement()).await;
        let how_it_ended = end.text();
        if self.machines.is_empty() {
            tracing::debug!(how_it_ended, "a host process has ended");
        } else {
            tracing::warn!(how_it_ended, "a host process with machines has ended");
        }
        // Nobody is to be launched here who was told that another is gone.
        if let Some(key) = self.key {
            self.pool.remove(key);
        }
        self.calls.fail_launches(how_it_ended);
        self.machines.settle(&end.exit());
        // A process that was killed could not.
        self.pool.directory.remove(&self.name);
        let confinement = self.line.confinement().clone();
        // A file call that nothing waits for.
        tokio::task::spawn_blocking(move || confinement.remove());
        self.finish();
    }

    /// Nobody gets to this task any more.
    fn finish(self) {
        if let Some(key) = self.key {
            self.pool.remove(key);
        }
        self.line.set_gone();
    }

    fn deadline(&self, link: &Link) -> Instant {
        let all = [self.exit_by, self.machines.kill_by(), self.silence.noted_at(), link.retry_at()];
        all.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + NEVER)
    }

    async fn carry_out(&mut self, orders: Orders, link: &mut Link) -> Next {
        for vm in orders.kill {
            self.kill(&vm, link).await;
        }
        for (call, vm) in orders.give_up {
            self.give_up_launch(call, &vm, link).await;
        }
        for call in orders.cancel {
            if self.calls.cancel(call) {
                self.send(ToHost::Cancel { call }, link).await;
            }
        }
        for order in orders.process {
            match order {
                ProcessOrder::RetireIdle if self.machines.is_empty() => self.retire(link),
                ProcessOrder::RetireIdle => {}
                ProcessOrder::ShutDown => {
                    self.exit_by.get_or_insert(Instant::now() + EXIT_PATIENCE);
                    self.send(ToHost::ShutDown { patience: Duration::ZERO }, link).await;
                }
                ProcessOrder::Kill => self.process.kill(),
                // Handles that were dropped meanwhile saw no end: who comes next is to find it.
                ProcessOrder::Leave => {
                    if self.machines.is_empty() {
                        // It ends by itself, and may not do that.
                        self.pool.directory.remove(&self.name);
                    }
                    return Next::Leave;
                }
            }
        }
        for vm in orders.let_go {
            self.machines.let_go(&vm);
            self.forget_if_over(&vm, link).await;
        }
        Next::GoOn
    }

    /// Lets the process end, if no machine is on its way to it: it does by itself without a connection.
    fn retire(&mut self, link: &mut Link) {
        if self.key.is_none_or(|key| self.pool.retire(key)) {
            *link = Link::closed();
            self.exit_by.get_or_insert(Instant::now() + EXIT_PATIENCE);
        }
    }

    async fn overdue(&mut self, link: &mut Link) {
        let now = Instant::now();
        if self.exit_by.is_some_and(|by| by <= now) {
            tracing::error!(pid = self.process.pid(), "a host process does not end, and is killed");
            self.exit_by = None;
            self.process.kill();
        }
        if self.machines.take_overdue_kills(now) {
            if self.machines.are_all_to_die() {
                tracing::error!(
                    pid = self.process.pid(),
                    "a machine does not end, and its process is killed"
                );
                self.process.kill();
            } else {
                tracing::error!(
                    pid = self.process.pid(),
                    "a machine does not end; others run in its process"
                );
            }
        }
        // Where it is this worker that did not get on, an answer waits already.
        let is_due = self.silence.noted_at().is_some_and(|at| at <= now);
        let waiting = if is_due { link.received_already().next() } else { None };
        if let Some(message) = waiting {
            self.note_answer();
            self.handle_message(message, link).await;
        }
        if self.silence.take_note(now) {
            tracing::warn!(pid = self.process.pid(), "a host process does not answer");
            self.machines.set_silent(true);
        }
        if link.retry_at().is_some_and(|at| at <= now) {
            self.reconnect(link).await;
        }
    }

    /// The connection is of no use any more.
    fn lose(&mut self, link: &mut Link) {
        self.calls.fail_launches("the connection to its host process broke");
        self.machines.lose_launches();
        self.note_answer();
        self.machines.set_health(ThreadHealth::Hung);
        if self.machines.is_empty() {
            self.retire(link);
        }
        if !link.is_closed() {
            link.lose();
        }
    }

    async fn reconnect(&mut self, link: &mut Link) {
        let reached = tokio::select! {
            biased;
            // The next turn sees it, too.
            () = self.process.gone() => return,
            reached = link::reach(&self.pool.directory, &self.name, self.process.pid()) => reached,
        };
        match reached {
            Ok((connection, welcome)) => {
                tracing::info!(pid = self.process.pid(), "the connection to a host process is there again");
                *link = Link::up(connection);
                self.compare(welcome, link).await;
            }
            Err(problem) => {
                let problem = repeated(&error_chain(&problem));
                tracing::warn!(pid = self.process.pid(), problem, "a host process cannot be reached");
                link.lose();
            }
        }
    }

    /// Sends a message that always fits.
    async fn send(&mut self, message: ToHost<OwnedFd>, link: &mut Link) {
        match message.pack() {
            Ok(packed) => self.send_packed(&packed, link).await,
            Err(error) => tracing::error!(error = error_chain(&error), "a message cannot be sent"),
        }
    }

    async fn send_packed(&mut self, packed: &Outgoing, link: &mut Link) {
        let Some(connection) = link.connection() else { return };
        let problem = match timeout(SEND_PATIENCE, connection.send(packed)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error_chain(&error),
            Err(_) => format!("it left a message unread for {SEND_PATIENCE:?}"),
        };
        tracing::warn!(pid = self.process.pid(), problem, "the connection to a host process is given up");
        // What was said before is still heard: the process may be gone.
        for message in link.received_already() {
            // What it asks for comes again when the process is asked for everything.
            let _ = self.take_note(message);
        }
        self.lose(link);
    }

    /// What came over the connection, or why nothing will.
    async fn hear(&mut self, message: Result<FromHost, ConnectionError>, link: &mut Link) {
        match message {
            Ok(message) => {
                self.note_answer();
                self.handle_message(message, link).await;
            }
            Err(error) => {
                if !error.is_closed() {
                    let error = repeated(&error_chain(&error));
                    tracing::warn!(pid = self.process.pid(), error, "a host process makes no sense");
                }
                self.lose(link);
            }
        }
    }

    /// The process is not silent any more, or its connection is another.
    fn note_answer(&mut self) {
        if self.silence.broken() {
            tracing::info!(
                pid = self.process.pid(),
                "a host process does not leave its worker without an answer any more"
            );
            self.machines.set_silent(false);
        }
    }

    async fn handle_message(&mut self, message: FromHost, link: &mut Link) {
        let then = self.take_note(message);
        self.act(then, link).await;
    }
}
