//! A host without `io_uring`, as far as one thread and those that it starts can see.

#![expect(unsafe_code, reason = "a filter of system calls is handed to the kernel by its address")]

use std::thread;

/// What the kernel runs for each system call: the number, and whether it is the one.
const FILTER: [libc::sock_filter; 4] = [
    // The call's number is the first word of what the filter sees.
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
    statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, IO_URING_SETUP),
    statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | NO_SUCH_CALL),
    statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
];
/// The same on every architecture.
const IO_URING_SETUP: u32 = 425;
const NO_SUCH_CALL: u32 = libc::ENOSYS.unsigned_abs();

#[expect(clippy::cast_possible_truncation, reason = "the operations are 16-bit numbers")]
const fn statement(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// Runs `test` on a thread that has no `io_uring`. Nor have the threads and programs that it starts.
///
/// # Panics
///
/// Where this is not root, and where the test panics.
pub fn without_io_uring(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(move || {
        let mut filter = FILTER;
        let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
        // SAFETY: the kernel copies the filter, which lives until this returns, and applies it to this thread.
        let installed =
            unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0) };
        assert_eq!(installed, 0, "these tests are run as root: {}", std::io::Error::last_os_error());
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
