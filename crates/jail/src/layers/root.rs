//! An empty root directory: a read-only file system in memory with what the process still reads by a path.
//!
//! ```text
//!   /proc                                the files of this process alone
//!   /sys/devices/system/cpu/online       which processors there are
//!   /sys/kernel/mm/hugepages/            how many huge pages are free, told where they do not suffice
//! ```
//!
//! It is a directory below the root of the mount table, not that root itself: to a process whose root is another, the kernel
//! refuses user namespaces, in which it would have capabilities again (user_namespaces(7)).

use std::error::Error;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, statat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change,
    mount_move, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, chroot, fchdir, pivot_root, umask};
use thiserror::Error;

/// What of the host stays, by the same paths.
pub(super) const HOST_FILES: [&str; 2] = ["sys/devices/system/cpu/online", "sys/kernel/mm/hugepages"];
/// A directory that every host has, to be covered by the new root for a moment.
const ANY_DIRECTORY: &str = "/proc";
/// The directory in the new file system that the process sees as its root.
const INSIDE: &str = "inside";

/// What every mount of the new root is but that of processes: it is read, and nothing else is done with it.
const READ_ONLY: MountFlags = MountFlags::BIND
    .union(MountFlags::RDONLY)
    .union(MountFlags::NOSUID)
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

const ONTO: MoveMountFlags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;

#[derive(Debug, Error)]
#[error("cannot {operation}")]
struct RootError {
    operation: &'static str,
    #[source]
    source: io::Error,
}

fn failed(operation: &'static str) -> impl FnOnce(Errno) -> RootError {
    move |errno| RootError { operation, source: errno.into() }
}

/// Has the process see nothing but the new root. It must have a mount table of its own: else the host would lose its; and
/// one thread, for the moment's umask.
pub(super) fn empty() -> Result<(), Box<dyn Error>> {
    // The user that the process becomes goes through directories that root makes, whatever root's umask hides.
    let before = umask(Mode::WGRP | Mode::WOTH);
    let emptied = exchange();
    umask(before);
    emptied
}

fn exchange() -> Result<(), Box<dyn Error>> {
    let own = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", own).map_err(failed("keep mounts from the host"))?;
    let options = [("mode", "0755"), ("size", "64k"), ("nr_inodes", "64")];
    let root = file_system("tmpfs", &options).map_err(failed("make a file system in memory"))?;
    // `subset` leaves out all that is about the host, `hidepid` all that is about other processes.
    let options = [("subset", "pid"), ("hidepid", "ptraceable")];
    let processes = file_system("proc", &options).map_err(failed("make a file system of processes"))?;
    move_mount(&root, "", CWD, ANY_DIRECTORY, ONTO).map_err(failed("mount the new root"))?;
    make_directories(&root, INSIDE).map_err(failed("make a directory"))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = openat(&root, INSIDE, flags, Mode::empty()).map_err(failed("open a directory"))?;
    make_directories(&inside, "proc").map_err(failed("make a directory"))?;
    move_mount(&processes, "", &inside, "proc", ONTO).map_err(failed("mount the processes"))?;
    for file in HOST_FILES {
        copy_from_host(&inside, file)?;
    }
    change_root(&root)?;
    for file in HOST_FILES {
        // A copy of a mount has the flags of the original, whatever those are.
        match mount_remount(Path::new("/").join(INSIDE).join(file), READ_ONLY, c"") {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("make a file of the host read-only")(errno).into()),
        }
    }
    mount_remount("/", READ_ONLY, c"").map_err(failed("make the new root read-only"))?;
    chroot(INSIDE).map_err(failed("enter the new root"))?;
    Ok(chdir("/").map_err(failed("enter the new root"))?)
}

fn change_root(root: &OwnedFd) -> Result<(), RootError> {
    fchdir(root).map_err(failed("enter the new root"))?;
    match pivot_root(".", ".") {
        // The old root lies on the new one, until it is taken away.
        Ok(()) => unmount(".", UnmountFlags::DETACH).map_err(failed("take the old root away"))?,
        // A host that runs from its initial file system cannot exchange that.
        Err(Errno::INVAL) => {
            mount_move(".", "/").map_err(failed("cover the old root"))?;
            chroot(".").map_err(failed("leave the old root"))?;
        }
        Err(errno) => return Err(failed("exchange the root")(errno)),
    }
    chdir("/").map_err(failed("enter the new root"))
}

/// A file system that is mounted nowhere yet.
fn file_system(kind: &str, options: &[(&str, &str)]) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value)?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Mounts the host's file or directory `path`, which is relative to the root, at the same place below `root`, where the host
/// has it.
fn copy_from_host(root: &OwnedFd, path: &str) -> Result<(), RootError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let there = match open_tree(CWD, Path::new("/").join(path), flags) {
        Ok(there) => there,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed("copy a mount of the host")(errno)),
    };
    let is_directory = statat(&there, "", AtFlags::EMPTY_PATH)
        .map(|status| rustix::fs::FileType::from_raw_mode(status.st_mode).is_dir())
        .map_err(failed("look at a file of the host"))?;
    let place = if is_directory { path } else { path.rsplit_once('/').map_or("", |(parent, _)| parent) };
    make_directories(root, place).map_err(failed("make a directory"))?;
    if !is_directory {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(root, path, flags, Mode::RUSR | Mode::RGRP | Mode::ROTH).map_err(failed("make a file"))?;
    }
    move_mount(&there, "", root, path, ONTO).map_err(failed("mount a file of the host"))
}

fn make_directories(root: &OwnedFd, path: &str) -> Result<(), Errno> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for end in ends {
        match mkdirat(root, &path[..end], Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
