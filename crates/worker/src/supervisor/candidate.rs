//! Another definition, while the VM still runs by the one before: it is made ready or refused, and only then anything
//! changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;
use tracing::{info, warn};
use vm_model::{Assignment, FailureKind, FailureReason, Timestamp, WantedChange};

use super::Target;
use super::context::HostContext;
use super::given_up::GivenUp;
use super::jitter::Jitter;
use super::prepare::Definition;
use super::publisher::Publisher;
use super::rollout::tells_readiness;
use super::stage::{Held, StagedMachine, stage};
use super::stage_work::{LongWork, StageWork};
use super::step::{Candidate, DefinitionNumber, RunState};
use super::task::{InForce, Task};
use crate::capacity::Share;
use crate::definition::{Change, Effect, effect};
use crate::failure::reason;
use crate::volumes;

/// The first delay before a refused definition is tried again, where that can help.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Delays stop growing here.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// Both where the machine before was stopped for the try.
const FIRST_COSTLY_RETRY: Duration = Duration::from_secs(60);
const LONGEST_COSTLY_RETRY: Duration = Duration::from_secs(3600);
/// How long whatever was given up may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What it costs to try a definition again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryCost {
    /// The machine before goes on meanwhile.
    Nothing,
    /// The machine before is stopped for it.
    Downtime,
}

/// What is known of the newest definition.
#[derive(Debug)]
pub(super) struct Progress {
    definition: DefinitionNumber,
    state: ProgressState,
    /// How often it was refused.
    refusals: u32,
}

#[derive(Debug)]
enum ProgressState {
    Staging(Staging),
    /// What became of it was handed on and is about to be noted.
    Told,
    Ready(Box<StagedMachine>),
    Refused {
        retry: Option<Instant>,
    },
}

/// A machine that is being made ready, on a task of its own.
#[derive(Debug)]
struct Staging {
    given_up: GivenUp,
    long: watch::Receiver<Option<LongWork>>,
    task: JoinHandle<Result<StagedMachine, FailureReason>>,
}

impl Drop for Staging {
    /// Whoever does not wait for it any more wants nothing of it.
    fn drop(&mut self) {
        self.given_up.set();
    }
}

impl Progress {
    /// A machine of definition number `definition` that begins to be made ready.
    fn begin(
        context: &Arc<HostContext>,
        assignment: &Arc<Assignment>,
        definition: DefinitionNumber,
        uuid: uuid::Uuid,
        held: Held,
    ) -> Self {
        let given_up = GivenUp::default();
        let (work, long) = StageWork::new(given_up.clone());
        let (context, assignment) = (Arc::clone(context), Arc::clone(assignment));
        let task = tokio::spawn(async move { stage(&context, &assignment, uuid, held, work).await });
        let staging = Staging { given_up, long, task };
        Self { definition, state: ProgressState::Staging(staging), refusals: 0 }
    }

    /// The machine of definition number `number`, which is in force, being made ready beside a newest one that is refused.
    pub(super) fn of_in_force(
        context: &Arc<HostContext>,
        assignment: &Arc<Assignment>,
        number: DefinitionNumber,
        uuid: uuid::Uuid,
        held: Held,
    ) -> Self {
        Self::begin(context, assignment, number, uuid, held)
    }

    /// Returns when the machine is ready or refused; meanwhile `info` tells how far it is. Cancel-safe; never returns where
    /// nothing is being made ready.
    pub(super) async fn staged(
        progress: &mut Option<Self>,
        info: &Publisher,
    ) -> Result<StagedMachine, FailureReason> {
        match progress {
            Some(Self { state: state @ ProgressState::Staging(_), .. }) => {
                let ProgressState::Staging(staging) = state else { return std::future::pending().await };
                let outcome = staging.outcome(info).await;
                *state = ProgressState::Told;
                outcome.unwrap_or_else(|lost| Err(reason(FailureKind::Machine, &lost)))
            }
            Some(Self {
                state: ProgressState::Told | ProgressState::Ready(_) | ProgressState::Refused { .. },
                ..
            })
            | None => std::future::pending().await,
        }
    }

    /// Gives it up, and waits until nothing is made any more, unless its store or disks do not answer.
    pub(super) async fn give_up(self, context: &Arc<HostContext>) {
        if let Some(staged) = self.ended().await {
            discard(context, staged).await;
        }
    }

    async fn ended(self) -> Option<StagedMachine> {
        match self.state {
            ProgressState::Staging(mut staging) => {
                staging.given_up.set();
                // What comes later is dropped, and deleted by that.
                timeout(PATIENCE, &mut staging.task).await.ok()?.ok()?.ok()
            }
            ProgressState::Ready(staged) => Some(*staged),
            ProgressState::Told | ProgressState::Refused { .. } => None,
        }
    }
}

