//! Processes that this one has to collect: programs that it started, and those that go on in place of them.
//!
//! A program that is to have process numbers of its own goes on in another process, a child of this one as well, and ends: see
//! [`jail::enter_pid_namespace`]. Its standard output says which, as a line with a number, or nothing where it goes on itself.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process, waitid};
use tokio::io::Interest;

use crate::awaited::watch;

/// The most bytes of a line with a number.
const LINE_MAX: usize = 16;

/// A child of this process that nobody else collects, so that its number is its own. It is killed and collected where this is
/// dropped.
#[derive(Debug)]
pub(super) struct OwnProcess {
    pid: Pid,
    is_held: bool,
}

/// Which process goes on as a program that was started.
#[derive(Debug)]
pub(super) struct Succession {
    /// The process that goes on.
    pub(super) process: OwnProcess,
    /// The program's own, which ends, where that is another.
    pub(super) predecessor: Option<OwnProcess>,
}

impl OwnProcess {
    pub(super) fn of(child: Child) -> Self {
        Self { pid: Pid::from_child(&child), is_held: true }
    }

    /// The child that has the number `pid`.
    fn numbered(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        // Answered for children alone.
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)?;
        Ok(Self { pid, is_held: true })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// Waits for its end. Blocks.
    pub(super) fn wait(mut self) -> io::Result<ExitStatus> {
        self.is_held = false;
        collect(self.pid, WaitIdOptions::EXITED)?.ok_or_else(|| Errno::CHILD.into())
    }

    /// Leaves it to whoever collects it by its number from now on.
    pub(super) fn let_go(mut self) {
        self.is_held = false;
    }
}

impl Drop for OwnProcess {
    fn drop(&mut self) {
        if self.is_held {
            // It has no machines and its connection is closed: it is about to end by itself.
            let _ = kill_process(self.pid, Signal::KILL);
            let _ = collect(self.pid, WaitIdOptions::EXITED);
        }
    }
}

/// Collects the child `pid` if it has ended.
pub(super) fn collect_ended(pid: u32) -> Option<ExitStatus> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    collect(pid, WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok().flatten()
}

fn collect(pid: Pid, options: WaitIdOptions) -> io::Result<Option<ExitStatus>> {
    let status = rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), options))?;
    Ok(status.as_ref().and_then(raw_status).map(ExitStatus::from_raw))
}

/// The status as wait(2) gives it.
fn raw_status(status: &WaitIdStatus) -> Option<i32> {
    status.terminating_signal().or_else(|| status.exit_status().map(|code| code << 8))
}

/// Waits until it is known which process goes on as `program`, whose standard output is `told` where it may be another.
pub(super) async fn succession(program: OwnProcess, told: Option<OwnedFd>) -> io::Result<Succession> {
    let successor = match told {
        Some(told) => read_successor(told).await?,
        None => None,
    };
    with_successor(program, successor)
}

/// As [`succession`], where all that the program said is read: with the rest of it.
pub(super) fn succession_in(program: OwnProcess, text: &str) -> io::Result<(Succession, &str)> {
    let (successor, rest) = match text.split_once('\n').filter(|(line, _)| !line.is_empty()) {
        Some((line, rest)) if line.bytes().all(|byte| byte.is_ascii_digit()) => (parse(line)?, rest),
        Some(_) | None => (None, text),
    };
    Ok((with_successor(program, successor)?, rest))
}

fn with_successor(program: OwnProcess, successor: Option<u32>) -> io::Result<Succession> {
    Ok(match successor {
        None => Succession { process: program, predecessor: None },
        Some(pid) => Succession { process: OwnProcess::numbered(pid)?, predecessor: Some(program) },
    })
}

async fn read_successor(told: OwnedFd) -> io::Result<Option<u32>> {
    rustix::io::ioctl_fionbio(&told, true)?;
    let told = watch(told, Interest::READABLE)?;
    let mut line = [0; LINE_MAX];
    let mut length = 0;
    while length < LINE_MAX && !line[..length].ends_with(b"\n") {
        let mut ready = told.readable().await?;
        match rustix::io::read(told.get_ref(), &mut line[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let line = std::str::from_utf8(&line[..length]);
    parse(line.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?)
}

/// The number in a line; none in an empty one.
fn parse(line: &str) -> io::Result<Option<u32>> {
    let number = line.trim_end_matches('\n');
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    if number.is_empty() { Ok(None) } else { number.parse().map(Some).map_err(invalid) }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn start(script: &str) -> (OwnProcess, OwnedFd) {
        let mut child =
            Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().expect("started");
        let told = child.stdout.take().expect("a pipe");
        (OwnProcess::of(child), told.into())
    }

    #[tokio::test]
    async fn a_program_that_says_nothing_goes_on_itself() {
        let (program, told) = start("exec >&-; sleep 60");
        let pid = program.pid();
        let Succession { process, predecessor } = succession(program, Some(told)).await.expect("known");
        assert_eq!((process.pid(), predecessor.is_none()), (pid, true));
        drop(process);
        assert_eq!(collect_ended(pid), None, "it was collected");
    }

    #[tokio::test]
    async fn who_goes_on_has_to_be_a_child() {
        for line in ["1", "x", "-1", "99999999999999999999"] {
            let (program, told) = start(&format!("echo {line}"));
            succession(program, Some(told)).await.expect_err(line);
        }
        let (other, _) = start("exit 7");
        let (program, told) = start(&format!("echo {}; exit 3", other.pid()));
        let Succession { process, predecessor } = succession(program, Some(told)).await.expect("known");
        assert_eq!(process.pid(), other.pid());
        // It is told of twice.
        other.let_go();
        assert_eq!(predecessor.expect("another").wait().expect("it is ours").code(), Some(3));
        assert_eq!(process.wait().expect("it is ours").code(), Some(7));
    }

    #[test]
    fn what_is_said_after_the_number_is_kept() {
        for (text, rest) in [("{}\n", "{}\n"), ("{}", "{}"), ("", ""), ("\nx", "\nx")] {
            let (program, _) = start("exit 0");
            let (succession, said) = succession_in(program, text).expect("known");
            assert_eq!((said, succession.predecessor.is_none()), (rest, true), "{text:?}");
        }
        let (program, _) = start("exit 0");
        let text = format!("{}\n{{}}", program.pid());
        let (succession, said) = succession_in(program, &text).expect("known");
        assert_eq!(said, "{}");
        // It is told of twice.
        succession.process.let_go();
    }

    #[test]
    fn an_end_is_told_as_it_was() {
        let (killed, _) = start("kill -KILL $$");
        assert_eq!(killed.wait().expect("it is ours").signal(), Some(9));
    }
}
