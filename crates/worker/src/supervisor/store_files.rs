//! The files of the store that a start has open: kept from being collected as garbage, and looked at until the launch.

use std::path::PathBuf;

use nix_artifacts::{Artifact, ArtifactFile, FileWatch};
use vm_model::{Assignment, FailureKind, FailureReason, VmId};

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

/// What tells until the launch whether a file of the store was changed after it was verified; makes sure that none was
/// changed so far, also while it was copied.
pub(super) fn watch_files(
    context: &HostContext,
    artifact: &Artifact,
) -> Result<Vec<FileWatch>, FailureReason> {
    if context.lifecycle.hash_verification == HashVerification::Never {
        return Ok(Vec::new());
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
    Ok(watches)
}

/// Makes sure that none of the files was changed since it was opened.
fn check_files(watches: &[FileWatch]) -> Result<(), FailureReason> {
    watches.iter().try_for_each(FileWatch::check).map_err(|problem| reason(FailureKind::Host, &problem))
}

/// Makes sure, as late as can be, that the machine's files are what was verified.
pub(super) async fn check_last(
    context: &HostContext,
    vm: &VmId,
    watches: Vec<FileWatch>,
) -> Result<(), FailureReason> {
    context.own_threads.run(vm.as_str(), "check", move || check_files(&watches)).await?
}
