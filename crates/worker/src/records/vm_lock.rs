//! The lock of one VM: held by the process that runs it, from before its disks are opened until nothing of its machine can
//! change them any more.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use thiserror::Error;

/// How long a copy of a lock that was given back may stay, and how often it is looked.
const COPY_PATIENCE: Duration = Duration::from_secs(1);
const COPY_PAUSE: Duration = Duration::from_millis(5);
const LOCK: &str = "lock";
const CONSOLE: &str = "console";
const SOCKETS: &str = "sockets";
/// The socket of a machine that a worker launched before sockets had a directory of their own.
const EARLIER_SOCKET: &str = "vsock.sock";

/// Why the lock of a VM was not taken.
#[derive(Debug, Error)]
pub(crate) enum VmLockError {
    /// Its lock is taken.
    #[error(
        "the VM runs already, or its last machine has not let go of its disks: {holder} of this host holds the lock {}; \
         a host process is taken over as soon as it answers; else end the process",
        path.display()
    )]
    Held {
        /// The lock.
        path: PathBuf,
        /// Who holds it.
        holder: Holder,
    },
    /// It cannot be taken.
    #[error("cannot lock {}", path.display())]
    Io {
        /// The lock.
        path: PathBuf,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
}

/// A process that holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The process of this id has the lock's file open.
    Process(u32),
    /// Some process, or this one.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(formatter, "process {pid}"),
            Self::Unknown => formatter.write_str("a process"),
        }
    }
}

/// A VM that no process runs, for as long as this is held: its disks and its directory may be deleted. Where the VM has no
/// directory, no lock is held, and none can be: a machine needs the directory.
#[derive(Debug)]
pub(crate) struct IdleVm {
    _lock: Option<OwnedFd>,
}

impl IdleVm {
    /// Takes the lock of the VM whose directory is `directory`, where that exists.
    pub(crate) fn lock(directory: &Path) -> Result<Self, VmLockError> {
        match lock_vm(directory) {
            Ok(lock) => Ok(Self { _lock: Some(lock) }),
            Err(VmLockError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Self { _lock: None })
            }
            Err(problem @ (VmLockError::Io { .. } | VmLockError::Held { .. })) => Err(problem),
        }
    }
}

/// Takes the lock of the VM whose directory is `directory`. It is bound to the open file: whoever holds the descriptor, or a
/// duplicate that was sent to another process, holds the lock.
fn lock_vm(directory: &Path) -> Result<OwnedFd, VmLockError> {
    let path = directory.join(LOCK);
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened.map_err(|source| VmLockError::Io { path: path.clone(), source })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(Errno::WOULDBLOCK) => {
            let holder = file.metadata().map_or(Holder::Unknown, |lock| holder_of(lock.dev(), lock.ino()));
            Err(VmLockError::Held { path, holder })
        }
        Err(error) => Err(VmLockError::Io { path, source: error.into() }),
    }
}

/// As [`lock_vm`], for a VM whose last machine is gone. A program that is just being started has a copy of every descriptor until it
/// is executed, and with it of that machine's lock: it is waited for. Blocks.
pub(crate) fn lock_idle_vm(directory: &Path) -> Result<OwnedFd, VmLockError> {
    let begun = Instant::now();
    loop {
        match lock_vm(directory) {
            Err(VmLockError::Held { .. }) if begun.elapsed() < COPY_PATIENCE => thread::sleep(COPY_PAUSE),
            locked => return locked,
        }
    }
}

/// The process that has the lock of the VM in `directory` open, where that is known and it is another than `pid`.
pub(super) fn other_holder(directory: &Path, pid: u32) -> Option<u32> {
    let lock = fs::metadata(directory.join(LOCK)).ok()?;
    if has_open(pid, lock.dev(), lock.ino()) {
        return None;
    }
    match holder_of(lock.dev(), lock.ino()) {
        Holder::Process(holder) => Some(holder),
        Holder::Unknown => None,
    }
}

