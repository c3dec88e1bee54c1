//! `run`: the worker in the foreground, from its first log line to the last thing it takes down.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use admin::{AdminServer, BindError, Listening, Served, SocketSettings};
use anyhow::{Context, Result};
use rustix::fs::Mode as FileMode;
use rustix::process::umask;
use sd_notify::NotifyState;
use syscall_filter::Mode;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};
use vm_model::SourceKind;
use worker::master::{MasterLink, MasterSettings};
use worker::node::{NodeMessage, Reconciler};
use worker::vms::{LockedState, VmManager, VmManagerError, refuse_directory_of_others};

use crate::assignments::{AssignmentsFile, Source, SourceState};
use crate::cli::RunFlags;
use crate::descriptors::OpenFiles;
use crate::filtering::shortcoming;
use crate::logging::VmFiles;
use crate::notifier::{Notifier, Watchdog};
use crate::reload::{Reload, Reloaded};
use crate::settings::{MasterPlace, Settings, by_key};
use crate::signals::{self, Endings, Unexpected};
use crate::status_line::StatusLine;
use crate::{logging, status};

/// Desired states that may wait: only the newest matters.
const WAITING_STATES: usize = 4;
/// How much longer than its guests the worker may take to end before the service manager kills it.
const STOP_MARGIN: Duration = Duration::from_secs(60);
/// How long clients of the admin socket may take to get their last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// How long the admin socket may be open in what is left of a worker, and how often that is looked at.
const SOCKET_PATIENCE: Duration = Duration::from_secs(1);
const SOCKET_PAUSE: Duration = Duration::from_millis(20);

/// Runs until a signal ends it.
pub(crate) fn run(flags: RunFlags, runtime_dir: Option<PathBuf>) -> Result<()> {
    // Before any thread is started: threads inherit what is blocked.
    signals::block_terminal_stops()?;
    logging::open()?;
    let settings = Settings::load(flags.clone(), runtime_dir.clone())?.accepted()?;
    make_runtime_directory(&settings.runtime_dir)?;
    // What the worker keeps is its own, whatever it was started with; what is for others has a mode of its own.
    umask(FileMode::RWXG | FileMode::RWXO);
    let directory = settings.manager.vm_artifacts_dir.clone();
    logging::start(settings.log_format, Some(VmFiles::Below(directory)))?;
    let files = OpenFiles::raise();
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(serve(flags, runtime_dir, settings, files))
}

async fn serve(
    flags: RunFlags,
    runtime_dir: Option<PathBuf>,
    settings: Settings,
    files: OpenFiles,
) -> Result<()> {
    // Before anything is set up: a signal from now on ends the worker in order, or does nothing to it.
    let mut endings = Endings::listen()?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let _unexpected = Unexpected::listen()?;
    let file = settings.assignments.as_deref().map(AssignmentsFile::at).transpose()?;
    // Before the socket: who has the lock is known, and who answers at a socket is not.
    let locked = LockedState::take(&settings.manager).await?;
    let server = bind(&settings.sockets()).await?;
    // A certificate that cannot be used is seen before anything is set up.
    let master = settings.master.as_ref().map(MasterPlace::settings).transpose()?;
    let vm_manager = VmManager::new_locked_async(settings.manager.clone(), locked).await.map_err(by_key)?;
    let vm_manager = Arc::new(vm_manager);
    let notifier = Notifier::start();
    let ending = Ending::of(&vm_manager, settings.stop_guests);
    let stop_timeout = settings.manager.stop_timeout;
    let (told_reload, reloaded) = watch::channel(Reloaded::default());
    let (runtime, seccomp) = (settings.runtime_dir.clone(), settings.seccomp);
    shortcoming(seccomp).iter().for_each(|problem| warn!("{problem}"));
    let sources = Sources { file, master, reloaded, runtime_dir: runtime, seccomp };
    let mut parts = Parts::start(&vm_manager, server, sources, files, ending);
    let mut watchdog = Watchdog::start();
    let mut status_line = StatusLine::start();
    let mut reload = Reload::new(flags, runtime_dir, settings, (parts.requests.clone(), told_reload));
    notifier.tell(vec![NotifyState::Ready]);
    info!("ready");

    let verdict = loop {
        // All arms are cancel-safe.
        tokio::select! {
            name = endings.next() => {
                info!(signal = name, "ending: {}", ending.as_text());
                break Ok(());
            }
            Some(()) = hang_up.recv() => {
                reload.run(&notifier);
                parts.try_again();
            }
            () = watchdog.due() => notifier.tell(vec![NotifyState::Watchdog]),
            () = status_line.due() => status_line.tell(&notifier, &vm_manager),
            lost = parts.lost() => break Err(lost),
        }
    };
    notifier.tell(ending.notice(stop_timeout));
    parts.stop_taking();
    let down = match ending {
        Ending::StopGuests => shut_down(&vm_manager, &mut endings).await,
        Ending::LeaveGuests => vm_manager.leave_async().await,
    };
    parts.end().await;
    let ended = match (verdict, down.context("not everything was taken down")) {
        (Ok(()), Ok(())) => {
            info!("ended");
            Ok(())
        }
        (Err(problem), Ok(())) | (Ok(()), Err(problem)) => Err(problem),
        (Err(problem), Err(remains)) => {
            error!(error = format!("{remains:#}"), "ended");
            Err(problem)
        }
    };
    notifier.finish();
    ended
}

