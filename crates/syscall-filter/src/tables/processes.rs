//! The process' first thread.

use super::ASSERTIONS;
use crate::call::{Call, call, value};
use crate::requests;

const COUNTERS: &str = "a worker that asks for the counters of a machine with interfaces";
const LONG: &str = "a message that does not fit a packet";

/// Speaks with workers, and reads the counters of machines.
#[rustfmt::skip]
pub(crate) const MAIN: &[Call] = &[
    call!(SYS_ioctl).with(1, requests::OF_MAIN),
    // Connections.
    call!(SYS_recvmsg),
    call!(SYS_sendmsg),
    call!(SYS_recvfrom),
    // Signals to the process come to this thread alone; the handler wakes it by its own socket.
    call!(SYS_sendto).seldom("a signal to the process"),
    call!(SYS_accept4),
    call!(SYS_listen),
    call!(SYS_getsockopt),
    call!(SYS_geteuid),
    call!(SYS_shutdown).seldom("a worker that does not keep to the rules"),
    call!(SYS_epoll_ctl),
    call!(SYS_epoll_wait),
    call!(SYS_eventfd2),
    call!(SYS_fcntl).with(1, &[
        value!(F_DUPFD_CLOEXEC),
        value!(F_GETFD).seldom(ASSERTIONS),
        value!(F_ADD_SEALS).seldom(LONG),
        value!(F_GET_SEALS).seldom(LONG),
    ]),
    call!(SYS_memfd_create).seldom(LONG),
    call!(SYS_pwrite64).seldom(LONG),
    call!(SYS_pread64),
    call!(SYS_fstat),
    call!(SYS_statx).seldom(LONG),
    call!(SYS_unlinkat),
    // Counters: of threads in /proc, of interfaces in /sys, of pages.
    call!(SYS_openat).seldom(COUNTERS),
    call!(SYS_lseek).seldom(COUNTERS),
    call!(SYS_mincore).seldom("a worker that asks for the counters of a machine with private memory"),
    call!(SYS_prctl).with(0, &[value!(PR_SET_NAME)]),
];
