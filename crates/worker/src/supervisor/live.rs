//! A machine that runs, with what it holds of the host.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use console_log::{KernelPanic, PANIC_LINES};
use fail_points::{FailPoint, pass};
use health::Beginning;
use machine_host::{
    CommandError, LaunchError, LaunchFailure, LaunchRequest, MachineHandle, StopError, StopPolicy,
};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{error, warn};
use vm_model::{
    FailureKind, FailureReason, GuestPanic, Health, InitialState, MachineExit, MachineStatus, StopMethod,
    ThreadHealth, Timestamp, VmId,
};

use super::context::HostContext;
use super::ending::{Evidence, Output, classify};
use super::guest::{WatchedGuest, Watching};
use super::news::{Boots, News};
use super::policy::{HEALTHY_AFTER, RunOutcome};
use super::prepare::Prepared;
use super::store_files::check_last;
use super::task::Wanted;
use crate::capacity::{Demand, Share};
use crate::failure::{chain, reason};
use crate::vms::VmNic;

/// How long a killed machine may take to end.
const END: Duration = Duration::from_secs(20);
/// How long an ended machine may take to give back what it held until that is told, and how often it is looked at then.
const RELEASE: Duration = Duration::from_secs(2);
/// How long what a guest has written may take to where it is read.
const COPIED: Duration = Duration::from_secs(2);

/// A machine between its start and the moment when everything it held is given back.
#[derive(Debug)]
pub(super) struct LiveMachine {
    handle: MachineHandle,
    status: watch::Receiver<MachineStatus>,
    health: watch::Receiver<ThreadHealth>,
    /// Its guest, where that is watched.
    guest: Option<WatchedGuest>,
    nics: Vec<VmNic>,
    /// Its part of the host, given back with it.
    share: Share,
    /// When it was launched, as it was noted with it.
    launched_at: Timestamp,
    /// Launched, or made anew in place as far as that was noticed.
    booted: Instant,
    /// As noticed last.
    seen: Boots,
}

/// Builds and starts the machine of `id`. On failure nothing of it is left, and what its start took is given back.
pub(super) async fn boot(
    context: &Arc<HostContext>,
    id: &VmId,
    prepared: Prepared,
    noted: String,
    initial: InitialState,
) -> Result<LiveMachine, FailureReason> {
    let Prepared {
        spec,
        share,
        kernel,
        nics,
        acquired,
        resets,
        isolation,
        limits,
        lock,
        console,
        notes,
        verified,
        ..
    } = prepared;
    let request = LaunchRequest {
        id: id.clone(),
        spec,
        verified: verified.boot,
        initial,
        resets,
        isolation,
        limits,
        console_dir: console,
        lock: Some(lock),
        notes: noted,
    };
    let launched = match check_last(context, id, verified).await {
        Ok(()) => context.machines.launch(request).await.map_err(|problem| launch_failure(&problem, &kernel)),
        Err(changed) => Err(changed),
    };
    match launched {
        Ok(handle) => {
            pass(FailPoint::StartLaunched);
            let (status, health) = (handle.status(), handle.health());
            let seen = Boots { starts: 1, ..Boots::default() };
            let booted = Instant::now();
            Ok(LiveMachine {
                handle,
                status,
                health,
                guest: None,
                nics,
                share,
                launched_at: notes.launched_at,
                booted,
                seen,
            })
        }
        Err(failure) => {
            pass(FailPoint::StartFailed);
            detach(context, id, nics.iter()).await;
            acquired.give_back_from_task(context, id).await;
            Err(failure)
        }
    }
}

fn launch_failure(problem: &LaunchError, kernel: &Path) -> FailureReason {
    if let LaunchError::Machine { source: LaunchFailure::Ended(exit), .. } = problem
        && let RunOutcome::Failed(reason) = classify(exit.clone(), &Evidence::default())
    {
        return reason;
    }
    let mut failure = reason(problem.kind(), problem);
    if failure.kind == FailureKind::Artifact {
        // The machine reads it while it is built and does not know its name. Other things can be wrong as well.
        failure.message = format!("{}; its kernel is {}", failure.message, kernel.display());
    }
    failure
}

/// Returns when something else is known of `guest`; never where it is not watched. Cancel-safe.
async fn guest_changed(guest: &mut Option<WatchedGuest>) {
    match guest {
        Some(guest) => guest.changed().await,
        None => std::future::pending().await,
    }
}

/// Detaches interfaces from the host's network. A failure is logged: a TAP goes with its descriptor anyway.
pub(super) async fn detach(context: &HostContext, id: &VmId, nics: impl Iterator<Item = &VmNic>) {
    for nic in nics {
        if let Err(problem) = context.networks.detach(&nic.network, id, &nic.id).await {
            warn!(vm_id = %id, nic = nic.id, error = chain(&problem), "the interface was not detached");
        }
    }
}

impl LiveMachine {
    /// A machine that runs since `booted` and was not launched here.
    pub(super) fn resumed(
        handle: MachineHandle,
        nics: Vec<VmNic>,
        share: Share,
        launched_at: Timestamp,
        booted: Instant,
    ) -> Self {
        let (status, health) = (handle.status(), handle.health());
        let resets = status.borrow().resets;
        let seen = Boots { starts: resets.total().saturating_add(1), resets };
        Self { handle, status, health, guest: None, nics, share, launched_at, booted, seen }
    }

    /// Where counters and console are read.
    pub(super) fn handle(&self) -> MachineHandle {
        self.handle.clone()
    }

