//! The handler: from a signal to a fault, to words, to the process' end.
#![expect(unsafe_code, reason = "handlers of signals are installed and told by the C library")]

use std::ffi::{c_int, c_void};
use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::listeners::{tell_all, write_once};
use crate::speaker::Speaker;
use crate::words::{Fault, Words};

/// The signals that faults raise. Whoever filters a thread's system calls leaves it `tgkill` with these.
pub const SIGNALS: [c_int; 6] =
    [libc::SIGSYS, libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGILL, libc::SIGFPE];

/// What stands around the words in a message to a listener.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Before them.
    pub before: &'static [u8],
    /// After them.
    pub after: &'static [u8],
}

static FRAME: OnceLock<Frame> = OnceLock::new();

/// The thread that speaks for the process, once one does: there is one last word.
static SPEAKS: AtomicI32 = AtomicI32::new(0);

/// What a process exits with that a signal cannot end, beyond the signal's number: what shells say of one that it has ended.
const OF_SIGNALS: c_int = 128;
/// The number of the first process of a PID namespace, and of the host's own.
const FIRST: libc::pid_t = 1;

/// `SIGSYS` was raised by a filter (`SYS_SECCOMP` of sigaction(2)).
const OF_A_FILTER: c_int = 1;
/// `SIGBUS` was raised for broken memory (`BUS_MCEERR_AR` and `BUS_MCEERR_AO` of sigaction(2)).
const OF_BROKEN_MEMORY: [c_int; 2] = [4, 5];
/// An address this near to the end of the used stack is the stack's.
const NEAR_STACK: usize = 64 << 10;

/// What the kernel tells of a call that a filter trapped: `siginfo_t` with the fields of `SIGSYS` (sigaction(2)).
#[repr(C)]
struct TrappedCall {
    signal: c_int,
    error: c_int,
    code: c_int,
    padding: c_int,
    address: *mut c_void,
    number: c_int,
    architecture: u32,
}

/// Installs the handlers. Called once, before the first thread is started; a second call changes the frame of nothing.
///
/// They run on the stack for signals that the standard library gives each of its threads.
///
/// # Errors
/// The kernel refused.
pub fn install(frame: Frame) -> io::Result<()> {
    let _ = FRAME.set(frame);
    for signal in SIGNALS {
        // SAFETY: the structure is made of integers, an optional function pointer and a signal set, for all of which zero is
        // a valid value.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = speak;
        action.sa_sigaction = handler as libc::sighandler_t;
        // The handler's own end of the thread is the signal's default action.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
        // SAFETY: the handler has the signature that SA_SIGINFO asks for and is async-signal-safe; the structure is
        // initialised.
        if unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The signal for which a process ended by itself that exited with `code`, because a signal ends no process that is the first of
/// its PID namespace.
#[must_use]
pub fn signal_behind(code: c_int) -> Option<c_int> {
    let signal = code - OF_SIGNALS;
    (signal == libc::SIGKILL || SIGNALS.contains(&signal)).then_some(signal)
}

/// The handler of every signal.
extern "C" fn speak(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: takes nothing and always succeeds.
    let this = unsafe { libc::gettid() };
    match SPEAKS.compare_exchange(0, this, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            let mut message = Words::new();
            let words = Words::compose(&Speaker::of_this_thread(), fault(signal, info, context));
            let frame = FRAME.get().copied().unwrap_or(Frame { before: b"", after: b"" });
            for part in [frame.before, words.bytes(), frame.after] {
                message.raw(part);
            }
            if !tell_all(message.bytes()) {
                write_once(libc::STDERR_FILENO, words.bytes());
                write_once(libc::STDERR_FILENO, b"\n");
            }
        }
        // It failed while it spoke.
        Err(speaker) if speaker == this => {}
        // Another thread is about to end the process: it is not to be interrupted.
        Err(_) => loop {
            // SAFETY: takes nothing and always succeeds.
            unsafe { libc::sched_yield() };
        },
    }
    // SAFETY: takes nothing and always succeeds.
    let process = unsafe { libc::getpid() };
    if process == FIRST {
        // To this one signals do nothing whose action is the default (pid_namespaces(7)), and not every fault would come again.
        // SAFETY: takes no memory and does not return.
        unsafe { libc::_exit(OF_SIGNALS + signal) }
    }
    // It is delivered with the handler's return, before the thread does anything else.
    // SAFETY: no memory is involved.
    unsafe { libc::syscall(libc::SYS_tgkill, process, this, signal) };
}

/// What a signal stands for.
fn fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) -> Fault {
    // SAFETY: the kernel hands a handler with SA_SIGINFO what is valid until it returns.
    let told = unsafe { &*info };
    match signal {
        libc::SIGSYS if told.si_code == OF_A_FILTER => {
            // SAFETY: as above, and of this signal and code the kernel fills in these fields; `siginfo_t` is larger.
            let trapped = unsafe { &*info.cast::<TrappedCall>() };
            Fault::Call { number: i64::from(trapped.number) }
        }
        libc::SIGABRT if told.si_code != libc::SI_USER => Fault::Abort,
        // What a process sends has no address.
        _ if told.si_code <= 0 => {
            // SAFETY: of a signal that was sent the kernel fills this field in.
            Fault::Sent { signal, by: unsafe { told.si_pid() } }
        }
        libc::SIGBUS | libc::SIGSEGV => {
            // SAFETY: of these signals the kernel fills this field in.
            let address = unsafe { told.si_addr() } as usize;
            if OF_BROKEN_MEMORY.contains(&told.si_code) && signal == libc::SIGBUS {
                Fault::BrokenMemory { address }
            } else if signal == libc::SIGBUS {
                Fault::LostMemory { address }
            } else if address.abs_diff(stack_pointer(context)) < NEAR_STACK {
                Fault::Stack
            } else {
                Fault::Address { address }
            }
        }
        _ => Fault::Other { signal },
    }
}

/// How far the thread had used its stack.
#[expect(clippy::cast_possible_truncation, reason = "a register holds an address of this very machine")]
fn stack_pointer(context: *mut c_void) -> usize {
    // SAFETY: the kernel hands a handler with SA_SIGINFO the thread's state, valid until it returns.
    let state = unsafe { &*context.cast::<libc::ucontext_t>() };
    let registers = &state.uc_mcontext.gregs;
    registers.get(libc::REG_RSP as usize).map_or(0, |pointer| pointer.cast_unsigned() as usize)
}
