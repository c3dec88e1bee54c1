//! Process numbers of its own: a process is numbered anew by being forked into a namespace (pid_namespaces(7)).
//!
//! ```text
//!   who starts it ──▶ the program ── unshare ── clone(CLONE_PARENT) ──▶ the process that goes on: number 1 inside
//!        ▲                               │                                  ▲
//!        ├──────── "4712" ◀──────────────┤ tells both its number on the host│
//!        └──────── its end ◀─────────────┴──────────────────────────────────┘
//! ```
//!
//! The process that goes on is a child of whoever started the program, as the program was: it is collected, watched and
//! signalled by its number on the host. The program moves by itself, rather than being started in the namespace, because a
//! service manager's tool may come before it: `systemd-run` tells systemd its own number, and takes answers only of processes
//! that have one where it runs.
//!
//! The process that goes on knows its number on the host by being told, and sees no other process. It is the first of its
//! namespace, to which signals do nothing whose action is the default (pid_namespaces(7)), but SIGKILL and SIGSTOP from the
//! host and faults of its own.

use std::io::{self, PipeReader, Read, Write};
use std::process;
use std::ptr;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use thiserror::Error;

use crate::order::JailOrder;
use crate::report::{Gap, Layer};

/// Which process this is to the host, whatever it is called in its own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPid {
    /// Its number there.
    pub number: u32,
    /// Why it has no numbers of its own although they were ordered.
    pub(crate) gap: Option<Gap>,
}

/// Why no process goes on.
#[derive(Debug, Error)]
pub enum PidNamespaceError {
    /// The one that was to go on did not come to be.
    #[error("cannot {operation} for a PID namespace")]
    Prepare {
        /// What was tried.
        operation: &'static str,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
    /// It was not told its number: whoever started the program is gone.
    #[error("whoever started this process is not told which it is")]
    Untold(#[source] io::Error),
}

/// Goes on as the first process of a PID namespace, where `order` says so and the host lets it: this returns in another process
/// than the one that called it, which ends. Which one goes on is told on standard output before, as a line with its number on
/// the host; nothing is where the process stays what it is.
///
/// To be called before anything else: while this process has one thread, and before it tells anybody who it is.
///
/// # Errors
/// No process goes on. The host's refusal of a namespace is none: it becomes a gap of the jail.
pub fn enter_pid_namespace(order: Option<&JailOrder>) -> Result<HostPid, PidNamespaceError> {
    let unmoved = |gap| HostPid { number: process::id(), gap };
    if !order.is_some_and(|order| order.pid_namespace) {
        return Ok(unmoved(None));
    }
    if let Err(errno) = have_children_numbered_anew() {
        return Ok(unmoved(Some(Gap::of(Layer::PidNamespace, &io::Error::from(errno)))));
    }
    let failed = |operation| move |source| PidNamespaceError::Prepare { operation, source };
    let (told, mut teller) = io::pipe().map_err(failed("make a pipe"))?;
    match clone_sibling().map_err(|errno| failed("clone a process")(errno.into()))? {
        Clone::Original(sibling) => {
            // What the sibling is not told it takes as a reason to end.
            let number = sibling.as_raw_pid().unsigned_abs();
            let _ = writeln!(io::stdout(), "{number}").and_then(|()| teller.write_all(&number.to_ne_bytes()));
            end_at_once()
        }
        Clone::Sibling => {
            drop(teller);
            let number = hear_number(told).map_err(PidNamespaceError::Untold)?;
            Ok(HostPid { number, gap: None })
        }
    }
}

fn hear_number(mut told: PipeReader) -> io::Result<u32> {
    let mut number = [0; size_of::<u32>()];
    told.read_exact(&mut number)?;
    Ok(u32::from_ne_bytes(number))
}

#[expect(
    unsafe_code,
    reason = "the call can also take descriptors away from threads, which this one does not ask for"
)]
fn have_children_numbered_anew() -> Result<(), Errno> {
    // SAFETY: what is asked for is not the table of descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWPID) }
}

/// Which of two processes returns from [`clone_sibling`].
enum Clone {
    /// The one that called it, with the other's number.
    Original(Pid),
    /// The other.
    Sibling,
}

/// Forks a process whose parent is this one's. fork(3) knows no such child.
#[expect(unsafe_code, reason = "no safe call forks, and none of the C library's makes a sibling")]
fn clone_sibling() -> Result<Clone, Errno> {
    let mut flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    let place = place_of_thread_id();
    if !place.is_null() {
        flags |= libc::c_long::from(libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID);
    }
    let nothing = ptr::null_mut::<libc::c_void>();
    // SAFETY: nothing is shared with the new process, which goes on with a copy of all memory, on the same stack. This process
    // has one thread, so that no lock of the copy is held by a thread that is not there. The kernel writes to `place` in the
    // copy, which is the C library's for that.
    let cloned = unsafe { libc::syscall(libc::SYS_clone, flags, nothing, nothing, place, nothing) };
    match cloned {
        0 => Ok(Clone::Sibling),
        number => {
            let sibling = i32::try_from(number).ok().and_then(Pid::from_raw).filter(|_| number > 0);
            sibling
                .map(Clone::Original)
                .ok_or_else(|| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::AGAIN))
        }
    }
}

/// Where the C library keeps the number of this thread, to have the kernel write the new one there as fork(3) does; null
/// where it keeps it elsewhere, or the kernel does not tell (`CONFIG_CHECKPOINT_RESTORE`).
#[expect(unsafe_code, reason = "the kernel tells an address")]
fn place_of_thread_id() -> *mut libc::pid_t {
    let mut place = ptr::null_mut::<libc::pid_t>();
    // SAFETY: the kernel writes an address to a live variable.
    let told = unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut place) };
    // What a thread has the kernel clear at its end: glibc registers its number, musl something else.
    if told != 0 || place.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: the C library registered the address of four bytes of its own, which it keeps until the thread ends.
    let kept = unsafe { place.read_volatile() };
    if kept == rustix::thread::gettid().as_raw_pid() { place } else { ptr::null_mut() }
}

/// Ends this process without running what the other one is to run at its end.
#[expect(unsafe_code, reason = "the standard library knows no end without what runs at exits")]
fn end_at_once() -> ! {
    // SAFETY: takes no memory and does not return.
    unsafe { libc::_exit(0) }
}