    /// Begins to watch its guest.
    ///
    /// # Errors
    /// Says what of the host is in the way.
    pub(super) fn watch_guest(
        &mut self,
        context: &HostContext,
        watching: Watching,
        beginning: Beginning,
    ) -> Result<(), String> {
        let address = self.nics.first().map(|nic| nic.address);
        self.guest = Some(WatchedGuest::begin(context, &self.handle, address, watching, beginning)?);
        Ok(())
    }

    /// Watches its guest no more.
    pub(super) fn unwatch_guest(&mut self) {
        self.guest = None;
    }

    /// How its guest is, where that is watched.
    pub(super) fn guest_health(&self) -> Option<Health> {
        self.guest.as_ref().map(WatchedGuest::health)
    }

    /// Returns when the machine's status, the health of its thread, or what is known of its guest has changed. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        // All arms only wait, so losing any loses nothing.
        tokio::select! {
            // An error is a thread that is gone, which is its end: see `exit`.
            _ = self.status.changed() => {}
            // Who watches it may be gone first, which is no news of the machine.
            Ok(()) = self.health.changed() => {}
            () = guest_changed(&mut self.guest) => {}
        }
    }

    /// How it ended, if it has.
    pub(super) fn exit(&self) -> Option<MachineExit> {
        let is_gone = self.status.has_changed().is_err();
        let exit = self.status.borrow().phase.exit().cloned();
        exit.or_else(|| {
            is_gone.then(|| MachineExit::Failed("the machine's thread ended without a word".to_owned()))
        })
    }

    /// What its guest reported of a panic.
    pub(super) fn panic(&self) -> Option<GuestPanic> {
        self.status.borrow().panic
    }

    /// What it did since this was asked last.
    pub(super) fn news(&mut self) -> News {
        let news = News::of(&self.status.borrow(), *self.health.borrow(), &mut self.seen);
        if news.boots.resets.total() > 0 {
            self.booted = Instant::now();
        }
        news
    }

    /// When it was launched.
    pub(super) fn launched_at(&self) -> Timestamp {
        self.launched_at
    }

    /// How long its guest has been there.
    pub(super) fn age(&self) -> Duration {
        self.booted.elapsed()
    }

    /// When its guest counts as healthy.
    pub(super) fn healthy_at(&self) -> Instant {
        self.booted + HEALTHY_AFTER
    }

    /// Whether its guest panicked and does nothing any more.
    pub(super) fn stands_still(&self) -> bool {
        self.status.borrow().stands_still
    }

    /// What is known of its guest, for an explanation of its end.
    pub(super) async fn evidence(&self) -> Evidence {
        let (start, console) = (self.status.borrow().console_start, Arc::clone(self.handle.console()));
        // It may lie in files.
        let reading = tokio::task::spawn_blocking(move || console.tail_lines_since(start, PANIC_LINES));
        let console = reading.await.unwrap_or_default();
        let status = self.status.borrow();
        // Of a guest that was never entered nothing was to be expected.
        let is_silent = status.timings.first_entry.is_some() && status.timings.first_console_byte.is_none();
        let output = if is_silent && console.is_empty() { Output::Silent } else { Output::Written };
        Evidence { reported: status.panic, console, output, resets: status.resets.by_guest }
    }

    /// The console of a guest that panicked and stands still, whole but for a host that is too slow: its last words are known
    /// of before they are copied to where they are read.
    pub(super) async fn last_words(&self) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let console = self.evidence().await.console;
            if KernelPanic::is_told_to_its_end(&console) || begun.elapsed() > COPIED {
                return console;
            }
            sleep(COPIED / 20).await;
        }
    }

    pub(super) async fn pause(&self) -> Result<(), CommandError> {
        self.handle.pause().await
    }

    pub(super) async fn resume(&self) -> Result<(), CommandError> {
        self.handle.resume().await
    }

    /// Ends it: by the power button, which is pressed again while its guest does not react, and by force when the guest does not obey within `power_button`.
    pub(super) async fn stop(&self, power_button: Duration) -> Result<StopMethod, StopError> {
        let policy = StopPolicy { power_button, kill: END };
        let is_going = || {
            let told = self.guest_health().and_then(|health| health.systemd);
            told.is_some_and(|told| told.shutdown.is_some())
        };
        self.handle.stop_unless_going(policy, is_going).await.map(|report| report.method)
    }

    /// What of the host it was promised.
    pub(super) fn promised(&self) -> Demand {
        self.share.demand()
    }

    /// Detaches the interfaces of the ended machine and waits until all that it held is given back, however long that takes: what
    /// it still writes must not meet the VM's next guest, nor whoever gets its disks. Meanwhile `tell` is told what hangs,
    /// and says whether anybody is left who waits. What is left is its share of the host's memory.
    pub(super) async fn tear_down(self, context: &HostContext, tell: impl Fn(&str) -> Wanted) -> Share {
        let id = self.handle.id();
        // First: a TAP goes with the machine's descriptors, and would be missed by whoever looks after the network.
        detach(context, id, self.nics.iter()).await;
        while timeout(RELEASE, self.handle.released()).await.is_err() {
            let obstacle = self.status.borrow().obstacle.clone();
            let obstacle = obstacle.unwrap_or_else(|| "what keeps it is not known".to_owned());
            let problem = format!("the machine has ended and has not given back what it held: {obstacle}");
            if tell(&problem) == Wanted::No {
                error!(vm_id = %id, obstacle, "the ended machine still holds resources");
                break;
            }
        }
        self.share
    }
}
