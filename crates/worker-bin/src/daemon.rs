//! `run`: the worker in the foreground, from its first log line to the last thing it takes down.

use std::fs;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use admin::{AdminServer, SOCKET_NAME};
use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::{error, info, warn};
use worker::node::{NodeMessage, Reconciler};
use worker::vms::{VmManager, VmManagerError};

use crate::cli::RunFlags;
use crate::settings::Settings;
use crate::{assignments, logging, settings};

/// Open files the process has room for without the kernel growing its table, which stalls a threaded process.
const FILES: u32 = 4096;
/// Desired states that may wait: only the newest matters.
const WAITING_STATES: usize = 4;
/// How long clients of the admin socket may take to get their last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Runs until a signal ends it.
pub(crate) fn run(flags: RunFlags, runtime_dir: Option<PathBuf>) -> Result<()> {
    let settings = Settings::load(flags, runtime_dir)?;
    logging::start(settings.log_format)?;
    make_room_for_files();
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(serve(settings))
}

/// A VM takes a few dozen descriptors, and the usual limit is 1,024.
fn make_room_for_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let room = worker::presize_fd_table(FILES);
    if raised.is_err() || !matches!(room, Ok(FILES..)) {
        warn!(?room, wanted = FILES, "the limit of open files is low; many VMs do not fit");
    }
}

async fn serve(settings: Settings) -> Result<()> {
    // Before anything is set up: a signal from now on ends the worker in order.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let assignments = settings.assignments.map(assignments::Watch::start).transpose()?;
    fs::create_dir_all(&settings.runtime_dir)
        .with_context(|| format!("cannot create the runtime directory {}", settings.runtime_dir.display()))?;
    let server = AdminServer::bind(&settings.runtime_dir.join(SOCKET_NAME))?;
    let vm_manager = Arc::new(VmManager::new_async(settings.manager).await.map_err(by_key)?);
    let polling = vm_manager.start_metrics_polling();
    let (ending, ended) = watch::channel(());

    let (messages, channel) = mpsc::channel::<NodeMessage>(WAITING_STATES);
    // Without a file the channel stays open all the same, so that the reconciler stays.
    let source = messages.clone();
    let mut reconciler = tokio::spawn(Reconciler::new(Arc::clone(&vm_manager)).run(channel));
    match assignments {
        Some(watch) => drop(tokio::spawn(watch.run(messages))),
        None => info!("no assignments file was given: VMs on record are kept as they were desired"),
    }
    let mut serving = tokio::spawn(server.serve(Arc::clone(&vm_manager), until_closed(ended)));
    notify(&[NotifyState::Ready]);
    info!("ready");

    let verdict = tokio::select! {
        name = first_signal(&mut terminate, &mut interrupt) => {
            info!(signal = name, "ending: guests are stopped; a second signal kills them");
            Ok(())
        }
        lost = &mut reconciler => Err(lost_part("the reconciler", lost.err())),
        done = &mut serving => Err(lost_part("the admin socket", match done {
            Ok(served) => served.err().map(anyhow::Error::from),
            Err(lost) => Some(lost.into()),
        })),
    };
    notify(&[NotifyState::Stopping]);
    reconciler.abort();
    drop((source, polling));
    let down = shut_down(&vm_manager, &mut terminate, &mut interrupt).await;
    drop(ending);
    if !serving.is_finished() {
        // Who is slower than that is cut off by the end of the process.
        let _ = timeout(LAST_ANSWERS, serving).await;
    }
    match (verdict, down.context("not everything was taken down")) {
        (Ok(()), Ok(())) => {
            info!("ended");
            Ok(())
        }
        (Err(problem), Ok(())) | (Ok(()), Err(problem)) => Err(problem),
        (Err(problem), Err(remains)) => {
            error!(error = format!("{remains:#}"), "ended");
            Err(problem)
        }
    }
}

/// Stops all guests and takes the host's network down. Another signal meanwhile kills the guests.
async fn shut_down(
    vm_manager: &VmManager,
    terminate: &mut Signal,
    interrupt: &mut Signal,
) -> Result<(), VmManagerError> {
    let down = vm_manager.shutdown_async();
    tokio::pin!(down);
    // The second arm only waits.
    tokio::select! {
        done = &mut down => return done,
        name = first_signal(terminate, interrupt) => {
            warn!(signal = name, "guests are killed");
            vm_manager.kill_all();
        }
    }
    down.await
}

fn lost_part(what: &str, cause: Option<impl Into<anyhow::Error>>) -> anyhow::Error {
    match cause {
        Some(cause) => cause.into().context(format!("{what} was lost")),
        None => anyhow::anyhow!("{what} ended too early"),
    }
}

/// Names a refused setting as the configuration file does.
fn by_key(problem: VmManagerError) -> anyhow::Error {
    match problem {
        VmManagerError::Setting { setting, value, expected } => {
            anyhow::anyhow!("invalid setting {} = {value:?}: {expected}", settings::key(setting))
        }
        problem => problem.into(),
    }
}

/// Returns when the sender is gone.
async fn until_closed(mut ended: watch::Receiver<()>) {
    while ended.changed().await.is_ok() {}
}

/// The name of the first signal to come. Both arms are cancel-safe.
async fn first_signal(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        received = terminate.recv() => if received.is_some() { "SIGTERM" } else { pending().await },
        received = interrupt.recv() => if received.is_some() { "SIGINT" } else { pending().await },
    }
}

/// Tells the service manager, if there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(problem) = sd_notify::notify(states) {
        warn!(%problem, "the service manager was not told");
    }
}
