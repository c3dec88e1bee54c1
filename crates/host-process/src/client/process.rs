//! A host process as the kernel knows it: whether it is there, and how it ended.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use last_words::signal_behind;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use vm_model::MachineExit;

use super::confinement::Confinement;
use super::exit_record::exit_status;
use super::hearsay::repeated;
use super::kernel_log::{MemoryKill, killed_for_memory};
use super::own_process::{OwnProcess, collect_ended};
use crate::awaited::watch;

/// What is said of a process whose end nobody tells of.
const GONE: &str = "is gone; how it ended cannot be known, as this worker did not start it";

/// A process that is watched. Dropping this does nothing to it.
#[derive(Debug)]
pub(super) struct WatchedProcess {
    pid: u32,
    pidfd: AsyncFd<OwnedFd>,
    parentage: Parentage,
    /// Since when it is watched, by the monotonic clock.
    since: Duration,
    /// What it said when a signal was about to end it.
    last_words: Option<String>,
}

/// Who collects how a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parentage {
    /// This process.
    Own,
    /// Another.
    Strange,
}

/// How a process ended, in words: "its host process 1234 was killed by SIGKILL".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProcessEnd {
    /// The kernel killed it because memory ran out.
    OutOfMemory(String),
    /// The kernel killed it at a limit of memory.
    MemoryLimit(String),
    /// In another way, or in one that is not known.
    Other(String),
}

impl ProcessEnd {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::OutOfMemory(text) | Self::MemoryLimit(text) | Self::Other(text) => text,
        }
    }

    /// What it is to a machine that the process ran.
    pub(super) fn exit(&self) -> MachineExit {
        match self {
            Self::OutOfMemory(text) => MachineExit::HostOutOfMemory(text.clone()),
            Self::MemoryLimit(text) => MachineExit::MemoryLimit(text.clone()),
            Self::Other(text) => MachineExit::HostLost(text.clone()),
        }
    }
}

impl WatchedProcess {
    /// Watches a child. As long as nobody collects it, its id is its own.
    pub(super) fn own(process: OwnProcess) -> io::Result<Self> {
        let watched = Self::open(process.pid(), Parentage::Own)?;
        process.let_go();
        Ok(watched)
    }

    /// Watches whoever has the id `pid` now.
    pub(super) fn stranger(pid: u32) -> io::Result<Self> {
        Self::open(pid, Parentage::Strange)
    }

    fn open(pid: u32, parentage: Parentage) -> io::Result<Self> {
        Ok(Self { pid, pidfd: open(pid)?, parentage, since: monotonic(), last_words: None })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns when the process is gone, with its memory and descriptors. Cancel-safe.
    pub(super) async fn gone(&self) {
        // Without a runtime's help nobody can wait, and nobody is left to.
        if self.pidfd.readable().await.map(|mut ready| ready.retain_ready()).is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends it.
    pub(super) fn kill(&self) {
        if let Err(errno) = pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            tracing::debug!(pid = self.pid, error = %io::Error::from(errno), "a process cannot be killed");
        }
    }

    /// Takes note of what it says of its end, as far as that is a line of plain text.
    pub(super) fn note_last_words(&mut self, text: &str) {
        self.last_words.get_or_insert_with(|| repeated(text));
    }

    /// How it ended, once it is gone. Of one that is no child this is known as far as the kernel tells.
    pub(super) async fn how_it_ended(&mut self, confinement: &Arc<Confinement>) -> ProcessEnd {
        let status = match self.parentage {
            Parentage::Own => collect_ended(self.pid),
            Parentage::Strange => exit_status(self.pid, self.pidfd.get_ref().as_fd()),
        };
        let (pid, since) = (self.pid, self.since);
        let may_be_for_memory = status.is_none_or(|status| status.signal() == Some(Signal::KILL.as_raw()));
        if may_be_for_memory {
            let (of_process, confinement) = (confinement.clone(), confinement.clone());
            let looking = move || {
                let told = killed_for_memory(pid, since);
                told.or_else(|| of_process.was_out_of_memory().then_some(MemoryKill::AtLimit { group: None }))
            };
            let kill = tokio::task::spawn_blocking(looking).await.ok().flatten();
            if let Some(kill) = kill {
                return memory_end(pid, &kill, &confinement);
            }
        }
        let how = status.map_or_else(|| GONE.to_owned(), describe);
        ProcessEnd::Other(match &self.last_words {
            Some(words) => format!("its host process {pid} {how}: {words}"),
            None => format!("its host process {pid} {how}"),
        })
    }
}

/// What it is called that the kernel killed process `pid` so.
fn memory_end(pid: u32, kill: &MemoryKill, confinement: &Confinement) -> ProcessEnd {
    let killed = format!("its host process {pid} was killed by the host's kernel");
    let group = match kill {
        MemoryKill::HostRanOut => return ProcessEnd::OutOfMemory(format!("{killed} because memory ran out")),
        MemoryKill::AtLimit { group } => group.as_deref().filter(|path| !confinement.is_at(path)),
    };
    ProcessEnd::MemoryLimit(match (group, confinement.memory_max()) {
        (Some(path), _) => {
            format!("{killed} at the memory limit of the control group {path}, which it is in")
        }
        (None, Some(limit)) => format!("{killed} at its memory limit of {limit}"),
        (None, None) => format!("{killed} at a memory limit"),
    })
}

fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}

fn open(pid: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    watch(pidfd_open(pid, PidfdFlags::NONBLOCK)?, Interest::READABLE)
}

fn describe(status: ExitStatus) -> String {
    // A process that no signal of its own can end exits for it.
    match (status.signal().or_else(|| status.code().and_then(signal_behind)), status.code()) {
        (Some(signal), _) => format!("was killed by {}", signal_name(signal)),
        (None, Some(code)) => format!("exited with status {code}"),
        (None, None) => GONE.to_owned(),
    }
}

/// The name of a signal that ends processes.
fn signal_name(number: i32) -> String {
    let named = [
        (Signal::KILL, "SIGKILL"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::BUS, "SIGBUS"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::ILL, "SIGILL"),
        (Signal::FPE, "SIGFPE"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::SYS, "SIGSYS"),
        (Signal::TERM, "SIGTERM"),
        (Signal::XCPU, "SIGXCPU"),
    ];
    let name = named.iter().find(|(signal, _)| signal.as_raw() == number);
    name.map_or_else(|| format!("signal {number}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_as_people_say_them() {
        assert_eq!(describe(ExitStatus::from_raw(9)), "was killed by SIGKILL");
        assert_eq!(describe(ExitStatus::from_raw(11 | 0x80)), "was killed by SIGSEGV");
        assert_eq!(describe(ExitStatus::from_raw(50)), "was killed by signal 50");
        assert_eq!(describe(ExitStatus::from_raw(3 << 8)), "exited with status 3");
        assert_eq!(describe(ExitStatus::from_raw((128 + 31) << 8)), "was killed by SIGSYS");
        assert_eq!(describe(ExitStatus::from_raw((128 + 1) << 8)), "exited with status 129");
    }
}