impl Staging {
    /// Returns when it has come to an end; meanwhile `info` tells how far it is. Cancel-safe.
    async fn outcome(&mut self, info: &Publisher) -> Result<Result<StagedMachine, FailureReason>, JoinError> {
        loop {
            // Both arms only wait, so losing either loses nothing.
            let ended = tokio::select! {
                ended = &mut self.task => Some(ended),
                Ok(()) = self.long.changed() => None,
            };
            let long = self.long.borrow_and_update().clone().filter(|_| ended.is_none());
            show_long_work(info, long);
            if let Some(ended) = ended {
                return ended;
            }
        }
    }
}

/// Tells what takes long just now of making the next machine ready.
fn show_long_work(info: &Publisher, long: Option<LongWork>) {
    let (fetching, verifying) = match long {
        Some(LongWork::Fetching(fetching)) => (Some(fetching), None),
        Some(LongWork::Verifying(verifying)) => (None, Some(verifying)),
        None => (None, None),
    };
    info.send_if_modified(|info| {
        let is_news = info.verifying != verifying || info.fetching != fetching;
        (info.verifying, info.fetching) = (verifying, fetching);
        is_news
    });
}

/// Deletes what was made for a machine that is not needed.
pub(super) async fn discard(context: &Arc<HostContext>, staged: StagedMachine) {
    let (host, owner) = (Arc::clone(context), staged.assignment.id.clone());
    let discarding = move || staged.discard(&host);
    if let Err(problem) = context.own_threads.run(owner.as_str(), "discard", discarding).await {
        warn!(vm_id = %owner, error = problem.message, "what was made ready was not deleted");
    }
}

impl Task {
    /// What is known of the newest definition, for the next step.
    pub(super) fn candidate(&self, target: &Target) -> Candidate {
        match &self.progress {
            Some(progress) if progress.definition == target.stamp.definition => match progress.state {
                ProgressState::Told => Candidate::Unknown,
                ProgressState::Staging(_) => Candidate::Pending,
                ProgressState::Ready(_) => Candidate::Ready,
                ProgressState::Refused { retry } => Candidate::Refused { retry },
            },
            Some(_) | None => Candidate::Unknown,
        }
    }

    /// Forgets an older definition that was on its way.
    pub(super) async fn drop_older_candidate(&mut self, newest: DefinitionNumber) {
        if self.progress.as_ref().is_some_and(|progress| progress.definition != newest) {
            self.drop_candidate().await;
        }
    }