/// Makes the runtime directory, if there is none: everybody may go through it to the sockets, and nobody else changes it. One that
/// others change is refused.
fn make_runtime_directory(path: &Path) -> Result<()> {
    umask(FileMode::WGRP | FileMode::WOTH);
    fs::create_dir_all(path)
        .with_context(|| format!("cannot create the runtime directory {}", path.display()))?;
    refuse_directory_of_others(path).context("cannot use the runtime directory")
}

/// Binds the admin sockets. A worker that was killed may have been about to run another program, in whose process its socket is
/// open for a moment longer.
async fn bind(sockets: &SocketSettings) -> Result<AdminServer, BindError> {
    let begun = Instant::now();
    loop {
        match AdminServer::bind(sockets) {
            Err(BindError::InUse { .. }) if begun.elapsed() < SOCKET_PATIENCE => sleep(SOCKET_PAUSE).await,
            bound => return bound,
        }
    }
}

/// What becomes of guests when the worker ends.
#[derive(Clone, Copy)]
enum Ending {
    /// They are stopped first.
    StopGuests,
    /// They go on in processes of their own.
    LeaveGuests,
}

impl Ending {
    fn of(vm_manager: &VmManager, stop_guests: bool) -> Self {
        if stop_guests || !vm_manager.vms_outlive_it() { Self::StopGuests } else { Self::LeaveGuests }
    }

    /// What the service manager is told: also how long to wait, so that its own timeout need not follow the settings.
    fn notice(self, stop_timeout: Duration) -> Vec<NotifyState<'static>> {
        let mut notice = vec![NotifyState::Stopping];
        match self {
            Self::StopGuests => {
                let longest = stop_timeout.saturating_add(STOP_MARGIN).as_micros();
                notice.push(NotifyState::ExtendTimeoutUsec(u32::try_from(longest).unwrap_or(u32::MAX)));
            }
            Self::LeaveGuests => {}
        }
        notice
    }

    fn as_text(self) -> &'static str {
        match self {
            Self::StopGuests => "guests are stopped; a second signal kills them",
            Self::LeaveGuests => "guests go on, and the next worker takes them over",
        }
    }
}

/// Where the worker is told things from.
struct Sources {
    file: Option<AssignmentsFile>,
    master: Option<MasterSettings>,
    /// What became of the configuration that was read last.
    reloaded: watch::Receiver<Reloaded>,
    /// Where it is told things by hand.
    runtime_dir: PathBuf,
    seccomp: Mode,
}

/// What works while the worker runs.
struct Parts {
    requests: watch::Sender<Option<AssignmentsFile>>,
    reconciler: JoinHandle<()>,
    source: JoinHandle<()>,
    /// To the master, where there is one.
    link: Option<JoinHandle<()>>,
    redial: Option<Arc<Notify>>,
    listening: Listening,
    serving: JoinHandle<()>,
    /// Dropped to end serving.
    ending: Option<watch::Sender<()>>,
    polling: Option<worker::vms::MetricsPolling>,
}

