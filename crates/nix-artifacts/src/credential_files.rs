//! Credentials that lie in files of the host: read when a machine is started, handed over among its OEM strings.

use std::path::PathBuf;

use thiserror::Error;
use vm_model::{CredentialFile, CredentialName, OemStrings, OemStringsError, credential_string};

use crate::secret_files::{SecretFileError, SecretUse, read_secret_file};

/// Why a credential cannot be handed over. Nothing of its content is in here.
#[derive(Debug, Error)]
pub enum CredentialError {
    /// Its file cannot be read.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The machine's tables have no room for it.
    #[error("credential {name} does not fit the machine's tables")]
    Room {
        /// The credential.
        name: CredentialName,
        /// Why.
        #[source]
        source: OemStringsError,
    },
}

/// Reads `files` and appends them to `strings`; each has to lie below one of the directories `allowed`. Blocks on files.
///
/// Answers warnings about files that others than root can read or write.
///
/// # Errors
/// Says which credential, which file, and what is accepted. `strings` may have got those before it.
pub fn add_credential_files(
    files: &[CredentialFile],
    allowed: &[PathBuf],
    strings: &mut OemStrings,
) -> Result<Vec<String>, CredentialError> {
    let mut warnings = Vec::new();
    for CredentialFile { name, path } in files {
        let purpose = SecretUse::Credential(name.clone());
        let secret = read_secret_file(&purpose, path, allowed, &mut warnings)?;
        strings
            .push(credential_string(name, &secret))
            .map_err(|source| CredentialError::Room { name: name.clone(), source })?;
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_handed_over_among_the_strings() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("db");
        fs::write(&path, "hunter2\n").expect("written");
        let name = CredentialName::parse("db").expect("a name");
        let mut strings = OemStrings::default();
        let file = CredentialFile { name, path };
        add_credential_files(&[file], &[directory.path().to_owned()], &mut strings).expect("accepted");
        assert_eq!(Vec::from(strings), ["io.systemd.credential.binary:db=aHVudGVyMgo="]);
    }
}
