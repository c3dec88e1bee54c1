//! The `procurator-master` program: command line, log, signals. Everything else is in the library.

#![forbid(unsafe_code)]

mod cli;

use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use master_protocol::drivers::MasterTransport;
use master_protocol::tls::{CredentialStore, TlsFiles};
use procurator_master::control::{Answer, ControlError, Question, ask, ask_vms};
use procurator_master::fleet::WorkerStatus;
use procurator_master::serve::{Settings, serve};
use procurator_master::{certificates, render};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;
use vm_model::{Timestamp, printable_json};

use crate::cli::{Cli, LogFormat, RunFlags, Shown, Verb};

/// Exit code when no master answers (`EX_UNAVAILABLE` of sysexits.h).
const UNREACHABLE: u8 = 69;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = match runtime.context("cannot start the runtime") {
        Ok(runtime) => runtime.block_on(act(cli)),
        Err(problem) => Err(problem),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // Where standard error is closed, the exit code has to do.
            let _ = writeln!(std::io::stderr(), "procurator-master: {problem:#}");
            match problem.downcast_ref::<ControlError>() {
                Some(ControlError::Unreachable { .. }) => ExitCode::from(UNREACHABLE),
                Some(_) | None => ExitCode::FAILURE,
            }
        }
    }
}

async fn act(cli: Cli) -> Result<()> {
    let state_dir = cli.state_dir;
    match cli.verb {
        Verb::Run(flags) => run(flags, &state_dir).await,
        Verb::Workers(shown) => {
            let workers = workers(&state_dir).await?;
            show(&workers, shown, |workers| render::workers(workers, Timestamp::now()))
        }
        Verb::Ls { worker, shown } => {
            let mut workers = workers(&state_dir).await?;
            if let Some(worker) = worker {
                workers.retain(|known| known.worker == worker);
                if workers.is_empty() {
                    bail!("worker {worker} has no file, and was not heard of");
                }
            }
            let mut listed = Vec::with_capacity(workers.len());
            for status in workers {
                listed.push(ask_vms(&state_dir, status).await?);
            }
            show(&listed, shown, render::vms)
        }
        Verb::Drain { worker } => done(ask(&state_dir, &Question::Drain(worker)).await?),
        Verb::Undrain { worker } => done(ask(&state_dir, &Question::Undrain(worker)).await?),
        Verb::Certificates { directory, master, workers } => {
            let files = certificates::make(&directory, &master, &workers)?;
            let lines: Vec<String> = files.iter().map(|file| format!("{}\n", file.display())).collect();
            print(&lines.concat())
        }
    }
}

async fn workers(state_dir: &Path) -> Result<Vec<WorkerStatus>> {
    match ask(state_dir, &Question::Workers).await? {
        Answer::Workers(workers) => Ok(workers),
        Answer::Problem(problem) => bail!(problem),
        Answer::Vms(_) | Answer::Done => {
            bail!("the master gave another answer than was asked for: is it of this version?")
        }
    }
}

fn done(answer: Answer) -> Result<()> {
    match answer {
        Answer::Done => Ok(()),
        Answer::Problem(problem) => bail!(problem),
        Answer::Workers(_) | Answer::Vms(_) => {
            bail!("the master gave another answer than was asked for: is it of this version?")
        }
    }
}

fn show<T: Serialize>(workers: &[T], shown: Shown, table: impl Fn(&[T]) -> String) -> Result<()> {
    if shown.json {
        return print(&format!("{}\n", printable_json(&serde_json::to_string_pretty(workers)?)));
    }
    print(&table(workers))
}

fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever read has read enough.
        Err(problem) if problem.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

async fn run(flags: RunFlags, state_dir: &Path) -> Result<()> {
    start_log(flags.log_format)?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
    made.with_context(|| format!("cannot make {}", state_dir.display()))?;
    let _lock = lock(state_dir)?;
    let (transport, certified) = transport(&flags)?;
    let name = flags.name.or(certified).unwrap_or_else(|| "master".to_owned());
    let settings = Settings {
        listen: flags.listen,
        transport,
        name,
        heartbeat: Duration::from_secs(flags.heartbeat),
        state_dir: state_dir.to_owned(),
        desired: flags.desired,
    };
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let (listening, _) = oneshot::channel();
    serve(settings, listening, async {
        // Both arms are cancel-safe.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await?;
    Ok(())
}

/// How workers are let in, and the name in the master's certificate.
fn transport(flags: &RunFlags) -> Result<(MasterTransport, Option<String>)> {
    let (Some(certificate), Some(key), Some(authorities)) = (&flags.cert, &flags.key, &flags.ca) else {
        return Ok((MasterTransport::Plain(flags.plain_tcp.unwrap_or_default()), None));
    };
    let files =
        TlsFiles { certificate: certificate.clone(), key: key.clone(), authorities: authorities.clone() };
    let credentials = CredentialStore::open(files)?;
    let current = credentials.current();
    current.check_dates(Timestamp::now())?;
    let name = current.facts().dns_names.first().cloned();
    Ok((MasterTransport::Tls(Arc::new(credentials)), name))
}

/// Two masters with one state would give numbers out twice.
fn lock(state_dir: &Path) -> Result<File> {
    let path = state_dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).with_context(|| {
        format!("cannot lock {}: does another master run with this state?", path.display())
    })?;
    Ok(file)
}

fn start_log(format: LogFormat) -> Result<()> {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing_subscriber::filter::LevelFilter::INFO.into())
        .with_env_var("PROCURATOR_LOG")
        .from_env()
        .context("invalid PROCURATOR_LOG")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Human => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
