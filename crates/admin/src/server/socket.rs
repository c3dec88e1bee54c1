//! The socket files: made without a moment in which the wrong people could connect, and removed only where they are ours.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;
use tokio::net::UnixListener;
use tracing::warn;

use crate::socket_path::SocketPath;
use crate::worker_process::{dial, find_listener};

/// Owner and group may connect.
const SOCKET_MODE: u32 = 0o660;
/// The owner alone may: there is no group to give it to.
const OWN_MODE: u32 = 0o600;
/// Nobody but the owner gets into the directory in which a socket is made.
const CLOSED_MODE: u32 = 0o700;
/// The groups of this host (group(5)).
const GROUPS: &str = "/etc/group";

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error(
        "another worker{} answers on {}; stop that worker or choose another runtime directory",
        process.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
        /// Who listens there, where the kernel tells it.
        process: Option<u32>,
    },
    /// Something is there that is not ours to replace.
    #[error("cannot bind the admin socket {}: something that is no socket is there; move it away", path.display())]
    NoSocket {
        /// What should be the socket.
        path: PathBuf,
    },
    /// The host has no such group.
    #[error(
        "cannot give the admin socket to group {group:?}: this host knows no such group; `getent group` lists them, and a number is accepted too"
    )]
    NoGroup {
        /// What was given.
        group: String,
    },
    /// The host refused.
    #[error("cannot {operation} the admin socket {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A group of this host, by name or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketGroup(String);

impl SocketGroup {
    /// The group that is called `name`, or has that number. It is looked up when a socket is made.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The group's number, looked up now.
    pub(super) fn resolve(&self) -> Result<u32, BindError> {
        if let Ok(number) = self.0.parse() {
            return Ok(number);
        }
        let io = |source| BindError::Io { operation: "look up the group of", path: GROUPS.into(), source };
        let text = fs::read(GROUPS).map_err(io)?;
        group_number(&String::from_utf8_lossy(&text), &self.0)
            .or_else(|| group_elsewhere(&self.0))
            .ok_or_else(|| BindError::NoGroup { group: self.0.clone() })
    }
}

/// The number of a group that is not in the file but known to the host's name service (nsswitch.conf(5)), as getent(1)
/// tells it: asking in this process would need the C library's modules.
fn group_elsewhere(name: &str) -> Option<u32> {
    let asked = Command::new("getent").args(["group", "--", name]).stdin(Stdio::null()).output().ok()?;
    group_number(&String::from_utf8_lossy(&asked.stdout), name)
}

/// The number of the group `name` in `groups`, which has the form of group(5).
fn group_number(groups: &str, name: &str) -> Option<u32> {
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1).map(str::to_owned))
    });
    found.flatten()?.parse().ok()
}

/// A socket on which one listens. Its file goes with this value, unless another has taken its place.
#[derive(Debug)]
pub(super) struct BoundSocket {
    /// Goes first: while one still listens, nobody else gets its inode.
    file: SocketFile,
    pub(super) listener: UnixListener,
    /// The group that it is to have, where the host has no such group yet: it is its owner's alone then.
    pub(super) without_group: Option<String>,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity)
    }
}

