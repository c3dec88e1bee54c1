//! Which process has a socket: the links in `/proc/<process>/fd` (proc(5)).

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Where processes are.
const PROCESSES: &str = "/proc";
/// The most processes that are looked at.
const PROCESSES_MOST: usize = 16_384;

/// Who listens on a port of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    ThisWorker,
    /// Another one.
    Program {
        /// Its name, of up to 15 bytes.
        name: String,
        /// Its process id.
        process: u32,
    },
    /// One that cannot be seen, or the kernel itself.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ThisWorker => formatter.write_str("this worker"),
            Self::Program { name, process } => write!(formatter, "{name} (process {process})"),
            Self::Unknown => formatter.write_str("a program of this host"),
        }
    }
}

/// Who has the socket with this inode. Blocks.
pub(super) fn find_holder(inode: u64) -> Holder {
    if is_own_socket(inode) {
        return Holder::ThisWorker;
    }
    let processes = fs::read_dir(PROCESSES).into_iter().flatten().flatten().filter_map(|entry| {
        let process: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((process, entry.path()))
    });
    processes
        .take(PROCESSES_MOST)
        .find(|(_, place)| has_socket(place, inode))
        .map_or(Holder::Unknown, |(process, place)| Holder::Program { name: name_of(&place), process })
}

/// Whether this process has the socket. Blocks.
pub(super) fn is_own_socket(inode: u64) -> bool {
    has_socket(&Path::new(PROCESSES).join("self"), inode)
}

/// Whether the process at `place` has the socket; not where that cannot be seen.
fn has_socket(place: &Path, inode: u64) -> bool {
    let wanted = PathBuf::from(format!("socket:[{inode}]"));
    let descriptors = fs::read_dir(place.join("fd")).into_iter().flatten().flatten();
    descriptors.into_iter().any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|to| to == wanted))
}

/// The name of the process at `place`, without what could be no name's.
fn name_of(place: &Path) -> String {
    let name = fs::read_to_string(place.join("comm")).unwrap_or_default();
    name.trim().chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};

    use super::*;

    fn inode_of(listener: &TcpListener) -> u64 {
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let link = link.to_str().unwrap();
        link.strip_prefix("socket:[").unwrap().strip_suffix(']').unwrap().parse().unwrap()
    }

    #[test]
    fn a_socket_is_of_the_process_that_has_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = inode_of(&listener);
        assert_eq!(find_holder(inode), Holder::ThisWorker);
        // Another process has it as its standard input.
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
            .spawn()
            .unwrap();
        let found = find_holder(inode);
        child.kill().unwrap();
        child.wait().unwrap();
        let Holder::Program { process, .. } = found else { panic!("{found:?}") };
        assert_eq!(process, child.id());
        assert_eq!(find_holder(inode), Holder::Unknown, "it is gone");
    }
}
