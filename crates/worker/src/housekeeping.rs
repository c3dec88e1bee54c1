//! What is kept for a while, and deleted when its time is over or space is short: VMs that were removed, contents of
//! volumes that were replaced, volumes without a disk.

mod deletion;
mod disk_use;
mod keeper;
mod kept;
mod removed;

pub(crate) use disk_use::{DiskUse, account_disk_use};
pub(crate) use keeper::keep_house;
pub use kept::Cleared;
pub(crate) use removed::RemovedVms;
