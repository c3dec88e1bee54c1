//! Who the process is, and what it may become.

use std::error::Error;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

/// No program that this process ran could have a capability. Left as it is where it is empty already.
pub(super) fn forget_bounding_set() -> Result<(), Box<dyn Error>> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
            // The kernel has no more.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Becomes `user`, with the group of the same number and no other.
pub(super) fn become_user(user: u32) -> Result<(), Box<dyn Error>> {
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

pub(super) fn drop_capabilities() -> Result<(), Box<dyn Error>> {
    let none = CapabilitySet::empty();
    clear_ambient_capability_set()?;
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// Keeps processes of the same user from reading this one's memory, and the kernel from writing it to a file.
pub(super) fn forbid_tracing() -> Result<(), Box<dyn Error>> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

pub(super) fn gain_nothing() -> Result<(), Box<dyn Error>> {
    Ok(set_no_new_privs(true)?)
}
