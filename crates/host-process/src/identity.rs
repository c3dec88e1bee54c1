//! Which process it is: its id alone says little, because ids are used again.

use std::fs;
use std::io;

use thiserror::Error;

/// Names a process for good, on a host that does not start anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessIdentity {
    /// Its id on the host.
    pub(crate) pid: u32,
    /// When it started, in clock ticks since the host did: field 22 of its `stat` (proc(5)).
    pub(crate) start_time: u64,
}

/// Why the identity of a process is not known.
#[derive(Debug, Error)]
pub(crate) enum IdentityError {
    /// There is no such process, or its file cannot be read.
    #[error("cannot read what /proc says of process {pid}")]
    Unreadable {
        /// Which process.
        pid: u32,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
    /// The file is not what proc(5) says.
    #[error("/proc has no start time of process {pid} where one is expected")]
    Malformed {
        /// Which process.
        pid: u32,
    },
}

impl ProcessIdentity {
    /// This process, whose id on the host is `pid`, whatever it is in its own PID namespace.
    pub(crate) fn of_self(pid: u32) -> Result<Self, IdentityError> {
        let stat = fs::read_to_string("/proc/self/stat");
        let stat = stat.map_err(|source| IdentityError::Unreadable { pid, source })?;
        Self::read(pid, &stat)
    }

    /// The process that has the id `pid` now.
    pub(crate) fn of(pid: u32) -> Result<Self, IdentityError> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .map_err(|source| IdentityError::Unreadable { pid, source })?;
        Self::read(pid, &stat)
    }

    fn read(pid: u32, stat: &str) -> Result<Self, IdentityError> {
        let start_time = start_time(stat).ok_or(IdentityError::Malformed { pid })?;
        Ok(Self { pid, start_time })
    }
}

/// Field 22. The second one, the name, may hold anything, also parentheses.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_by_its_start_time_whatever_its_name() {
        let stat =
            "12 (a) b) c) S 1 12 12 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4711 99 0 18446744073709551615";
        assert_eq!(start_time(stat), Some(4711));
        assert_eq!(start_time("12 (a) S 1"), None);
        assert_eq!(start_time(""), None);
        let own = ProcessIdentity::of_self(std::process::id()).expect("this process is there");
        assert_eq!(ProcessIdentity::of(own.pid).expect("it still is"), own);
        assert!(ProcessIdentity::of(u32::MAX).is_err());
    }
}
