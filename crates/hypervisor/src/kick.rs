//! Breaking a vCPU out of the guest from another thread, without losing a kick and without touching a thread or a
//! mapping that is gone.
//!
//! # Protocol
//! A kick (1) sets the vCPU's `immediate_exit` byte, then (2) sends `SIGRTMIN` to the thread that the vCPU is
//! bound to, if there is one. `KVM_RUN` looks at the byte after entering the kernel and at pending signals before
//! entering the guest, so with any interleaving it ends:
//!
//! - signal before the thread enters the kernel: the handler does nothing, but the byte was set before the
//!   signal was sent, so `KVM_RUN` sees it;
//! - signal inside the kernel or the guest: it is pending, and `KVM_RUN` returns;
//! - no thread bound yet: the byte stays set until the first `KVM_RUN`.
//!
//! The vCPU's thread clears the byte when `KVM_RUN` has returned EINTR, with a swap that acquires what the kicker
//! wrote before its own swap. So whoever publishes a request and then kicks can rely on the vCPU's thread finding
//! the request after [`Exit::Interrupted`](crate::Exit::Interrupted).
//!
//! A kick that finds the byte set sends no second signal: an earlier one is on its way or the vCPU has yet to
//! enter `KVM_RUN`, and the vCPU's swap has not happened yet, so it will see this request too. This keeps at most
//! one queued signal a vCPU (real-time signals queue, and the queue is limited for each user).
//!
//! # What keeps it sound
//! One lock for each vCPU guards both the byte's address and the thread's id. Dropping the vCPU takes the address
//! away under it, before the area is unmapped; dropping the binding takes the thread's id away under it, before
//! the thread can end. A kicker holds the lock throughout and so never sees either after its end. A binding that
//! is leaked could at worst send the signal, whose handler does nothing, to a later thread of this process:
//! `tgkill` reaches no other.

#![expect(unsafe_code, reason = "signal handlers and thread-directed signals have no safe interface")]

use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::run_area::ImmediateExit;

/// How often a full signal queue is tried before the kick is left to the next one.
const SIGNAL_ATTEMPTS: u32 = 64;

/// Why the kick signal cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KickSignalError {
    /// Another part of the process handles the signal.
    #[error("signal {signal} (SIGRTMIN) has a handler already, but vCPUs are kicked by it")]
    Taken {
        /// The signal's number.
        signal: i32,
    },
    /// The kernel refused.
    #[error("{operation} signal {signal} (SIGRTMIN) failed")]
    Refused {
        /// `reading the handler of`, `installing the handler of` or `unblocking`.
        operation: &'static str,
        /// The signal's number.
        signal: i32,
        /// What the kernel answered.
        #[source]
        source: Arc<io::Error>,
    },
}

extern "C" fn do_nothing(_signal: libc::c_int) {}

/// Installs the handler of the kick signal, once for the process; later calls repeat the first one's answer.
/// Binding a vCPU to a thread calls it; calling it early only brings a refusal forward.
///
/// The handler does nothing and restarts what it interrupts, as far as the kernel can. `SIGRTMIN` is the one
/// signal that this crate touches.
///
/// # Errors
/// [`KickSignalError`] when the signal is in use by someone else, or the kernel refuses.
pub fn install_kick_signal() -> Result<(), KickSignalError> {
    static INSTALLED: OnceLock<Result<(), KickSignalError>> = OnceLock::new();
    INSTALLED.get_or_init(install).clone()
}

fn install() -> Result<(), KickSignalError> {
    let signal = libc::SIGRTMIN();
    let refused = |operation| KickSignalError::Refused {
        operation,
        signal,
        source: Arc::new(io::Error::last_os_error()),
    };
    let mut present = empty_action();
    // SAFETY: a null new action only asks for the present one, which is written to a live structure.
    if unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut present) } != 0 {
        return Err(refused("reading the handler of"));
    }
    if present.sa_sigaction != libc::SIG_DFL && present.sa_sigaction != libc::SIG_IGN {
        return Err(KickSignalError::Taken { signal });
    }
    let mut action = empty_action();
    let handler: extern "C" fn(libc::c_int) = do_nothing;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler has the signature that flags without SA_SIGINFO ask for and is trivially
    // async-signal-safe; the structure is initialised.
    if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(refused("installing the handler of"));
    }
    Ok(())
}

fn empty_action() -> libc::sigaction {
    // SAFETY: the structure is made of integers, an optional function pointer and a signal set, for all of which
    // zero is a valid value (default action, empty set, no flags).
    unsafe { std::mem::zeroed() }
}

fn unblock_on_this_thread() -> Result<(), KickSignalError> {
    let signal = libc::SIGRTMIN();
    let mut set = empty_action().sa_mask;
    // SAFETY: writes to a live signal set; the number is a valid signal.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: reads a live signal set and changes this thread's mask alone.
    let errno = unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
    if errno == 0 {
        return Ok(());
    }
    let source = Arc::new(io::Error::from_raw_os_error(errno));
    Err(KickSignalError::Refused { operation: "unblocking", signal, source })
}

