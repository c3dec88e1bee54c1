//! Whether a machine's kernel and initial RAM disk are still what was verified.
//!
//! They are looked at after each loading and before the first instruction: a machine's memory then holds what was
//! verified, or the machine is given up. The kernel sets a file's change time before it changes the file's content,
//! so what was read of a changed file was read of one whose identity is another by then.

use std::os::fd::{AsFd, OwnedFd};

use machine_host::LaunchFailure;
use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;
use vm_model::{BootIdentities, BootSpec, FailureKind, FileIdentity};

use crate::engine::BuildFailure;

/// The files that a machine boots from, each with what it was when it was verified; empty where nothing was.
#[derive(Debug, Default)]
pub(crate) struct BootFiles(Vec<BootFile>);

#[derive(Debug)]
struct BootFile {
    role: &'static str,
    descriptor: OwnedFd,
    verified: FileIdentity,
}

impl BootFiles {
    /// The files of `boot`, whose identities are `verified`.
    pub(crate) fn of(
        boot: &BootSpec<OwnedFd>,
        verified: Option<&BootIdentities>,
    ) -> Result<Self, BuildFailure> {
        let Some(verified) = verified else { return Ok(Self::default()) };
        let kernel = Some(("kernel", &boot.kernel, verified.kernel));
        let initrd = boot.initrd.as_ref().zip(verified.initrd);
        let initrd = initrd.map(|(file, verified)| ("initial RAM disk", file, verified));
        let files = kernel.into_iter().chain(initrd).map(|(role, file, verified)| {
            let descriptor = file.try_clone()?;
            Ok(BootFile { role, descriptor, verified })
        });
        let files: Result<Vec<BootFile>, std::io::Error> = files.collect();
        files.map(Self).map_err(|source| BuildFailure { kind: FailureKind::Host, cause: source.into() })
    }

    /// What is different about them, in words that begin with the file; nothing where they are what was verified.
    pub(crate) fn difference(&self) -> Option<String> {
        self.0.iter().find_map(|BootFile { role, descriptor, verified }| {
            let difference = match identify(descriptor) {
                Ok(now) => verified.difference(&now)?,
                Err(error) => format!("its identity cannot be read: {error}"),
            };
            Some(format!("its {role} was changed after it was verified: {difference}"))
        })
    }

    /// Makes sure that what was loaded of them is what was verified.
    ///
    /// The kind of the failure is [`FailureKind::Host`], so that the next start hashes the files again: their content may
    /// be the same.
    pub(crate) fn check(&self) -> Result<(), LaunchFailure> {
        match self.difference() {
            Some(reason) => Err(LaunchFailure::Build { kind: FailureKind::Host, reason }),
            None => Ok(()),
        }
    }
}

/// What the file of `descriptor` is now; as `nix-artifacts` tells it of the files that it opens.
fn identify(descriptor: impl AsFd) -> Result<FileIdentity, Errno> {
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