    /// Forgets what was on its way.
    pub(super) async fn drop_candidate(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.give_up(&self.context).await;
            show_long_work(&self.info, None);
        }
    }

    /// Forgets what was on its way, or is ready; that something was refused stays known.
    pub(super) async fn drop_made_candidate(&mut self) {
        let is_refused = |progress: &Progress| matches!(progress.state, ProgressState::Refused { .. });
        if !self.progress.as_ref().is_some_and(is_refused) {
            self.drop_candidate().await;
        }
    }

    /// Forgets what was on its way, unless it is refused for good.
    pub(super) async fn drop_open_candidate(&mut self) {
        let is_final = |progress: &Progress| matches!(progress.state, ProgressState::Refused { retry: None });
        if !self.progress.as_ref().is_some_and(is_final) {
            self.drop_candidate().await;
        }
    }

    /// Definition number `definition` stays refused.
    pub(super) fn keep_refused(&mut self, definition: DefinitionNumber) {
        let state = ProgressState::Refused { retry: None };
        self.progress = Some(Progress { definition, state, refusals: 1 });
        // It gives up no port of the host for it.
        self.context.ports.failed(&self.id);
    }

    /// Begins to make the newest definition's machine ready. The VM goes on.
    pub(super) async fn begin_candidate(&mut self, target: &Target) {
        let refusals = self.progress.as_ref().map_or(0, |progress| progress.refusals);
        self.drop_candidate().await;
        let held = self.holds();
        let (definition, uuid) = (target.stamp.definition, self.record.uuid());
        let begun = Progress::begin(&self.context, &target.assignment, definition, uuid, held);
        self.progress = Some(Progress { refusals, ..begun });
    }

    /// What the VM holds that its next machine will have: its present machine's, or what was kept for the next when that ended.
    pub(super) fn holds(&self) -> Held {
        match &self.state {
            RunState::Up { machine, .. } => Held { promised: Some(machine.promised()), is_up: true },
            RunState::Off
            | RunState::PoweredOff { .. }
            | RunState::Failed { .. }
            | RunState::Waiting { .. } => {
                Held { promised: self.share.as_ref().map(Share::demand), is_up: false }
            }
        }
    }

    /// Takes notice that the newest definition's machine is ready, or why it is refused.
    pub(super) async fn note_candidate(&mut self, staged: Result<StagedMachine, FailureReason>) {
        let target = self.target.borrow().clone();
        let is_newest = |progress: &Progress| progress.definition == target.stamp.definition;
        let Some(progress) = self.progress.take().filter(is_newest) else {
            // Another one came meanwhile.
            if let Ok(staged) = staged {
                discard(&self.context, staged).await;
            }
            return;
        };
        let staged = match staged {
            Ok(staged) => staged,
            Err(reason) => return self.refuse(&target, progress.refusals, RetryCost::Nothing, reason),
        };
        let before = self.in_force.as_ref().and_then(|in_force| in_force.description.as_ref());
        let changes = before.map(|before| Change::between(before, &staged.description));
        match changes.as_deref().map(effect) {
            Some(Effect::Nothing | Effect::Live) => {
                let changes = changes.unwrap_or_default();
                info!(vm_id = %self.id, changes = words(&changes), "the VM goes on: its machine is the same");
                let definition = staged.definition();
                discard(&self.context, staged).await;
                self.take_over(&target, definition).await;
            }
            Some(Effect::Restart) | None => {
                let changes = changes.unwrap_or_default();
                let disks = volumes::summary(&staged.volumes, self.context.lifecycle.removal_grace);
                info!(vm_id = %self.id, "restart {}: {} ({disks})", self.id, words(&changes));
                self.progress = Some(Progress { state: ProgressState::Ready(Box::new(staged)), ..progress });
            }
        }
    }

    /// The machine that runs is that of the newest definition, too.
    async fn take_over(&mut self, target: &Target, definition: Definition) {
        if let RunState::Up { runs, stamp, .. } = &mut self.state {
            *runs = target.stamp.definition;
            // How it ends is an end of this definition: no reason to start the VM afresh.
            stamp.definition = target.stamp.definition;
        }
        let description = Arc::clone(&definition.description);
        let health = description.health.clone();
        let limits_before = self
            .in_force
            .as_ref()
            .and_then(|in_force| in_force.description.as_ref())
            .map(|before| before.limits);
        let before =
            self.in_force.as_ref().and_then(|in_force| in_force.description.as_ref()?.health.clone());
        self.put_in_force(target.stamp.definition, definition);
        if health != before {
            self.watch_guest_anew(health.clone());
        }
        if limits_before != Some(description.limits) {
            self.limit_anew(&description).await;
        }
        self.keep(target, |record| record.in_force = None).await;
        self.show_definitions(target);
        if self.trial.is_some() && !tells_readiness(health.as_ref()) {
            self.accept_trial().await;
        }
    }

    /// `definition` is what the VM's newest machine was made by.
    pub(super) fn put_in_force(&mut self, number: DefinitionNumber, definition: Definition) {
        let Definition { assignment, description, restart } = definition;
        self.restart = restart.unwrap_or(self.context.lifecycle.restart);
        self.slot.describe(Arc::clone(&description));
        self.in_force = Some(InForce { number, assignment, description: Some(description) });
    }

    /// The newest definition, which was refused `earlier` times before, is not used, and says so; what is in force goes on.
    pub(super) fn refuse(&mut self, target: &Target, earlier: u32, cost: RetryCost, reason: FailureReason) {
        let (first, longest) = cost.delays();
        let delay = delay(earlier, first, longest);
        let retry = reason.can_retry_help().then(|| Jitter::draw().apply(delay, longest));
        warn!(vm_id = %self.id, kind = %reason.kind, %reason, retry = ?retry, "the changed definition is refused; the VM stays as it is");
        let (definition, now) = (target.stamp.definition, Instant::now());
        let state = ProgressState::Refused { retry: retry.map(|delay| now + delay) };
        self.progress = Some(Progress { definition, state, refusals: earlier.saturating_add(1) });
        let wanted = WantedChange {
            assignment: target.assignment.as_ref().clone(),
            refusal: Some(reason),
            next_try_at: retry.map(|delay| Timestamp::now().after(delay)),
        };
        self.info.send_modify(|info| info.wanted = Some(wanted));
    }

    /// How often the newest definition was refused since it was wanted.
    pub(super) fn refusals(&self) -> u32 {
        self.progress.as_ref().map_or(0, |progress| progress.refusals)
    }

    /// The machine that was made ready for the newest definition, if one was.
    pub(super) fn take_ready(&mut self) -> Option<StagedMachine> {
        match self.progress.take() {
            Some(Progress { state: ProgressState::Ready(staged), .. }) => Some(*staged),
            other => {
                self.progress = other;
                None
            }
        }
    }
}

impl RetryCost {
    /// The first delay and the longest one.
    fn delays(self) -> (Duration, Duration) {
        match self {
            Self::Nothing => (FIRST_RETRY, LONGEST_RETRY),
            Self::Downtime => (FIRST_COSTLY_RETRY, LONGEST_COSTLY_RETRY),
        }
    }
}

/// How long to wait before a definition that was refused `earlier` times is tried again.
fn delay(earlier: u32, first: Duration, longest: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(earlier.min(30))).min(longest)
}

fn words(changes: &[Change]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
