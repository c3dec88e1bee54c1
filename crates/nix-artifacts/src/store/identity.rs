//! Reading what a file is, to tell later whether it is still the same: see [`FileIdentity`].

use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;
use vm_model::FileIdentity;

/// Longer than any interval at which the kernel's clock for file times advances (10 ms at 100 Hz).
const TICK: Duration = Duration::from_millis(20);

/// The identity of what `descriptor` refers to; an `O_PATH` descriptor will do.
pub(crate) fn identify(descriptor: impl AsFd) -> Result<FileIdentity, Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let status = statx(descriptor, c"", AtFlags::EMPTY_PATH, wanted)?;
    let has_birth = status.stx_mask & StatxFlags::BTIME.bits() != 0;
    Ok(FileIdentity {
        device: (status.stx_dev_major, status.stx_dev_minor),
        inode: status.stx_ino,
        size: status.stx_size,
        modified: (status.stx_mtime.tv_sec, status.stx_mtime.tv_nsec),
        changed: (status.stx_ctime.tv_sec, status.stx_ctime.tv_nsec),
        born: has_birth.then_some((status.stx_btime.tv_sec, status.stx_btime.tv_nsec)),
    })
}

/// As [`identify`], of a file that is about to be read: any later change shows in its identity.
///
/// Two changes within one tick of the kernel's clock leave the same change time. So this waits, for one tick at
/// most, until the change time lies in the past.
pub(crate) fn identify_settled(descriptor: impl AsFd) -> Result<FileIdentity, Errno> {
    let identity = identify(&descriptor)?;
    let wait = tick_left(&identity, SystemTime::now());
    if wait.is_zero() {
        return Ok(identity);
    }
    sleep(wait);
    identify(descriptor)
}

/// How long after `now` a change may still get the change time that `identity` has.
fn tick_left(identity: &FileIdentity, now: SystemTime) -> Duration {
    let (seconds, nanoseconds) = identity.changed;
    let since_epoch = Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds);
    let age = UNIX_EPOCH.checked_add(since_epoch).map(|changed| now.duration_since(changed));
    match age {
        Some(Ok(age)) => TICK.saturating_sub(age),
        // Changed in the future: the clock was turned back, and waiting for it could take years.
        Some(Err(_)) | None => TICK,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn identity(changed: (i64, u32)) -> FileIdentity {
        FileIdentity { device: (8, 1), inode: 7, size: 3, modified: (1, 0), changed, born: None }
    }

    #[test]
    fn a_file_that_changed_within_the_present_tick_is_waited_for() {
        let now = UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(tick_left(&identity((99, 0)), now), Duration::ZERO);
        assert_eq!(tick_left(&identity((99, 996_000_000)), now), Duration::from_millis(16));
        assert_eq!(tick_left(&identity((1_000, 0)), now), TICK, "no longer for a clock that was turned back");
        assert_eq!(tick_left(&identity((-5, 0)), now), Duration::ZERO);
    }

    #[test]
    fn an_edit_right_after_looking_is_seen() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("file");
        for round in 0..20 {
            fs::write(&path, "one").expect("written");
            let file = fs::File::open(&path).expect("opened");
            let before = identify_settled(&file).expect("an identity");
            fs::write(&path, "two").expect("written");
            let after = identify(&file).expect("an identity");
            assert!(before.difference(&after).is_some(), "round {round}: {before:?}");
        }
    }
}
