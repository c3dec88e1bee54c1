//! Namespaces of a thread: nothing in them touches the machine's own links and mounts, and they go with the thread.

#![expect(unsafe_code, reason = "a thread's namespaces are changed by a call that the library marks unsafe")]

use std::fs;
use std::thread;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Runs `test` on a thread that has a network and mounts of its own. So have the threads and programs that it starts.
///
/// # Panics
///
/// Where this is not root, and where the test panics.
pub fn isolated(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(move || {
        // SAFETY: the new namespaces concern this thread, which nothing else shares, and what it starts.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
            .expect("these tests are run as root");
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).expect("mounts made here stay here");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The names of the links in this thread's network, in order.
///
/// # Panics
///
/// Where `/proc` is not mounted.
#[must_use]
pub fn links() -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/net/dev").expect("/proc is mounted");
    let names = table.lines().skip(2).filter_map(|line| line.split(':').next());
    let mut names: Vec<String> = names.map(|name| name.trim().to_owned()).collect();
    names.sort();
    names
}