/// What a vCPU, its binding and its kickers share.
#[derive(Debug)]
pub(crate) struct KickTarget {
    /// Whether the vCPU's thread can be kicked, and how; see the module's description. Never held across anything that blocks.
    state: Mutex<State>,
    /// [`thread_token`] of the thread that the vCPU is bound to, 0 for none. Compared, never followed.
    bound: AtomicUsize,
}

#[derive(Debug)]
struct State {
    /// `None` once the vCPU is dropped.
    immediate_exit: Option<ImmediateExit>,
    /// The kernel's id of the bound thread.
    thread: Option<libc::pid_t>,
    /// The byte was set but the signal could not be queued: the next kick must send it.
    signal_owed: bool,
}

impl KickTarget {
    pub(crate) fn new(immediate_exit: ImmediateExit) -> Self {
        let state = State { immediate_exit: Some(immediate_exit), thread: None, signal_owed: false };
        Self { state: Mutex::new(state), bound: AtomicUsize::new(0) }
    }

    /// Forgets the vCPU; to be called before its area is unmapped.
    pub(crate) fn retire(&self) {
        self.lock().immediate_exit = None;
    }

    pub(crate) fn is_bound_to_current_thread(&self) -> bool {
        self.bound.load(Ordering::Relaxed) == thread_token()
    }

    /// Binds to the calling thread; `None` when bound already.
    pub(crate) fn bind(self: &Arc<Self>) -> Result<Option<ThreadBinding>, KickSignalError> {
        install_kick_signal()?;
        unblock_on_this_thread()?;
        let mut state = self.lock();
        if state.thread.is_some() {
            return Ok(None);
        }
        // SAFETY: takes nothing and cannot fail.
        state.thread = Some(unsafe { libc::gettid() });
        self.bound.store(thread_token(), Ordering::Relaxed);
        Ok(Some(ThreadBinding { target: Arc::clone(self), not_send: PhantomData }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every update of the state is a single assignment: a panic elsewhere cannot leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An address that differs between all living threads and costs no system call; never 0.
fn thread_token() -> usize {
    thread_local!(static TOKEN: u8 = const { 0 });
    TOKEN.with(|token| std::ptr::from_ref(token).addr())
}

/// Keeps a vCPU bound to the thread that made this, so that kicks reach it there. Drop it on that thread when the
/// vCPU has run for the last time (or is to move).
#[derive(Debug)]
#[must_use = "the vCPU is bound for as long as this lives"]
pub struct ThreadBinding {
    target: Arc<KickTarget>,
    not_send: PhantomData<*const ()>,
}

impl Drop for ThreadBinding {
    fn drop(&mut self) {
        self.target.bound.store(0, Ordering::Relaxed);
        self.target.lock().thread = None;
    }
}

/// Breaks a vCPU out of the guest, from any thread and at any time in the vCPU's life or after it.
#[derive(Debug, Clone)]
pub struct VcpuKicker {
    target: Arc<KickTarget>,
}

impl VcpuKicker {
    pub(crate) fn new(target: Arc<KickTarget>) -> Self {
        Self { target }
    }

    /// Makes the vCPU's present or next [`run`](crate::Vcpu::run) return
    /// [`Exit::Interrupted`](crate::Exit::Interrupted). Publish the request to the vCPU
    /// before. Several kicks before the vCPU looks count as one; a kick after its end does nothing.
    ///
    /// When the user's signal queue is full for long, the exit may be delayed until the next kick: a caller
    /// that waits for the vCPU kicks again after a while.
    pub fn kick(&self) {
        let mut state = self.target.lock();
        let Some(immediate_exit) = state.immediate_exit else {
            return;
        };
        // SAFETY: the address is there, so the vCPU is not retired; it cannot be before the lock is released.
        let flag = unsafe { immediate_exit.as_atomic() };
        let already_kicked = flag.swap(1, Ordering::AcqRel) != 0;
        if already_kicked && !state.signal_owed {
            return;
        }
        if let Some(thread) = state.thread {
            state.signal_owed = !signal_thread(thread);
        }
    }
}

/// Sends the kick signal to a thread of this process; false when the signal could not be queued.
fn signal_thread(thread: libc::pid_t) -> bool {
    // SAFETY: takes nothing and cannot fail.
    let process = unsafe { libc::getpid() };
    for _ in 0..SIGNAL_ATTEMPTS {
        // SAFETY: the request takes three integers. The thread is alive: its binding cannot be dropped before the
        // caller releases the lock.
        let result = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGRTMIN()) };
        if result == 0 {
            return true;
        }
        std::thread::yield_now();
    }
    false
}
