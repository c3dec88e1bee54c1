//! What the guest reports by itself: texts on its console, and messages of its systemd. Each is watched by a task of its
//! own, which waits where the monitor has not taken earlier ones yet.

use std::time::SystemTime;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use vm_model::{MachineStatus, ProbeCheck};

use super::MonitorRequest;
use crate::console::{FileCursor, Markers, follow, poll};
use crate::notify::{NotifyError, NotifyListener, NotifyMessage};
use crate::targets::ConsoleTarget;

/// Reports that wait for the monitor.
const WAITING_MAX: usize = 16;

/// One report.
#[derive(Debug)]
pub(super) enum Report {
    /// The text of the probe at this place was found on the console.
    Marker(usize),
    /// Systemd sent this.
    Systemd(NotifyMessage),
}

/// The tasks, and what they bring.
#[derive(Debug)]
pub(super) struct Reports {
    markers: Markers,
    target: Option<ConsoleTarget>,
    /// How far files were read, where a console is read from files.
    cursor: Option<watch::Receiver<FileCursor>>,
    /// Of the present boot alone: what an earlier one found goes with its channel.
    found: Option<mpsc::Receiver<usize>>,
    console: JoinSet<()>,
    messages: Option<mpsc::Receiver<NotifyMessage>>,
    /// Holds the task that listens.
    _listening: JoinSet<()>,
}

impl Reports {
    /// Listens to systemd at once where a probe needs that; the console is watched from [`Reports::watch_console`] on.
    pub(super) fn new(request: &MonitorRequest) -> Result<Self, NotifyError> {
        let mut markers = Markers::default();
        for (place, probe) in request.spec.probes.iter().enumerate() {
            if let ProbeCheck::Console { marker } = &probe.check {
                markers.add(place, marker);
            }
        }
        let mut listening = JoinSet::new();
        let mut messages = None;
        if let Some(directory) = request.targets.vsock.as_ref().filter(|_| request.spec.listens_to_systemd())
        {
            let mut listener = NotifyListener::bind(directory)?;
            let (sender, receiver) = mpsc::channel(WAITING_MAX);
            messages = Some(receiver);
            listening.spawn(async move { while sender.send(listener.next().await).await.is_ok() {} });
        }
        let target = request.targets.console.clone();
        let console = JoinSet::new();
        Ok(Self { markers, target, cursor: None, found: None, console, messages, _listening: listening })
    }

    /// Watches the console of the boot that `status` is of.
    pub(super) fn watch_console(&mut self, status: &MachineStatus) {
        let cursor = match &self.target {
            Some(ConsoleTarget::Files { directory, after }) => Some(FileCursor::new(directory, *after)),
            Some(ConsoleTarget::Memory(_)) | None => None,
        };
        self.begin(status, cursor);
    }

    /// Watches the console of the boot after a reset.
    pub(super) fn rebooted(&mut self, status: &MachineStatus) {
        let before = self.cursor.take();
        let cursor = before.map(|cursor| cursor.borrow().after_reset(SystemTime::now()));
        self.begin(status, cursor);
    }

    fn begin(&mut self, status: &MachineStatus, cursor: Option<FileCursor>) {
        self.console.abort_all();
        if self.markers.is_empty() {
            return;
        }
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        self.found = Some(receiver);
        let markers = self.markers.clone();
        match (&self.target, cursor) {
            (Some(ConsoleTarget::Memory(recorder)), _) => {
                self.console.spawn(follow(recorder.clone(), status.console_start, markers, sender));
            }
            (Some(ConsoleTarget::Files { .. }), Some(cursor)) => {
                let (progress, seen) = watch::channel(cursor.clone());
                self.cursor = Some(seen);
                self.console.spawn(poll(cursor, markers, sender, progress));
            }
            (Some(ConsoleTarget::Files { .. }), None) | (None, _) => {}
        }
    }

    /// The next report; `None` where none can come any more. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Report> {
        // Tasks that have ended are taken off.
        while self.console.try_join_next().is_some() {}
        let (found, messages) = (&mut self.found, &mut self.messages);
        tokio::select! {
            Some(probe) = receive(found) => Some(Report::Marker(probe)),
            Some(message) = receive(messages) => Some(Report::Systemd(message)),
            else => None,
        }
    }
}

/// The next of a channel that may not be there.
async fn receive<T>(channel: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    channel.as_mut()?.recv().await
}
