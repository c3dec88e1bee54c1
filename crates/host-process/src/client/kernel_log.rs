//! What the kernel's log (`/dev/kmsg`, Linux `Documentation/ABI/testing/dev-kmsg`) tells of processes that it killed.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

/// More than a record can be long.
const RECORD_BYTES: usize = 8 << 10;
/// More records than the log holds, in case somebody writes as fast as they are read.
const MOST_RECORDS: usize = 200_000;
/// How far the log's clock may be from the monotonic one.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(10);

/// Whether the log tells that process `pid` was killed because memory ran out, at the monotonic time `since` or later. A log
/// that may not be read tells nothing. Blocks for some milliseconds at most.
pub(super) fn was_killed_for_memory(pid: u32, since: Duration) -> bool {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(log) = open("/dev/kmsg", flags, Mode::empty()) else { return false };
    find(&log, |record| names_victim(record, pid, since))
}

/// Whether `wanted` is in the log.
fn find(log: &OwnedFd, wanted: impl Fn(&[u8]) -> bool) -> bool {
    let mut record = vec![0; RECORD_BYTES];
    for _ in 0..MOST_RECORDS {
        match rustix::io::read(log, &mut record) {
            Ok(0) => return false,
            Ok(length) if wanted(&record[..length]) => return true,
            // A record was overwritten before it was read, which the next read has got over.
            Ok(_) | Err(Errno::PIPE | Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    false
}

/// Whether `record` tells that `pid` was killed for want of memory: `6,339,5140900,-;Out of memory: Killed process 17 (x)`,
/// with the time in microseconds.
fn names_victim(record: &[u8], pid: u32, since: Duration) -> bool {
    let record = String::from_utf8_lossy(record);
    let Some((head, message)) = record.split_once(';') else { return false };
    let Some(at) = head.split(',').nth(2).and_then(|micros| micros.parse().ok()) else { return false };
    let is_recent = Duration::from_micros(at).saturating_add(CLOCK_TOLERANCE) >= since;
    let killed = message.split_once("ut of memory: Killed process ");
    let victim = killed.and_then(|(_, rest)| rest.split([' ', ',', '\n']).next()?.parse().ok());
    is_recent && victim == Some(pid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn victims_are_known_by_their_number_and_time() {
        let at = Duration::from_secs(1_000);
        for (record, pid, expected) in [
            ("3,7,1000000000,-;Out of memory: Killed process 17 (vm-host) total-vm:9kB", 17, true),
            (
                "3,7,1000000000,-;Memory cgroup out of memory: Killed process 17 (vm-host)\n SUBSYSTEM=x",
                17,
                true,
            ),
            ("3,7,1000000000,-;Out of memory: Killed process 171 (vm-host)", 17, false),
            ("3,7,900000000,-;Out of memory: Killed process 17 (an earlier one)", 17, false),
            ("3,7,1000000000,-;oom_reaper: reaped process 17 (vm-host)", 17, false),
            ("3,7;Out of memory: Killed process 17 (x)", 17, false),
        ] {
            assert_eq!(names_victim(record.as_bytes(), pid, at), expected, "{record}");
        }
    }

    #[test]
    fn the_log_is_read_to_its_end() {
        assert!(!was_killed_for_memory(u32::MAX, Duration::ZERO));
    }

    proptest! {
        #[test]
        fn any_record_is_read(record: Vec<u8>, pid: u32) {
            prop_assert!(!names_victim(&record, pid, Duration::MAX));
        }
    }
}
