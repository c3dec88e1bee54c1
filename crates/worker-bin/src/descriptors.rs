//! Open files: how many the process may have, and who may use them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Open files the process has room for without the kernel growing its table, which stalls a threaded process.
const TABLE: u32 = 4096;
/// Most clients of the admin socket at a time.
const CLIENTS: u64 = 64;
/// At most this part of all descriptors is for clients; the rest is for VMs.
const CLIENTS_PART: u64 = 8;

/// How many files the process may have open; `None` where there is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenFiles(Option<u64>);

impl OpenFiles {
    /// Raises the limit as far as it goes, and says so where that is not far. A VM takes a few dozen, and the usual limit
    /// is 1,024.
    pub(crate) fn raise() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
        let limit = match raised {
            Ok(()) => limit.maximum,
            Err(problem) => {
                warn!(%problem, "the limit of open files was not raised");
                limit.current
            }
        };
        match (worker::presize_fd_table(TABLE), limit) {
            (Ok(room), _) if room >= TABLE => info!(limit, "open files"),
            (room, _) => warn!(
                limit,
                ?room,
                wanted = TABLE,
                "the limit of open files is low: many VMs do not fit; raise it (LimitNOFILE= of a service)"
            ),
        }
        Self(limit)
    }

    /// The limit.
    pub(crate) fn limit(self) -> Option<u64> {
        self.0
    }

    /// How many clients of the admin socket are let in at a time.
    pub(crate) fn clients(self) -> usize {
        let clients = self.0.map_or(CLIENTS, |limit| (limit / CLIENTS_PART).clamp(4, CLIENTS));
        usize::try_from(clients).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_descriptors_to_vms() {
        for (limit, clients) in [(None, 64), (Some(1 << 20), 64), (Some(300), 37), (Some(16), 4)] {
            assert_eq!(OpenFiles(limit).clients(), clients, "{limit:?}");
        }
    }
}
