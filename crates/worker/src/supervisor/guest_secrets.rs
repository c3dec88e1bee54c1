//! The secrets of a guest that lie in files of the host, read when its machine is made ready.

use std::path::PathBuf;

use nix_artifacts::{Artifact, CloudInitData, add_credential_files, read_cloud_init};
use vm_model::FailureReason;

use crate::failure::reason;

/// What was read. Description and definition do not have the content of files.
pub(crate) struct GuestSecrets {
    /// What the guest's cloud-init is told.
    pub(super) cloud_init: Option<CloudInitData>,
    /// What is to be said about the files: who else can get at them.
    pub(super) exposed: Vec<String>,
}

/// Reads what lies in files of the host, below `credentials_dir`. Credentials are added to the OEM strings of the machine of
/// `artifact`. Blocks on files.
pub(crate) fn read_secrets(
    credentials_dir: &PathBuf,
    artifact: &mut Artifact,
) -> Result<GuestSecrets, FailureReason> {
    let strings = &mut artifact.machine.services.oem_strings;
    let allowed = std::slice::from_ref(credentials_dir);
    let mut exposed = add_credential_files(&artifact.settings.credential_files, allowed, strings)
        .map_err(|problem| reason(problem.kind(), &problem))?;
    let cloud_init = match &artifact.settings.cloud_init {
        None => None,
        Some(settings) => {
            let (data, warnings) =
                read_cloud_init(settings, allowed).map_err(|problem| reason(problem.kind(), &problem))?;
            exposed.extend(warnings);
            Some(data)
        }
    };
    Ok(GuestSecrets { cloud_init, exposed })
}
