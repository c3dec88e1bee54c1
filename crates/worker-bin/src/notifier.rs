//! What the service manager is told (`sd_notify`), by a thread of its own: a manager that does not read must not hold
//! the worker up.

use std::env;
use std::future::pending;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::warn;

/// Messages that may wait. The worker has a handful in its life.
const WAITING: usize = 8;
/// How long the end of the worker waits for the manager to take the last message.
const LAST_MESSAGE: Duration = Duration::from_secs(1);

/// When the service manager wants to hear again that the worker's tasks get on (`WatchdogSec=` of a service). It kills a
/// worker that is silent for twice as long; guests in host processes go on.
#[derive(Debug)]
pub(crate) struct Watchdog {
    interval: Option<Interval>,
}

impl Watchdog {
    /// Nothing is ever due where the service manager wants nothing. Must be called on a runtime.
    pub(crate) fn start() -> Self {
        let interval = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()).map(|limit| {
            let mut interval = interval(limit / 2);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        Self { interval }
    }

    /// Returns when it is time to tell. Cancel-safe.
    pub(crate) async fn due(&mut self) {
        match &mut self.interval {
            Some(interval) => {
                interval.tick().await;
            }
            None => pending().await,
        }
    }
}

/// What the service manager is told at once.
#[derive(Debug)]
enum Message {
    States(Vec<NotifyState<'static>>),
    /// What `systemctl status` shows.
    Status(String),
}

impl Message {
    fn send(&self) -> std::io::Result<()> {
        match self {
            Self::States(states) => sd_notify::notify(states),
            Self::Status(text) => sd_notify::notify(&[NotifyState::Status(text)]),
        }
    }
}

/// The way to the service manager; without one, messages go nowhere.
#[derive(Debug)]
pub(crate) struct Notifier {
    thread: Option<Sending>,
}

#[derive(Debug)]
struct Sending {
    messages: SyncSender<Message>,
    /// Closed when the last message was sent.
    ended: Receiver<()>,
}

impl Notifier {
    /// Starts the thread where there is a service manager (`NOTIFY_SOCKET`).
    pub(crate) fn start() -> Self {
        if env::var_os("NOTIFY_SOCKET").is_none_or(|path| path.is_empty()) {
            return Self { thread: None };
        }
        let (messages, waiting) = sync_channel::<Message>(WAITING);
        let (end, ended) = sync_channel::<()>(0);
        let spawned = thread::Builder::new().name("notify".to_owned()).spawn(move || {
            let _end = end;
            for message in waiting {
                if let Err(problem) = message.send() {
                    warn!(%problem, "the service manager was not told");
                }
            }
        });
        match spawned {
            Ok(_) => Self { thread: Some(Sending { messages, ended }) },
            Err(problem) => {
                warn!(%problem, "the service manager will not be told anything");
                Self { thread: None }
            }
        }
    }

    /// Tells the service manager `message`, in order. Never waits.
    pub(crate) fn tell(&self, states: Vec<NotifyState<'static>>) {
        self.pass(Message::States(states));
    }

    /// Has `systemctl status` show `text`, one line. Never waits.
    pub(crate) fn show(&self, text: String) {
        self.pass(Message::Status(text));
    }

    /// Whether there is anybody to tell.
    pub(crate) fn is_heard(&self) -> bool {
        self.thread.is_some()
    }

    fn pass(&self, message: Message) {
        if let Some(Sending { messages, .. }) = &self.thread
            && messages.try_send(message).is_err()
        {
            warn!("the service manager does not take what it is told");
        }
    }

    /// Waits a moment for the last messages to be taken.
    pub(crate) fn finish(self) {
        if let Some(Sending { messages, ended }) = self.thread {
            drop(messages);
            // Closed means done; after that time the message is lost with the process.
            let _ = ended.recv_timeout(LAST_MESSAGE);
        }
    }
}
