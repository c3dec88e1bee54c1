//! The files of the store that a start has open: kept from being collected as garbage, and looked at until the launch.

use std::path::PathBuf;

use nix_artifacts::{Artifact, ArtifactFile, FileWatch};
use vm_model::{Assignment, BootIdentities, FailureKind, FailureReason, VmId};

use super::context::HostContext;
use crate::failure::{chain, reason};
use crate::vms::HashVerification;

/// Keeps `paths` from being collected as garbage; what is to be said where that cannot be.
pub(super) fn hold<'paths>(
    context: &HostContext,
    assignment: &Assignment,
    paths: impl IntoIterator<Item = &'paths PathBuf>,
) -> Vec<String> {
    let held = paths.into_iter().map(|path| context.gc_roots.hold(&assignment.id, path));
    held.filter_map(Result::err).map(|problem| chain(&problem)).collect()
}

/// The files of the store that a machine has open and that were verified; none where nothing is verified.
#[derive(Debug, Default)]
pub(super) struct VerifiedFiles {
    /// What tells until the launch whether one of them was changed.
    watches: Vec<FileWatch>,
    /// What whoever loads them holds them against.
    pub(super) boot: Option<BootIdentities>,
}

/// Notes what the files of the store are that `artifact` has open; makes sure that none was changed since it was verified,
/// also while it was copied.
pub(super) fn watch_files(
    context: &HostContext,
    artifact: &Artifact,
) -> Result<VerifiedFiles, FailureReason> {
    if context.lifecycle.hash_verification == HashVerification::Never {
        return Ok(VerifiedFiles::default());
    }
    let mut watches = Vec::new();
    let watched = artifact.machine.as_ref().try_map_files(|_, file| {
        if let ArtifactFile::Opened(file) = file {
            watches.push(file.watch().map_err(|problem| reason(FailureKind::Host, &problem))?);
        }
        Ok(())
    });
    watched.map(drop)?;
    check_files(&watches)?;
    let boot = &artifact.machine.boot;
    let initrd = boot.initrd.as_ref().and_then(ArtifactFile::opened).map(|file| *file.identity());
    let boot = boot.kernel.opened().map(|kernel| BootIdentities { kernel: *kernel.identity(), initrd });
    Ok(VerifiedFiles { watches, boot })
}

/// Makes sure that none of the files was changed since it was opened.
fn check_files(watches: &[FileWatch]) -> Result<(), FailureReason> {
    watches.iter().try_for_each(FileWatch::check).map_err(|problem| reason(FailureKind::Host, &problem))
}

/// Makes sure right before the launch that the machine's files are what was verified. Those that it boots from are looked
/// at again when they are loaded.
pub(super) async fn check_last(
    context: &HostContext,
    vm: &VmId,
    files: VerifiedFiles,
) -> Result<(), FailureReason> {
    context.own_threads.run(vm.as_str(), "check", move || check_files(&files.watches)).await?
}
