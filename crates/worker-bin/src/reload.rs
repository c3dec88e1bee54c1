//! SIGHUP: the assignments are read again, and of the configuration what can be taken without a restart.

use std::path::PathBuf;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::assignments::AssignmentsFile;
use crate::cli::RunFlags;
use crate::notifier::Notifier;
use crate::settings::{Settings, needing_restart};

/// What became of the configuration that was read last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reloaded {
    /// Why it was not taken; the one before is in force then.
    pub(crate) refused: Option<String>,
    /// Keys that have changed and hold after a restart.
    pub(crate) for_restart: Vec<&'static str>,
}

/// How the worker was called, and what it runs with.
pub(crate) struct Reload {
    flags: RunFlags,
    runtime_dir: Option<PathBuf>,
    in_force: Settings,
    requests: watch::Sender<Option<AssignmentsFile>>,
    told: watch::Sender<Reloaded>,
}

impl Reload {
    /// Reloads for a worker that was called with `flags` and `runtime_dir`, runs with `in_force`, and reads the
    /// assignments that `requests` names. What becomes of it is `told`.
    pub(crate) fn new(
        flags: RunFlags,
        runtime_dir: Option<PathBuf>,
        in_force: Settings,
        (requests, told): (watch::Sender<Option<AssignmentsFile>>, watch::Sender<Reloaded>),
    ) -> Self {
        Self { flags, runtime_dir, in_force, requests, told }
    }

    /// Reads everything again, tells in the log what was taken, and the service manager that it was done. Files that
    /// cannot be used change nothing.
    pub(crate) fn run(&mut self, notifier: &Notifier) {
        info!(signal = "SIGHUP", "reading configuration and assignments again");
        // Since systemd 253 a service says when its reload begins, with the time.
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            notifier.tell(vec![NotifyState::Reloading, now]);
        }
        match self.read() {
            Ok((settings, file)) => self.take(settings, file),
            Err(problem) => {
                let problem = format!("{problem:#}");
                error!(error = problem, "the configuration was not taken; the one in force stays");
                self.told.send_modify(|told| told.refused = Some(problem));
                self.requests.send_modify(|_| {});
            }
        }
        notifier.tell(vec![NotifyState::Ready]);
    }

    fn read(&self) -> anyhow::Result<(Settings, Option<AssignmentsFile>)> {
        let settings = Settings::load(self.flags.clone(), self.runtime_dir.clone())?.accepted()?;
        let file = settings.assignments.as_deref().map(AssignmentsFile::at).transpose()?;
        Ok((settings, file))
    }

    fn take(&mut self, settings: Settings, file: Option<AssignmentsFile>) {
        let waiting = needing_restart(&self.in_force, &settings);
        if !waiting.is_empty() {
            warn!(keys = waiting.join(", "), "these settings have changed and need a restart");
        }
        let is_other = self.in_force.assignments != settings.assignments;
        if is_other {
            let path =
                file.as_ref().map_or_else(|| "none".to_owned(), |file| file.path().display().to_string());
            info!(assignments = path, "this setting has changed and was taken");
        }
        if waiting.is_empty() && !is_other {
            info!("no setting has changed");
        }
        self.told.send_replace(Reloaded { refused: None, for_restart: waiting });
        self.in_force.assignments = settings.assignments;
        self.requests.send_replace(file);
    }
}
