//! The threads of one machine.

use super::ASSERTIONS;
use crate::call::{Call, call, value};
use crate::requests;

const SOCKETS: &str = "a guest that uses its socket device";
const NETWORK: &str = "an interface on a TAP, which native test runs do not have";
const WITHOUT_RING: &str = "a host without io_uring";
const NOT_RAW: &str = "an image of another format than raw";

/// Runs the guest; devices are started, reset and ended on it, as their registers are written.
#[rustfmt::skip]
pub(crate) const VCPU: &[Call] = &[
    call!(SYS_ioctl).with(1, requests::OF_VCPU),
    call!(SYS_ioctl).with(1, requests::OF_DEVICES),
    // What KVM counted of it; a file that is open.
    call!(SYS_pread64),
    call!(SYS_eventfd2).seldom("an interrupt of a device that a driver sets up"),
    call!(SYS_timerfd_settime).seldom("a device with a timer: a watchdog, a balloon, a limit of rate"),
    call!(SYS_io_uring_enter).seldom("a reset of a disk that has transfers to hand on"),
];

/// Carries out transfers, one after the other, on files that are open.
#[rustfmt::skip]
pub(crate) const DISK: &[Call] = &[
    call!(SYS_preadv).seldom(WITHOUT_RING),
    call!(SYS_pwritev).seldom(WITHOUT_RING),
    call!(SYS_pread64).seldom(NOT_RAW),
    call!(SYS_fdatasync).seldom(WITHOUT_RING),
    call!(SYS_fallocate).seldom("a guest that discards or zeroes"),
    call!(SYS_lseek).seldom(NOT_RAW),
    call!(SYS_statx).seldom(NOT_RAW),
    call!(SYS_fstat).seldom(NOT_RAW),
];

/// Closes what a machine held, and waits for transfers of a disk.
#[rustfmt::skip]
pub(crate) const UNDERTAKER: &[Call] = &[
    call!(SYS_ioctl).with(1, requests::OF_UNDERTAKER),
    call!(SYS_io_uring_enter).seldom("a disk that did not answer in time"),
    call!(SYS_ppoll).seldom("a disk that did not answer in time"),
    call!(SYS_clock_nanosleep).seldom("a disk that did not answer in time"),
    // The socket of a machine with a socket device is removed, if it is still that one.
    call!(SYS_newfstatat).seldom(SOCKETS),
    call!(SYS_unlinkat).seldom(SOCKETS),
    call!(SYS_epoll_ctl).seldom(SOCKETS),
    call!(SYS_shutdown).seldom(SOCKETS),
];

/// Builds a machine, and starts what runs it. What it does of what an event loop does stands there.
#[rustfmt::skip]
pub(crate) const MACHINE: &[Call] = &[
    call!(SYS_ioctl).with(1, requests::OF_MACHINE),
    call!(SYS_epoll_create1),
    call!(SYS_eventfd2),
    call!(SYS_timerfd_create).seldom("a machine with limits of rate, a balloon or a watchdog"),
    // Guest memory.
    call!(SYS_memfd_create),
    call!(SYS_ftruncate),
    call!(SYS_fcntl).with(1, &[
        value!(F_DUPFD_CLOEXEC),
        value!(F_ADD_SEALS),
        value!(F_GETFD).seldom(ASSERTIONS),
        value!(F_GETFL).seldom("a machine with a disk or an interface"),
        value!(F_SETFL).seldom(NETWORK),
    ]),
    call!(SYS_madvise).with(2, &[
        value!(MADV_DONTFORK),
        value!(MADV_HUGEPAGE),
        value!(MADV_NOHUGEPAGE).seldom("private guest memory"),
        value!(MADV_MERGEABLE).seldom("private guest memory that is offered to merging"),
        value!(MADV_POPULATE_WRITE).seldom("guest memory that is there from the start"),
    ]),
    // What makes this machine's guest another than any other.
    call!(SYS_getrandom),
    // Files that it boots from and disks: they are open; the one that is opened is a disk's own file, past the cache.
    call!(SYS_openat).seldom("a disk that is read past the host's cache"),
    call!(SYS_lseek),
    call!(SYS_fstatfs).seldom(NOT_RAW),
    call!(SYS_io_uring_setup).seldom("a machine with a disk"),
    call!(SYS_io_uring_register).seldom("a machine with a disk"),
    // Where host programs find its guest's sockets; of this host alone.
    call!(SYS_socket).with(0, &[value!(AF_UNIX).seldom(SOCKETS)]),
    call!(SYS_bind).seldom(SOCKETS),
    call!(SYS_listen).seldom(SOCKETS),
    call!(SYS_fchmodat).seldom(SOCKETS),
    call!(SYS_newfstatat).seldom(SOCKETS),
    call!(SYS_unlinkat).seldom(SOCKETS),
    // vCPUs are kept to processors before they have a filter.
    call!(SYS_sched_setaffinity)
        .with(0, &[value!(OWN_THREAD = 0).seldom("a machine whose vCPUs are kept to processors, by themselves")]),
    call!(SYS_prctl).with(0, &[value!(PR_SCHED_CORE)]),
];

/// Serves the devices of a machine whose guest runs. What it works with is open, and no thread is started any more.
#[rustfmt::skip]
pub(crate) const EVENT_LOOP: &[Call] = &[
    call!(SYS_ioctl).with(1, requests::OF_DEVICES),
    call!(SYS_ioctl).with(1, requests::OF_EVENT_LOOP),
    call!(SYS_epoll_ctl),
    call!(SYS_epoll_wait),
    call!(SYS_epoll_pwait).seldom("a connection of a host program with a guest's socket"),
    call!(SYS_timerfd_settime).seldom("a device with a timer: a watchdog, a balloon, a limit of rate"),
    // Whether its boot files are still what was verified, and the last figures.
    call!(SYS_statx),
    call!(SYS_fstat),
    call!(SYS_pread64).seldom("the last figures of a vCPU that does not end"),
    call!(SYS_mincore).seldom("the last figures of a machine with private memory"),
    call!(SYS_fallocate).seldom("a guest that gives memory back"),
    call!(SYS_getrandom).seldom("a guest that asks for entropy"),
    // Frames.
    call!(SYS_readv).seldom(NETWORK),
    call!(SYS_writev).seldom(NETWORK),
    // Disks, and waiting for them at the machine's end.
    call!(SYS_io_uring_enter).seldom("a machine with a disk"),
    call!(SYS_ppoll).seldom("a disk whose transfers are under way when its machine pauses or ends"),
    call!(SYS_clock_nanosleep).seldom("a device that a vCPU holds when its machine ends"),
    // Connections of host programs with the guest; of this host alone.
    call!(SYS_socket).with(0, &[value!(AF_UNIX).seldom(SOCKETS)]),
    call!(SYS_accept4).seldom(SOCKETS),
    call!(SYS_connect).seldom(SOCKETS),
    call!(SYS_recvfrom).seldom(SOCKETS),
    call!(SYS_sendto).seldom(SOCKETS),
    call!(SYS_shutdown).seldom(SOCKETS),
    // vCPUs are kicked out of the guest.
    call!(SYS_tgkill).own_signal(&[value!(KICK = KICK)]),
];

/// `SIGRTMIN` as the C library counts, which keeps two for itself.
pub(crate) const KICK: u32 = 34;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpus_are_kicked_by_the_first_signal_that_is_free() {
        assert_eq!(KICK.cast_signed(), libc::SIGRTMIN());
    }
}
