//! What cloud-init is told, and the files that say so.

use std::collections::BTreeMap;

use thiserror::Error;
use vm_model::CLOUD_INIT_BYTES_MAX;

use crate::iso::{File, image};
use crate::network::Network;

/// The label by which cloud-init finds the disk. It takes it in small letters too; ISO 9660 has capitals alone.
const LABEL: &str = "CIDATA";
/// The most bytes of a file that is made here: 31 interfaces, or meta-data of the most bytes with every character escaped.
const MADE_BYTES_MAX: usize = 8 * CLOUD_INIT_BYTES_MAX;

/// What cloud-init is told.
#[derive(Clone, Copy)]
pub struct Seed<'a> {
    /// Tells the guest whether it has been set up already: with another one cloud-init does so again.
    pub instance_id: &'a str,
    /// The name of the guest, unless `meta_data` has another.
    pub hostname: &'a str,
    /// What its user wants; cloud-init's own forms (`#cloud-config`, a script, …).
    pub user_data: &'a [u8],
    /// The same by whoever runs the host, where there is any.
    pub vendor_data: Option<&'a [u8]>,
    /// Further meta-data by its keys.
    pub meta_data: &'a BTreeMap<String, String>,
    /// Its network; without it cloud-init asks by DHCP.
    pub network: Option<&'a Network>,
}

/// Why there is no disk. Nothing of a file's content is in here.
#[derive(Debug, Error)]
pub enum SeedError {
    /// A file is too large.
    #[error("{file} for cloud-init has {bytes} bytes; accepted are at most {most}")]
    TooLarge {
        /// Its name.
        file: &'static str,
        /// How many bytes it has.
        bytes: usize,
        /// How many it may have.
        most: usize,
    },
    /// A file that is made here cannot be written as JSON.
    #[error("{file} for cloud-init cannot be written")]
    Unwritable {
        /// Its name.
        file: &'static str,
        /// What is in the way.
        #[source]
        source: serde_json::Error,
    },
}

/// The bytes of the disk that tells cloud-init `seed`: a whole number of 2048-byte sectors, well below a megabyte.
///
/// # Errors
/// Says which file is too large.
pub fn seed_disk(seed: &Seed<'_>) -> Result<Vec<u8>, SeedError> {
    let meta_data = meta_data(seed).map_err(|source| SeedError::Unwritable { file: "meta-data", source })?;
    let network = seed.network.map(Network::to_text).transpose();
    let network = network.map_err(|source| SeedError::Unwritable { file: "network-config", source })?;
    let files = [
        Some(("meta-data", meta_data.as_bytes(), MADE_BYTES_MAX)),
        network.as_ref().map(|text| ("network-config", text.as_bytes(), MADE_BYTES_MAX)),
        // Cloud-init does not take the disk for its own where this one is missing.
        Some(("user-data", seed.user_data, CLOUD_INIT_BYTES_MAX)),
        seed.vendor_data.map(|content| ("vendor-data", content, CLOUD_INIT_BYTES_MAX)),
    ];
    let files = files.into_iter().flatten().map(|(name, content, most)| {
        if content.len() > most {
            return Err(SeedError::TooLarge { file: name, bytes: content.len(), most });
        }
        Ok(File { name, content })
    });
    Ok(image(LABEL, &files.collect::<Result<Vec<_>, _>>()?))
}

/// The text of `meta-data`: JSON, which is YAML too.
fn meta_data(seed: &Seed<'_>) -> Result<String, serde_json::Error> {
    let mut members: BTreeMap<&str, &str> = BTreeMap::from([("local-hostname", seed.hostname)]);
    members.extend(seed.meta_data.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    members.insert("instance-id", seed.instance_id);
    serde_json::to_string_pretty(&members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed<'a>(meta_data: &'a BTreeMap<String, String>, user_data: &'a [u8]) -> Seed<'a> {
        let (instance_id, hostname) = ("9f1c-1", "web-1");
        Seed { instance_id, hostname, user_data, vendor_data: None, meta_data, network: None }
    }

    #[test]
    fn meta_data_has_the_instance_and_what_was_added() {
        let mut extra = BTreeMap::from([("region".to_owned(), "north \"1\"\n".to_owned())]);
        insta::assert_snapshot!(meta_data(&seed(&extra, b"")).expect("text"), @r#"
        {
          "instance-id": "9f1c-1",
          "local-hostname": "web-1",
          "region": "north \"1\"\n"
        }
        "#);
        extra.insert("local-hostname".to_owned(), "web-1.example".to_owned());
        extra.insert("instance-id".to_owned(), "another".to_owned());
        let text = meta_data(&seed(&extra, b"")).expect("text");
        assert!(
            text.contains("web-1.example") && text.contains("9f1c-1") && !text.contains("another"),
            "{text}"
        );
    }

    #[test]
    fn files_that_are_too_large_are_refused_without_being_shown() {
        let (none, most) = (BTreeMap::new(), vec![b'x'; CLOUD_INIT_BYTES_MAX]);
        assert!(seed_disk(&seed(&none, &most)).is_ok());
        let more = vec![b'x'; CLOUD_INIT_BYTES_MAX + 1];
        let refused = seed_disk(&seed(&none, &more)).expect_err("too large").to_string();
        assert_eq!(refused, "user-data for cloud-init has 65537 bytes; accepted are at most 65536");
        let vendor = Seed { vendor_data: Some(&more), ..seed(&none, b"") };
        assert!(seed_disk(&vendor).expect_err("too large").to_string().starts_with("vendor-data"));
    }
}