/// The names of the directories in `root` whose locks process `pid` is known to have open.
pub(super) fn locked_by(root: &Path, pid: u32) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let files = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    let names = files.filter_map(|file| {
        let directory = file.strip_prefix(root).ok()?.parent().filter(|_| file.ends_with(LOCK))?;
        directory.to_str().map(str::to_owned)
    });
    names.collect()
}

/// Another process that has the file `inode` of `device` open. `/proc/locks` is of no help: it names the process that took the
/// lock, which was a worker, and not the one that it was handed to.
fn holder_of(device: u64, inode: u64) -> Holder {
    let own = std::process::id();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut ids = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    let other = ids.find(|pid| *pid != own && has_open(*pid, device, inode));
    other.map_or(Holder::Unknown, Holder::Process)
}

/// Whether process `pid` is known to have the file `inode` of `device` open.
fn has_open(pid: u32, device: u64, inode: u64) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.into_iter().any(|descriptor| {
        // The link is read first: only what has a path is looked behind.
        fs::read_link(descriptor.path()).is_ok_and(|link| link.is_absolute())
            && fs::metadata(descriptor.path()).is_ok_and(|file| (file.dev(), file.ino()) == (device, inode))
    })
}

/// Opens the directory for what the guest of the VM in `directory` writes, made where it does not exist.
pub(crate) fn open_console(directory: &Path) -> io::Result<OwnedFd> {
    open_or_make(&console_directory(directory))
}

/// Opens the directory for the sockets of the next machine of the VM in `directory`, made where it does not exist.
pub(crate) fn open_sockets(directory: &Path) -> io::Result<OwnedFd> {
    open_or_make(&directory.join(SOCKETS))
}

/// Where the sockets of the VM in `directory` lie.
pub(crate) fn socket_directory(directory: &Path) -> PathBuf {
    if directory.join(EARLIER_SOCKET).exists() { directory.to_owned() } else { directory.join(SOCKETS) }
}

/// What lies in it may be a machine's that means harm, but not the directory: it lies in one that is the worker's alone.
fn open_or_make(path: &Path) -> io::Result<OwnedFd> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    File::open(path).map(OwnedFd::from)
}

/// Where the console of the VM in `directory` lies.
pub(crate) fn console_directory(directory: &Path) -> PathBuf {
    directory.join(CONSOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_has_one_process_at_a_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let held = lock_vm(directory.path()).expect("free");
        let sent = held.try_clone().expect("descriptors duplicate");
        drop(held);
        let error = lock_vm(directory.path()).expect_err("held by the duplicate");
        assert!(error.to_string().starts_with("the VM runs already"), "{error}");
        IdleVm::lock(directory.path()).expect_err("not idle");
        drop(sent);
        lock_vm(directory.path()).expect("free again");
        IdleVm::lock(directory.path()).expect("idle");
        IdleVm::lock(&directory.path().join("none")).expect("without a directory nothing runs");
    }

    #[test]
    fn the_process_that_has_a_lock_open_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let lock = File::from(lock_vm(directory.path()).expect("free"));
        let mut other = std::process::Command::new("sleep")
            .arg("600")
            .stdin(lock.try_clone().expect("descriptors duplicate"))
            .spawn()
            .expect("started");
        drop(lock);
        let error = lock_vm(directory.path()).expect_err("held by the other process");
        let (own, pid) = (std::process::id(), other.id());
        let holders = [own, pid].map(|asked| other_holder(directory.path(), asked));
        let root = directory.path().parent().expect("it lies in another");
        let names = locked_by(root, pid);
        other.kill().expect("it is there");
        other.wait().expect("it is ours");
        let told = format!("process {} of this host holds the lock", other.id());
        assert!(error.to_string().contains(&told), "{error}");
        assert_eq!(holders, [Some(pid), None]);
        assert_eq!(names, [directory.path().file_name().expect("it has one").to_string_lossy()]);
        lock_vm(directory.path()).expect("free again");
    }
}
