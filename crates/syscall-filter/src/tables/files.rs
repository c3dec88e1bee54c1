//! The threads that write files.

use super::ASSERTIONS;
use crate::call::{Call, call, value};

const FULL: &str = "a file that is full, or the first of a boot";
const VM_FILES: &str = "lines about a VM";
const JOURNAL: &str = "a log that goes to the journal";

/// Writes consoles to files of the directories that it was given.
#[rustfmt::skip]
pub(crate) const CONSOLE: &[Call] = &[
    call!(SYS_openat),
    call!(SYS_unlinkat).seldom(FULL),
    call!(SYS_getdents64),
    call!(SYS_statx).seldom(FULL),
    call!(SYS_fstat).seldom(FULL),
    call!(SYS_newfstatat).seldom(FULL),
    call!(SYS_lseek).seldom(FULL),
    call!(SYS_fcntl).with(1, &[value!(F_GETFD).seldom(ASSERTIONS), value!(F_GETFL).seldom(ASSERTIONS), value!(F_DUPFD_CLOEXEC).seldom(FULL)]),
];

/// Writes the log to standard error or the journal, and lines about VMs to their files.
#[rustfmt::skip]
pub(crate) const LOG: &[Call] = &[
    call!(SYS_sendto).seldom(JOURNAL),
    call!(SYS_ppoll).seldom("standard error that takes nothing for now"),
    call!(SYS_openat).seldom(VM_FILES),
    call!(SYS_statx).seldom(VM_FILES),
    call!(SYS_fstat).seldom(VM_FILES),
    call!(SYS_newfstatat).seldom(VM_FILES),
    call!(SYS_lseek).seldom(VM_FILES),
    call!(SYS_renameat).seldom(VM_FILES),
    call!(SYS_socket).with(0, &[value!(AF_UNIX).seldom(JOURNAL)]),
    call!(SYS_clock_nanosleep).seldom(JOURNAL),
];
