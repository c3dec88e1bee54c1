//! What a guest's cloud-init is told, with the content of the host's files that it names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use vm_model::Secret;

use crate::config::{CloudInitNetwork, CloudInitSettings, SecretSource};
use crate::secret_files::{SecretFileError, SecretUse, read_secret_file};

/// What a guest's cloud-init is told. Nothing of it is shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct CloudInitData {
    /// What its user wants.
    pub user_data: Option<Secret>,
    /// The same by whoever runs the host.
    pub vendor_data: Option<Secret>,
    /// Further meta-data.
    pub meta_data: BTreeMap<String, String>,
    /// How the guest's network is set up.
    pub network: CloudInitNetwork,
}

impl fmt::Debug for CloudInitData {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CloudInitData").finish_non_exhaustive()
    }
}

/// Reads the files that `settings` names; each has to lie below one of the directories `allowed`. Blocks on files.
///
/// Answers warnings, too, about files that others than root can read or write.
///
/// # Errors
/// Says which key, which file, and what is accepted.
pub fn read_cloud_init(
    settings: &CloudInitSettings,
    allowed: &[PathBuf],
) -> Result<(CloudInitData, Vec<String>), SecretFileError> {
    let mut warnings = Vec::new();
    let mut read = |key, source: &Option<SecretSource>| match source {
        None => Ok(None),
        Some(SecretSource::Given(secret)) => Ok(Some(secret.clone())),
        Some(SecretSource::File(path)) => {
            read_secret_file(&SecretUse::CloudInit(key), path, allowed, &mut warnings).map(Some)
        }
    };
    let data = CloudInitData {
        user_data: read("user_data", &settings.user_data)?,
        vendor_data: read("vendor_data", &settings.vendor_data)?,
        meta_data: settings.meta_data.clone(),
        network: settings.network,
    };
    Ok((data, warnings))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn given_content_and_content_of_files_are_told_and_not_shown() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("vendor");
        fs::write(&path, "hunter2").expect("written");
        let settings = CloudInitSettings {
            user_data: Some(SecretSource::Given(Secret::new(b"hunter2".to_vec()))),
            vendor_data: Some(SecretSource::File(path)),
            meta_data: BTreeMap::from([("key".to_owned(), "hunter2".to_owned())]),
            network: CloudInitNetwork::Told,
        };
        let allowed = [directory.path().to_owned()];
        let (data, _) = read_cloud_init(&settings, &allowed).expect("accepted");
        assert_eq!(data.vendor_data, data.user_data);
        assert!(!format!("{settings:?} {data:?}").contains("hunter2"));
        let refused = read_cloud_init(&settings, &[]).expect_err("it lies elsewhere").to_string();
        assert!(refused.starts_with("cloud_init.vendor_data: "), "{refused}");
    }
}
