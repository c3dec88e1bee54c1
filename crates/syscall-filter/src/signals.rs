//! Which signals a thread takes.
#![expect(unsafe_code, reason = "the C library sets the signals that a thread blocks")]

use std::mem;
use std::ptr;

use crate::tables::KICK;

/// Leaves the calling thread only what is meant for it: the signals that faults of its own raise, and the one that kicks
/// vCPUs out of their guests. What is sent to the process (SIGTERM, say) is then for its first thread, which may do what
/// handlers do; a handler that ran here would run under this thread's filter.
///
/// Threads that this one starts begin with what it blocks.
pub(crate) fn leave_to_first_thread() {
    // SAFETY: a set of signals is made of integers, for which zero is a valid value.
    let mut others: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: writes to a live set.
    unsafe { libc::sigfillset(&raw mut others) };
    let own = last_words::SIGNALS.into_iter().chain([libc::SIGTRAP, KICK.cast_signed()]);
    for signal in own {
        // SAFETY: writes to a live set; each is a signal's number.
        unsafe { libc::sigdelset(&raw mut others, signal) };
    }
    // It cannot fail: the operation is one that there is, and the set is valid.
    // SAFETY: reads a live set, and changes what this thread blocks alone.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const others, ptr::null_mut()) };
}
