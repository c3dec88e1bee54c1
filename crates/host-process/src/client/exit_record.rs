//! How a process ended that is nobody's child here: what the kernel still knows of it.
//!
//! A worker that took a host process over is not its parent and cannot wait for it. Two things tell all the same: the process
//! itself as long as its parent has not collected it (`/proc/<pid>/stat`, proc(5)), and its pidfd from then on
//! (`PIDFD_GET_INFO` with `PIDFD_INFO_EXIT`, from Linux 6.15 on). Where neither does, it cannot be known.

use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// Between the two looks the process may be collected.
const LOOKS: usize = 2;
/// That the pidfd tells how its process ended.
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// Of the fields of a process's line behind its name: which one the state is, and which one the exit status.
const STATE_FIELD: usize = 0;
const EXIT_CODE_FIELD: usize = 49;

/// `struct pidfd_info` of `linux/pidfd.h` in its first form, which every later kernel takes.
#[repr(C)]
#[derive(Debug, Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    /// Numbers of the process, its parent, its users and groups.
    numbers: [u32; 11],
    exit_code: i32,
}

const PIDFD_GET_INFO: Opcode = opcode::read_write::<PidfdInfo>(0xff, 11);

/// How the process `pid` ended, whose pidfd says that it has; `None` where it cannot be known.
pub(super) fn exit_status(pid: u32, pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    let raw = (0..LOOKS).find_map(|_| told_by_pidfd(pidfd).or_else(|| told_by_zombie(pid)));
    raw.map(ExitStatus::from_raw)
}

#[expect(
    unsafe_code,
    reason = "no crate knows this request; without it the end of what was taken over is not known"
)]
fn told_by_pidfd(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request's code has the size of `PidfdInfo`, so that the kernel reads and writes no more than that, and any
    // bytes are a value of it.
    let request = unsafe { Updater::<PIDFD_GET_INFO, PidfdInfo>::new(&mut info) };
    // SAFETY: the request does nothing but fill in `info`, which is borrowed until it returns. A kernel that does not know it,
    // or a descriptor that is no pidfd, answers with an error.
    unsafe { ioctl(pidfd, request) }.ok()?;
    (info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

fn told_by_zombie(pid: u32) -> Option<i32> {
    exit_code_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The exit status in the `stat` of a process, if that has ended. Zero stands for "not for you to know", too.
fn exit_code_in(stat: &str) -> Option<i32> {
    // A name may have anything in it, parentheses and spaces too.
    let (_, behind_name) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    let is_zombie = fields.get(STATE_FIELD) == Some(&"Z");
    let code = fields.get(EXIT_CODE_FIELD)?.parse().ok()?;
    (is_zombie && code != 0).then_some(code)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    fn stat(state: &str, code: i32) -> String {
        format!("17 (vm:a) b) {state} 1 17{} {code}\n", " 0".repeat(46))
    }

    #[test]
    fn the_status_of_a_zombie_is_the_last_field() {
        assert_eq!(exit_code_in(&stat("Z", 9)), Some(9));
        assert_eq!(exit_code_in(&stat("S", 9)), None, "it runs");
        assert_eq!(exit_code_in(&stat("Z", 0)), None);
        assert_eq!(exit_code_in("17 (x"), None);
        assert_eq!(exit_code_in(""), None);
    }

    #[test]
    fn how_a_process_ended_is_known_before_it_is_collected() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("started");
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("it is there");
        assert_eq!(exit_status(child.id(), pidfd.as_fd()), None, "it runs");
        child.kill().expect("it is ours");
        let wait = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut { wait }, None).expect("its end");
        let status = exit_status(child.id(), pidfd.as_fd()).expect("tests run as root");
        assert_eq!(status.signal(), Some(9));
        child.wait().expect("it is ours");
        // From Linux 6.15 on.
        let afterwards = exit_status(child.id(), pidfd.as_fd());
        assert!(afterwards.is_none_or(|status| status.signal() == Some(9)), "{afterwards:?}");
    }
}
