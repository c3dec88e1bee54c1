//! The directory in which every host process has a socket, for workers that come later.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Gid, OFlags, Uid, chownat, statat, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, socket_with};
use thiserror::Error;

use super::error_output::ErrorOutput;

/// What a socket's name ends with.
const SUFFIX: &str = ".sock";
/// Everybody's right to write.
const OF_EVERYBODY: u32 = 0o002;
/// Nobody but the owner gets in.
const CLOSED: u32 = 0o700;

/// A directory of sockets that nobody else can enter. Somebody may remove it meanwhile; see [`SocketDirectory::renew`].
#[derive(Debug)]
pub(super) struct SocketDirectory {
    path: PathBuf,
    /// The permissions of the directory that it lies in.
    around: Option<Permissions>,
    /// Held to take it or to put another in its place.
    handle: Mutex<Arc<OwnedFd>>,
}

/// Whether the directory is another than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewed {
    Yes,
    No,
}

/// Why a directory is of no use for sockets.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// It cannot be made or opened.
    #[error("cannot {operation} the directory {} for the sockets of host processes", path.display())]
    Unusable {
        /// What was tried.
        operation: &'static str,
        /// Which directory.
        path: PathBuf,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
    /// Others could put sockets of theirs there.
    #[error(
        "the directory {} for the sockets of host processes is owned by user {owner}, not by this process' user {own}",
        path.display()
    )]
    Foreign {
        /// Which directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user that this process runs as.
        own: u32,
    },
}

/// What a socket in the directory is.
#[derive(Debug)]
pub(super) enum Dialled {
    /// Somebody listens, and is connected.
    Connected(OwnedFd),
    /// Nobody listens any more, or it is gone.
    Abandoned,
}

