//! What each signal does to the worker. None but SIGKILL and SIGSTOP, which nobody can refuse, and those of a fault of its
//! own does anything to its guests by accident.
//!
//! | signals | what follows |
//! |---|---|
//! | TERM, INT, QUIT | the worker ends in order; a second one kills the guests |
//! | HUP | assignments and configuration are read again |
//! | PIPE | ignored: who does not read is told of by the failed write |
//! | TTIN, TTOU | blocked: a terminal that belongs to another job stops nobody |
//! | TSTP, USR1, USR2, ALRM and all others that would end or stop a process | logged and ignored |

use std::future::pending;
use std::io;

use anyhow::{Result, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tracing::warn;
use vmm_sys_util::signal::{Error as BlockError, SIGRTMAX, SIGRTMIN, block_signal};

/// Linux' numbers of signals that a process does not expect and that would end or stop it (signal(7)).
const UNEXPECTED: [(i32, &str); 11] = [
    (10, "SIGUSR1"),
    (12, "SIGUSR2"),
    (14, "SIGALRM"),
    (16, "SIGSTKFLT"),
    (20, "SIGTSTP"),
    (24, "SIGXCPU"),
    // A file that has reached the limit of its size: the write fails, and whoever writes says so.
    (25, "SIGXFSZ"),
    (26, "SIGVTALRM"),
    (27, "SIGPROF"),
    (29, "SIGIO"),
    (30, "SIGPWR"),
];
/// SIGTTIN and SIGTTOU.
const OF_TERMINALS: [i32; 2] = [21, 22];

/// Lets no terminal stop the process. Called while it has one thread: those to come do as it does.
///
/// # Errors
/// The host refuses.
pub(crate) fn block_terminal_stops() -> Result<()> {
    for number in OF_TERMINALS {
        match block_signal(number) {
            Ok(()) | Err(BlockError::SignalAlreadyBlocked(_)) => {}
            Err(problem) => bail!("cannot block signal {number}: {problem}"),
        }
    }
    Ok(())
}

/// Signals that end the worker.
#[derive(Debug)]
pub(crate) struct Endings {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Endings {
    /// From now on these signals are heard. Must be called on a runtime.
    ///
    /// # Errors
    /// The host refuses.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The name of the next one. All arms are cancel-safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            received = self.terminate.recv() => if received.is_some() { "SIGTERM" } else { pending().await },
            received = self.interrupt.recv() => if received.is_some() { "SIGINT" } else { pending().await },
            received = self.quit.recv() => if received.is_some() { "SIGQUIT" } else { pending().await },
        }
    }
}

/// Hears the signals that nothing follows from, for as long as it lives; they do nothing afterwards either.
#[derive(Debug)]
pub(crate) struct Unexpected {
    _listening: JoinSet<()>,
}

impl Unexpected {
    /// From now on these signals only leave a line in the log. Must be called on a runtime.
    ///
    /// # Errors
    /// The host refuses.
    pub(crate) fn listen() -> io::Result<Self> {
        let mut listening = JoinSet::new();
        let named = UNEXPECTED.map(|(number, name)| (number, name.to_owned()));
        // The first real-time signal is how vCPUs are kicked, and has a handler of theirs.
        let real_time = (SIGRTMIN() + 1..=SIGRTMAX()).map(|number| (number, format!("signal {number}")));
        for (number, name) in named.into_iter().chain(real_time) {
            let mut stream = signal(SignalKind::from_raw(number))?;
            listening.spawn(async move {
                while stream.recv().await.is_some() {
                    warn!(signal = name, "ignored: the worker has no use for this signal");
                }
            });
        }
        Ok(Self { _listening: listening })
    }
}
