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

/// For want of what the kernel killed a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MemoryKill {
    /// The host had no memory left.
    HostRanOut,
    /// A control group was at its limit.
    AtLimit {
        /// Its path in its hierarchy, where the log tells it.
        group: Option<String>,
    },
}

/// Whether the log tells that process `pid` was killed because memory ran out, at the monotonic time `since` or later, and
/// whose. A log that may not be read tells nothing. Blocks for some milliseconds at most.
pub(super) fn killed_for_memory(pid: u32, since: Duration) -> Option<MemoryKill> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let log = open("/dev/kmsg", flags, Mode::empty()).ok()?;
    find(&log, pid, since)
}

/// Looks for the end of `pid` in the log.
fn find(log: &OwnedFd, pid: u32, since: Duration) -> Option<MemoryKill> {
    let mut record = vec![0; RECORD_BYTES];
    let mut group = None;
    for _ in 0..MOST_RECORDS {
        match rustix::io::read(log, &mut record) {
            Ok(0) => return None,
            Ok(length) => match read_record(&record[..length], pid, since) {
                Some(Told::Choice(path)) => group = path,
                Some(Told::Kill(MemoryKill::AtLimit { .. })) => return Some(MemoryKill::AtLimit { group }),
                Some(Told::Kill(MemoryKill::HostRanOut)) => return Some(MemoryKill::HostRanOut),
                None => {}
            },
            // A record was overwritten before it was read, which the next read has got over.
            Err(Errno::PIPE | Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    None
}

/// What a record tells of a process.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// It was chosen, and the path of the control group that is at its limit, if one is.
    Choice(Option<String>),
    /// It was killed.
    Kill(MemoryKill),
}

/// What `record` tells of the end of `pid` for want of memory, with the time in microseconds:
/// `6,338,5140890,-;oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=/a/b,task_memcg=/a/b,task=x,pid=17,uid=0`, where the
/// kernel did not tell too much already, and `6,339,5140900,-;Memory cgroup out of memory: Killed process 17 (x)`.
fn read_record(record: &[u8], pid: u32, since: Duration) -> Option<Told> {
    let record = String::from_utf8_lossy(record);
    let (head, message) = record.split_once(';')?;
    let at = Duration::from_micros(head.split(',').nth(2)?.parse().ok()?);
    if at.saturating_add(CLOCK_TOLERANCE) < since {
        return None;
    }
    if let Some(choice) = message.strip_prefix("oom-kill:") {
        let field = |name: &str| choice.split([',', '\n']).find_map(|field| field.strip_prefix(name));
        let is_it = field("pid=").and_then(|victim| victim.parse().ok()) == Some(pid);
        return is_it.then(|| Told::Choice(field("oom_memcg=").map(str::to_owned)));
    }
    let (how, rest) = message.split_once("ut of memory: Killed process ")?;
    let victim: u32 = rest.split([' ', ',', '\n']).next()?.parse().ok()?;
    let kill = match how {
        "Memory cgroup o" => MemoryKill::AtLimit { group: None },
        _ => MemoryKill::HostRanOut,
    };
    (victim == pid).then_some(Told::Kill(kill))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn victims_are_known_by_their_number_and_time() {
        let at = Duration::from_secs(1_000);
        let limit = || Some(Told::Kill(MemoryKill::AtLimit { group: None }));
        let ran_out = || Some(Told::Kill(MemoryKill::HostRanOut));
        for (record, pid, expected) in [
            ("3,7,1000000000,-;Out of memory: Killed process 17 (vm-host) total-vm:9kB", 17, ran_out()),
            (
                "3,7,1000000000,-;Memory cgroup out of memory: Killed process 17 (vm-host)\n SUBSYSTEM=x",
                17,
                limit(),
            ),
            ("3,7,1000000000,-;Out of memory: Killed process 171 (vm-host)", 17, None),
            ("3,7,900000000,-;Out of memory: Killed process 17 (an earlier one)", 17, None),
            ("3,7,1000000000,-;oom_reaper: reaped process 17 (vm-host)", 17, None),
            ("3,7;Out of memory: Killed process 17 (x)", 17, None),
        ] {
            assert_eq!(read_record(record.as_bytes(), pid, at), expected, "{record}");
        }
    }

    #[test]
    fn the_group_whose_limit_it_was_is_read() {
        let record = "6,8,1000000000,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,\
                      oom_memcg=/procurator/0f3c,task_memcg=/procurator/0f3c,task=vm-host,pid=17,uid=0\n";
        let read = |pid| read_record(record.as_bytes(), pid, Duration::from_secs(1_000));
        assert_eq!(read(17), Some(Told::Choice(Some("/procurator/0f3c".to_owned()))));
        assert_eq!(read(1), None);
        let host = "6,8,1000000000,-;oom-kill:constraint=CONSTRAINT_NONE,global_oom,task_memcg=/a,task=x,pid=17,uid=0";
        assert_eq!(read_record(host.as_bytes(), 17, Duration::ZERO), Some(Told::Choice(None)));
    }

    #[test]
    fn the_log_is_read_to_its_end() {
        assert_eq!(killed_for_memory(u32::MAX, Duration::ZERO), None);
    }

    proptest! {
        #[test]
        fn any_record_is_read(record: Vec<u8>, pid: u32) {
            prop_assert_eq!(read_record(&record, pid, Duration::MAX), None);
        }
    }
}
