//! Tables of the kernel that the process has for itself. What it had of the host's it keeps by its descriptors alone.
//!
//! Processes are numbered as everywhere on the host: a process enters another numbering by being forked into it, and the
//! worker has to know this one by the number that its service manager and its sockets tell.

use std::error::Error;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::report::Layer;

/// Each with the layer that it is.
pub(super) const ALL: [(Layer, UnshareFlags); 4] = [
    (Layer::MountNamespace, UnshareFlags::NEWNS),
    (Layer::IpcNamespace, UnshareFlags::NEWIPC),
    (Layer::UtsNamespace, UnshareFlags::NEWUTS),
    (Layer::NetworkNamespace, UnshareFlags::NEWNET),
];

#[expect(
    unsafe_code,
    reason = "the call can also take descriptors away from threads, which this one does not ask for"
)]
pub(super) fn leave(namespace: UnshareFlags) -> Result<(), Box<dyn Error>> {
    // SAFETY: `namespace` is one of `ALL`, none of which is the table of descriptors.
    Ok(unsafe { unshare_unsafe(namespace) }?)
}
