//! The tables: one a kind of thread, with a reason for what no ordinary run of tests makes.
//!
//! A call that is in the table of a kind because a kind that it starts makes it is not repeated here: see
//! [`crate::allowed`]. What threads do before they [`enter`](crate::enter) is done under their starter's filter and stands in
//! [`STARTING`].

mod devices;
mod files;
mod processes;

pub(crate) use devices::KICK;

use crate::call::{Call, Refusal, Value, call, refusal, value};
use crate::kind::ThreadKind;

/// Code that is written at run time is not run: no memory becomes executable.
const PROT_EXEC: u32 = libc::PROT_EXEC as u32;

/// `CLONE_*` of a thread as the C library makes it: everything shared, and nothing new but the thread.
const THREAD: u32 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u32;

const MEMORY: &str = "memory that grows or shrinks, as that of a panic's message does";
const GUARDS: &str = "a C library that protects the ends of stacks in this way, as glibc does from 2.42 on";
/// Builds with assertions look whether what they close is open.
const ASSERTIONS: &str = "builds with debug assertions";
const LAST: &str = "last words: the process dies of the signal that a fault raised";

/// Signals that a thread may send to threads of its own process: those that faults raise.
#[rustfmt::skip]
const FATAL: &[Value] = &[
    value!(SIGSYS).seldom(LAST),
    value!(SIGABRT).seldom(LAST),
    value!(SIGSEGV).seldom(LAST),
    value!(SIGBUS).seldom(LAST),
    value!(SIGILL).seldom(LAST),
    value!(SIGFPE).seldom(LAST),
];

/// What every thread needs: memory of its own, locks, what is open already, and an end.
#[rustfmt::skip]
pub(crate) const EVERY_THREAD: &[Call] = &[
    call!(SYS_read),
    call!(SYS_write),
    call!(SYS_close),
    call!(SYS_futex),
    // The allocator, and stacks for signals.
    call!(SYS_mmap).without(2, PROT_EXEC),
    call!(SYS_munmap),
    call!(SYS_mprotect).without(2, PROT_EXEC),
    call!(SYS_brk).seldom(MEMORY),
    call!(SYS_madvise).with(2, &[
        value!(MADV_DONTNEED),
        value!(MADV_GUARD_INSTALL = 102).seldom(GUARDS),
        value!(MADV_GUARD_REMOVE = 103).seldom(GUARDS),
    ]),
    call!(SYS_writev).seldom("what the C library says of a heap or a stack that it finds broken, before it gives up"),
    call!(SYS_rt_sigprocmask),
    call!(SYS_sigaltstack),
    call!(SYS_gettid),
    call!(SYS_exit),
    call!(SYS_exit_group).seldom("last words of the first process of a PID namespace, which signals do not end"),
    call!(SYS_rt_sigreturn).seldom("a signal that comes, which most threads never see"),
    call!(SYS_restart_syscall).seldom("a wait that a stop and a continuation interrupted"),
    call!(SYS_clock_gettime).seldom("a host whose clock cannot be read without a call"),
    call!(SYS_getpid).seldom(LAST),
    call!(SYS_tgkill).own_signal(FATAL),
];

/// What fails on a thread whose table does not allow it, for libraries that try it and do without.
pub(crate) const REFUSED: &[Refusal] = &[
    // Its flags lie in memory, where no filter sees them. The C library then makes its threads by `clone`.
    refusal!(SYS_clone3, ENOSYS),
    // The allocator asks once how the host overcommits memory, when it first gives some back; so do other parts of the C
    // library for processors. Each takes a file that cannot be opened as told nothing.
    refusal!(SYS_openat, EACCES),
    refusal!(SYS_sysinfo, ENOSYS),
    // A block that cannot be grown in its place is copied to another.
    refusal!(SYS_mremap, ENOMEM),
    // A thread that gives way gives way at its next wait.
    refusal!(SYS_sched_yield, ENOSYS),
    // Builds with assertions ask whether what they close is open, and take only one answer as no.
    refusal!(SYS_fcntl, EPERM),
    // A backtrace asks where the program and its working directory are, in a process that somebody starts with `RUST_BACKTRACE`.
    refusal!(SYS_readlink, EACCES),
    refusal!(SYS_getcwd, ENOENT),
];

/// What starting a thread takes, of both threads until the new one has its own filter.
#[rustfmt::skip]
pub(crate) const STARTING: &[Call] = &[
    call!(SYS_clone).with(0, &[value!(THREAD = THREAD)]),
    call!(SYS_set_robust_list),
    call!(SYS_rseq),
    call!(SYS_sched_getaffinity),
    call!(SYS_prctl).with(0, &[value!(PR_SET_NAME), value!(PR_SET_NO_NEW_PRIVS)]),
    call!(SYS_seccomp).with(0, &[value!(SECCOMP_SET_MODE_FILTER)]),
];

/// Which threads an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Every thread.
    Every,
    /// Those that start others, and the others until they have their own filter.
    Starting,
    /// Those of a kind.
    Own(ThreadKind),
}

/// Every entry of every table.
pub fn entries() -> impl Iterator<Item = (Scope, &'static Call)> {
    let own = ThreadKind::ALL.map(|kind| (Scope::Own(kind), own(kind)));
    let shared = [(Scope::Every, EVERY_THREAD), (Scope::Starting, STARTING)];
    shared.into_iter().chain(own).flat_map(|(scope, calls)| calls.iter().map(move |call| (scope, call)))
}

/// What threads of `kind` do beside what every thread does, without what those do that they start.
pub(crate) const fn own(kind: ThreadKind) -> &'static [Call] {
    match kind {
        ThreadKind::Main => processes::MAIN,
        ThreadKind::Machine => devices::MACHINE,
        ThreadKind::EventLoop => devices::EVENT_LOOP,
        ThreadKind::Vcpu => devices::VCPU,
        ThreadKind::Disk => devices::DISK,
        ThreadKind::Undertaker => devices::UNDERTAKER,
        ThreadKind::Console => files::CONSOLE,
        ThreadKind::Log => files::LOG,
        // They wait, and look at memory.
        ThreadKind::Watch | ThreadKind::Reaper => &[],
    }
}