impl Parts {
    fn start(
        vm_manager: &Arc<VmManager>,
        server: AdminServer,
        sources: Sources,
        files: OpenFiles,
        ending: Ending,
    ) -> Self {
        let Sources { file, master, reloaded, runtime_dir, seccomp } = sources;
        let polling = vm_manager.start_metrics_polling();
        let (messages, channel) = mpsc::channel::<NodeMessage>(WAITING_STATES);
        let reconciler = tokio::spawn(
            Reconciler::new(Arc::clone(vm_manager), listened_to(file.is_some(), master.is_some()))
                .run(channel),
        );
        let link = master.map(|master| MasterLink::new(Arc::clone(vm_manager), messages.clone(), master));
        let (requests, requested) = watch::channel(file);
        let (states, state) = watch::channel(SourceState::default());
        let source = tokio::spawn(Source::new(requested, states).run(messages.clone()));
        let guests_outlive_worker = match ending {
            Ending::StopGuests => false,
            Ending::LeaveGuests => true,
        };
        let (ending, ended) = watch::channel(());
        let redial = link.as_ref().map(MasterLink::redial);
        let master = link.as_ref().map(status::Master::of);
        let listening = server.listening();
        let told = status::Told {
            assignments: state,
            master,
            listening: listening.clone(),
            reloaded,
            files,
            guests_outlive_worker,
            seccomp,
            runtime_dir,
        };
        let status = status::source(Arc::clone(vm_manager), told);
        let link = link.map(|link| tokio::spawn(link.run(until_closed(ended.clone()))));
        let served = Served { vm_manager: Arc::clone(vm_manager), node: messages, status };
        let serving = server.serve(served, files.clients(), until_closed(ended));
        let serving = tokio::spawn(serving);
        Self {
            requests,
            reconciler,
            source,
            link,
            redial,
            listening,
            serving,
            ending: Some(ending),
            polling: Some(polling),
        }
    }

    /// Has the master dialled at once where the link waits, and addresses bound that were not: what was wrong may be mended.
    fn try_again(&self) {
        if let Some(redial) = &self.redial {
            // Where nothing waits, the next wait must not be cut short for it.
            redial.notify_waiters();
        }
        self.listening.try_again();
    }

    /// Returns when something ended that should not have, with why. Cancel-safe.
    async fn lost(&mut self) -> anyhow::Error {
        tokio::select! {
            lost = &mut self.reconciler => lost_part("the reconciler", lost.err()),
            lost = &mut self.source => lost_part("the reader of assignments", lost.err()),
            lost = &mut self.serving => lost_part("the admin socket", lost.err()),
            lost = ended_link(&mut self.link) => lost_part("the link to the master", lost),
        }
    }

    /// No more is done than what was begun; questions are still answered.
    fn stop_taking(&mut self) {
        self.source.abort();
        self.reconciler.abort();
        self.polling = None;
    }

    /// Answers what was asked, and asks no longer.
    async fn end(mut self) {
        self.ending = None;
        if !self.serving.is_finished() {
            // Who is slower than that is cut off by the end of the process.
            let _ = timeout(LAST_ANSWERS, self.serving).await;
        }
    }
}

/// Stops all guests and takes the host's network down. Another signal meanwhile kills the guests.
async fn shut_down(vm_manager: &VmManager, endings: &mut Endings) -> Result<(), VmManagerError> {
    let down = vm_manager.shutdown_async();
    tokio::pin!(down);
    // The second arm only waits.
    tokio::select! {
        done = &mut down => return done,
        name = endings.next() => {
            warn!(signal = name, "guests are killed");
            vm_manager.kill_all();
        }
    }
    down.await
}

/// Returns when the link has ended, with why; never where there is none. Cancel-safe.
async fn ended_link(link: &mut Option<JoinHandle<()>>) -> Option<tokio::task::JoinError> {
    match link {
        Some(link) => link.await.err(),
        None => std::future::pending().await,
    }
}

/// Who may say what should run.
fn listened_to(has_file: bool, has_master: bool) -> BTreeSet<SourceKind> {
    let file = has_file.then_some(SourceKind::File);
    let master = has_master.then_some(SourceKind::Master);
    file.into_iter().chain(master).chain([SourceKind::Local]).collect()
}

fn lost_part(what: &str, cause: Option<impl Into<anyhow::Error>>) -> anyhow::Error {
    match cause {
        Some(cause) => cause.into().context(format!("{what} was lost")),
        None => anyhow::anyhow!("{what} ended too early"),
    }
}

/// Returns when the sender is gone.
async fn until_closed(mut ended: watch::Receiver<()>) {
    while ended.changed().await.is_ok() {}
}
