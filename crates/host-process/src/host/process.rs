//! What a process does once, before it hosts machines.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// How many descriptors there is room for from the start: more than a machine with many queues has. Room that is made later
/// is waited for by whichever machine needs the next descriptor.
const DESCRIPTORS: u32 = 512;

/// Takes the connection that the process was started with from its standard input, and leaves nothing there.
///
/// # Errors
/// There is no room for a descriptor, or no `/dev/null`.
pub fn take_stdin() -> io::Result<OwnedFd> {
    let connection = io::stdin().as_fd().try_clone_to_owned()?;
    let nothing = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    Ok(connection)
}

/// Makes this process one that no terminal and no process group of its parent ends, and prepares its table of descriptors.
/// Called before the first thread is started.
pub fn become_host_process() {
    // It fails for the leader of a group, as which a process is started that was started by hand.
    if let Err(errno) = rustix::process::setsid() {
        tracing::debug!(error = %io::Error::from(errno), "this process stays in its session");
    }
    if let Err(error) = vmm_host::presize_fd_table(DESCRIPTORS) {
        tracing::debug!(%error, "there is no room for many descriptors");
    }
}
