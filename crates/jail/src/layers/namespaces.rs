//! Tables of the kernel that the process has for itself. What it had of the host's it keeps by its descriptors alone.
//!
//! Process numbers are no table that a process exchanges: it is forked into them before, see [`crate::enter_pid_namespace`].

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
