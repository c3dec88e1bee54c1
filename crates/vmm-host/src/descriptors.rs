//! The process's table of file descriptors.

use std::io;
use std::os::fd::AsFd;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, getrlimit};

/// Makes room for `slots` descriptors at once, and answers how many there is room for.
///
/// A process with more than one thread waits for a grace period of the kernel, 6 to 43 ms, each time its
/// table doubles, in whatever call happens to need the next descriptor. So this belongs into `main`,
/// before the first thread is started. The table never shrinks. Fewer slots are made where the limit
/// on open files (`RLIMIT_NOFILE`) is lower: raising that comes first.
///
/// # Errors
/// No descriptor is open at all that could be duplicated, or the kernel lacks the memory.
pub fn presize_fd_table(slots: u32) -> io::Result<u32> {
    let Some(highest) = highest_slot(slots, getrlimit(Resource::Nofile).current) else {
        return Ok(0);
    };
    // A descriptor at the highest place grows the table; closing it does not shrink it.
    drop(fcntl_dupfd_cloexec(io::stderr().as_fd(), highest)?);
    Ok(highest.unsigned_abs() + 1)
}

/// The last of `slots` descriptors that `limit` allows; `None` where that is none at all.
fn highest_slot(slots: u32, limit: Option<u64>) -> Option<i32> {
    let slots = u64::from(slots).min(limit.unwrap_or(u64::MAX));
    let highest = slots.checked_sub(1)?;
    Some(i32::try_from(highest).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_on_open_files_is_respected() {
        assert_eq!(highest_slot(0, None), None);
        assert_eq!(highest_slot(64, Some(0)), None);
        assert_eq!(highest_slot(64, Some(1024)), Some(63));
        assert_eq!(highest_slot(4096, Some(1024)), Some(1023));
        assert_eq!(highest_slot(u32::MAX, None), Some(i32::MAX));
    }

    #[test]
    fn the_table_grows() {
        assert_eq!(presize_fd_table(0).expect("nothing to do"), 0);
        assert_eq!(presize_fd_table(512).expect("the table grows"), 512);
    }
}
