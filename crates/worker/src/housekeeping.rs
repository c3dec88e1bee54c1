//! What is kept for a while, and deleted when its time is over or space is short: VMs that were removed, contents of
//! volumes that were replaced, volumes without a disk.

mod kept;
mod keeper;
mod removed;

pub(crate) use keeper::keep_house;
pub(crate) use kept::{Kept, what_is_due};
pub(crate) use removed::{RemovedVm, RemovedVms};