impl SocketDirectory {
    /// Opens `path`, which is made if it is not there, and closes it for others.
    pub(super) fn open(path: &Path) -> Result<Self, DirectoryError> {
        let failed = |source| DirectoryError::Unusable { operation: "make", path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(CLOSED).create(path).map_err(failed)?;
        let handle = open_closed(path)?;
        let around = path.parent().and_then(|around| fs::metadata(around).ok());
        let around = around.map(|around| around.permissions());
        Ok(Self { path: path.to_owned(), around, handle: Mutex::new(Arc::new(handle)) })
    }

    /// Opens `path` as it is, to look; `None` where it is not there.
    pub(super) fn open_existing(path: &Path) -> io::Result<Option<Self>> {
        match File::open(path) {
            Ok(handle) => {
                let handle = Mutex::new(Arc::new(handle.into()));
                Ok(Some(Self { path: path.to_owned(), around: None, handle }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the directory again, as it was, where it is not at its path any more: nobody could be found by a socket in one that
    /// was removed.
    pub(super) fn renew(&self) -> Result<Renewed, DirectoryError> {
        let failed =
            |operation| move |source| DirectoryError::Unusable { operation, path: self.path.clone(), source };
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let open = fs::metadata(through(&handle)).map_err(failed("look at"))?;
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == identity(&open)) {
            return Ok(Renewed::No);
        }
        self.make_again().map_err(failed("make"))?;
        *handle = Arc::new(open_closed(&self.path)?);
        Ok(Renewed::Yes)
    }

    fn make_again(&self) -> io::Result<()> {
        if let (Some(around), Some(permissions)) = (self.path.parent(), &self.around) {
            if !around.exists() {
                DirBuilder::new().recursive(true).create(around)?;
                fs::set_permissions(around, permissions.clone())?;
            }
            refuse_directory_of_others(around)?;
        }
        DirBuilder::new().recursive(true).mode(CLOSED).create(&self.path)
    }

    /// Whether a process that comes later finds the entry `name`.
    pub(super) fn holds(&self, name: &str) -> bool {
        fs::symlink_metadata(self.path.join(name)).is_ok()
    }

    fn handle(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.handle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What jailed processes get in place of this process' standard error, where that is a file.
    pub(super) fn replace_standard_error(&self) -> Result<Option<ErrorOutput>, DirectoryError> {
        ErrorOutput::instead_of(io::stderr(), &self.handle()).map_err(|source| DirectoryError::Unusable {
            operation: "make a pipe in",
            path: self.path.clone(),
            source,
        })
    }

    /// A new name in it.
    pub(super) fn new_name() -> String {
        format!("{}{SUFFIX}", uuid::Uuid::new_v4())
    }

    /// Where the entry `name` is, for messages.
    pub(super) fn place(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// Another handle of it, for a process that outlives this one.
    pub(super) fn share(&self) -> io::Result<OwnedFd> {
        self.handle().try_clone()
    }

    /// A socket that is bound to `name` and on which nobody listens yet.
    pub(super) fn bind(&self, name: &str) -> io::Result<OwnedFd> {
        let socket = new_socket()?;
        let handle = self.handle();
        bind(&socket, &address(&handle, name)?)?;
        Ok(socket)
    }

    /// Has the entry `name` say that `user` is to listen there.
    pub(super) fn give(&self, name: &str, user: u32) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        Ok(chownat(self.handle(), name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Who is to listen at the entry `name`.
    pub(super) fn owner(&self, name: &str) -> io::Result<Uid> {
        Ok(Uid::from_raw(statat(self.handle(), name, AtFlags::SYMLINK_NOFOLLOW)?.st_uid))
    }

    /// Connects to who listens on `name`. Does not wait.
    pub(super) fn dial(&self, name: &str) -> io::Result<Dialled> {
        let (socket, handle) = (new_socket()?, self.handle());
        match connect(&socket, &address(&handle, name)?) {
            Ok(()) => Ok(Dialled::Connected(socket)),
            Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(Dialled::Abandoned),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes the entry `name`, if it is there.
    pub(super) fn remove(&self, name: &str) {
        match unlinkat(self.handle(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => {
                let error = io::Error::from(errno);
                tracing::warn!(socket = self.place(name), %error, "a socket stays behind");
            }
        }
    }

    /// The names of all sockets.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let handle = self.handle();
        for entry in fs::read_dir(through(&handle))? {
            let name = entry?.file_name().into_string();
            names.extend(name.ok().filter(|name| name.ends_with(SUFFIX)));
        }
        Ok(names)
    }
}

/// Through its handle a socket's address is short enough wherever the directory is (`sun_path` has 108 bytes).
fn through(handle: &OwnedFd) -> PathBuf {
    PathBuf::from(OsString::from(format!("/proc/self/fd/{}", handle.as_raw_fd())))
}

fn address(handle: &OwnedFd, name: &str) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(through(handle).join(name))?)
}

/// Device and inode.
fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// Opens the directory `path`, which is to be this user's, and closes it for others.
fn open_closed(path: &Path) -> Result<OwnedFd, DirectoryError> {
    let failed =
        |operation| move |source| DirectoryError::Unusable { operation, path: path.to_owned(), source };
    let no_link = i32::try_from((OFlags::NOFOLLOW | OFlags::DIRECTORY).bits()).unwrap_or_default();
    let handle = OpenOptions::new().read(true).custom_flags(no_link).open(path).map_err(failed("open"))?;
    let metadata = handle.metadata().map_err(failed("look at"))?;
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        return Err(DirectoryError::Foreign { path: path.to_owned(), owner: metadata.uid(), own });
    }
    if metadata.permissions().mode() & 0o777 != CLOSED {
        handle.set_permissions(PermissionsExt::from_mode(CLOSED)).map_err(failed("close to others"))?;
    }
    Ok(handle.into())
}

/// Makes sure that only root and this process' user put anything into the directory `path`, or another directory in its place:
/// sockets are found there by their names.
///
/// # Errors
/// It is not so, or the directory cannot be looked at.
pub fn refuse_directory_of_others(path: &Path) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let (entry, found) = (fs::symlink_metadata(path)?, fs::metadata(path)?);
    let is_ours = [&entry, &found].into_iter().all(|one| [0, own].contains(&one.uid()));
    if is_ours && found.is_dir() && found.mode() & OF_EVERYBODY == 0 {
        return Ok(());
    }
    let (owner, mode) = (if is_ours { found.uid() } else { entry.uid() }, found.mode() & 0o7777);
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "{} belongs to user {owner} and has the mode {mode:04o}: a directory of root or of user {own} is accepted, into which not everybody writes",
            path.display()
        ),
    ))
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn a_directory_that_was_removed_is_made_again_as_it_was() {
        let place = tempfile::tempdir().expect("a directory");
        let around = place.path().join("run");
        fs::create_dir(&around).expect("made");
        fs::set_permissions(&around, Permissions::from_mode(0o751)).expect("set");
        let path = around.join("hosts");
        let directory = SocketDirectory::open(&path).expect("opened");
        let _lost = directory.bind("lost.sock").expect("bound");
        assert_eq!(directory.renew().expect("looked at"), Renewed::No);
        fs::remove_dir_all(&around).expect("removed");
        directory.bind("new.sock").expect_err("there is no such directory");
        assert_eq!(directory.renew().expect("made"), Renewed::Yes);
        assert_eq!((mode(&around), mode(&path)), (0o751, CLOSED));
        let _new = directory.bind("new.sock").expect("bound");
        assert_eq!((directory.holds("lost.sock"), directory.holds("new.sock")), (false, true));
        assert_eq!(directory.renew().expect("looked at"), Renewed::No);
    }

    #[test]
    fn a_directory_that_others_have_put_there_is_refused() {
        let place = tempfile::tempdir().expect("a directory");
        let around = place.path().join("run");
        fs::create_dir(&around).expect("made");
        let directory = SocketDirectory::open(&around.join("hosts")).expect("opened");
        fs::remove_dir_all(&around).expect("removed");
        fs::create_dir(&around).expect("made");
        fs::set_permissions(&around, Permissions::from_mode(0o777)).expect("set");
        let refused = directory.renew().expect_err("everybody writes there");
        assert!(vm_model::error_chain(&refused).contains("has the mode 0777"), "{refused:?}");

        let victim = place.path().join("victim");
        fs::create_dir(&victim).expect("made");
        fs::set_permissions(&around, Permissions::from_mode(0o755)).expect("set");
        std::os::unix::fs::symlink(&victim, around.join("hosts")).expect("linked");
        directory.renew().expect_err("a link leads elsewhere");
        assert_ne!(mode(&victim), CLOSED);
        assert_eq!(fs::read_dir(&victim).expect("listed").count(), 0);
    }
}