impl SocketFile {
    fn remove(&self) {
        if self.is_in_place() {
            // It may have been removed by hand meanwhile; nothing else can be done here.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

impl BoundSocket {
    /// Makes the socket `path`, of `group` where one is given; of its owner alone where the host has no such group. One on which
    /// nobody answers is replaced.
    pub(super) fn bind(path: &Path, group: Option<&SocketGroup>) -> Result<Self, BindError> {
        let failed = |operation| move |source| BindError::Io { operation, path: path.to_owned(), source };
        let (group, mode, without_group) = match group.map(SocketGroup::resolve).transpose() {
            Ok(group) => (group, SOCKET_MODE, None),
            Err(BindError::NoGroup { group }) => (None, OWN_MODE, Some(group)),
            Err(problem) => return Err(problem),
        };
        refuse_what_is_not_ours(path)?;
        let closed = ClosedDirectory::beside(path).map_err(failed("make a closed directory for"))?;
        let made = closed.path.join("socket");
        let reachable = SocketPath::to(&made).map_err(failed("bind"))?;
        let listener = UnixListener::bind(reachable.as_path()).map_err(failed("bind"))?;
        chown(&made, None, group).map_err(failed("set the group of"))?;
        fs::set_permissions(&made, Permissions::from_mode(mode)).map_err(failed("set the permissions of"))?;
        let identity =
            fs::symlink_metadata(&made).map(|found| identity(&found)).map_err(failed("look at"))?;
        fs::rename(&made, path).map_err(failed("put in place"))?;
        if SocketPath::to(path).is_ok_and(|reachable| reachable.is_too_long()) {
            warn!(socket = %path.display(), "the admin socket's path is longer than 107 bytes: this program's client finds it, others connect by way of its directory");
        }
        Ok(Self { listener, file: SocketFile { path: path.to_owned(), identity }, without_group })
    }

    /// Takes its file away, where that is still in its place: another is about to be made there.
    pub(super) fn remove(&self) {
        self.file.remove();
    }

    /// Whether its file is still where it was made.
    pub(super) fn is_in_place(&self) -> bool {
        self.file.is_in_place()
    }

    /// Removes a socket that an earlier worker has left at `path`.
    pub(super) fn clear(path: &Path) -> Result<(), BindError> {
        let failed = |source| BindError::Io { operation: "remove", path: path.to_owned(), source };
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() && !is_answered(path) => {
                fs::remove_file(path).map_err(failed)
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

fn refuse_what_is_not_ours(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(BindError::Io { operation: "look for", path: path.to_owned(), source }),
        Ok(found) if !found.file_type().is_socket() => Err(BindError::NoSocket { path: path.to_owned() }),
        Ok(_) if is_answered(path) => {
            Err(BindError::InUse { path: path.to_owned(), process: find_listener(path) })
        }
        Ok(_) => Ok(()),
    }
}

/// A directory into which only its owner gets. It goes with this value, and what is in it.
struct ClosedDirectory {
    path: PathBuf,
}

impl ClosedDirectory {
    /// One in the directory of `path`, on the same file system.
    fn beside(path: &Path) -> io::Result<Self> {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(".new");
        let path = path.with_file_name(name);
        // What a worker has left that was killed here.
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        DirBuilder::new().mode(CLOSED_MODE).create(&path)?;
        Ok(Self { path })
    }
}

impl Drop for ClosedDirectory {
    fn drop(&mut self) {
        // The next worker tries it again.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Whether somebody listens on the socket at `path`. Does not wait for who listens and takes nobody.
fn is_answered(path: &Path) -> bool {
    match dial(path) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(directory: &Path) -> usize {
        fs::read_dir(directory).expect("a directory").count()
    }

    #[tokio::test]
    async fn a_socket_is_taken_over_when_nobody_answers_and_nothing_else_ever_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("worker.sock");
        let first = BoundSocket::bind(&path, None).expect("bound");
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, SOCKET_MODE);
        assert_eq!(entries(directory.path()), 1, "nothing is left beside it");
        let own = Some(std::process::id());
        assert!(
            matches!(BoundSocket::bind(&path, None), Err(BindError::InUse { process, .. }) if process == own)
        );
        drop(first);
        assert!(!path.exists(), "the file goes with the server");

        drop(std::os::unix::net::UnixListener::bind(&path).expect("what a killed worker leaves"));
        fs::create_dir(directory.path().join(".worker.sock.new")).expect("what one killed earlier leaves");
        drop(BoundSocket::bind(&path, None).expect("taken over"));
        assert_eq!(entries(directory.path()), 0);
        fs::write(&path, "precious").expect("written");
        assert!(matches!(BoundSocket::bind(&path, None), Err(BindError::NoSocket { .. })));
        assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
    }

    #[tokio::test]
    async fn a_socket_of_somebody_else_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("worker.sock");
        let ours = BoundSocket::bind(&path, None).expect("bound");
        fs::remove_file(&path).expect("removed by hand");
        let _theirs = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        drop(ours);
        assert!(path.exists());
        BoundSocket::clear(&path).expect("left alone");
        assert!(path.exists(), "somebody answers there");
    }

    #[tokio::test]
    async fn a_socket_belongs_to_its_group() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("worker.sock");
        let own = fs::metadata(directory.path()).expect("there").gid();
        let bound = BoundSocket::bind(&path, Some(&SocketGroup::new(own.to_string()))).expect("bound");
        assert_eq!(fs::metadata(&path).expect("there").gid(), own);
        drop(bound);
        let unknown = BoundSocket::bind(&path, Some(&SocketGroup::new("no such group"))).expect("bound");
        assert_eq!(unknown.without_group.as_deref(), Some("no such group"));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, OWN_MODE);
    }

    #[test]
    fn who_listens_and_takes_nobody_is_not_waited_for() {
        use rustix::net::{
            AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
        };
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("worker.sock");
        let socket =
            |flags| socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a socket");
        let address = SocketAddrUnix::new(&path).expect("short enough");
        let listener = socket(SocketFlags::CLOEXEC);
        bind(&listener, &address).expect("bound");
        listen(&listener, 0).expect("listens");
        let mut waiting = Vec::new();
        loop {
            let client = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
            if connect(&client, &address).is_err() {
                break;
            }
            waiting.push(client);
        }
        assert!(!waiting.is_empty(), "its queue is full now");
        // On a thread of its own, because a check that waits would wait for ever.
        let (answer, answered) = std::sync::mpsc::channel();
        std::thread::spawn(move || answer.send(is_answered(&path)));
        let answered = answered.recv_timeout(std::time::Duration::from_secs(30));
        assert_eq!(answered, Ok(true), "somebody is there");
    }

    #[test]
    fn groups_are_found_by_name() {
        let groups = "root:x:0:\nprocurator:x:990:alice,bob\nbroken\nprocurator-read:x:no:\n";
        assert_eq!(group_number(groups, "procurator"), Some(990));
        assert_eq!(group_number(groups, "root"), Some(0));
        for name in ["proc", "broken", "procurator-read", "", "x"] {
            assert_eq!(group_number(groups, name), None, "{name}");
        }
    }
}
