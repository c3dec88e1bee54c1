//! `procurator.cloud_init`: what the guest's cloud-init is told.

use std::collections::BTreeMap;
use std::fmt;

use vm_model::{CLOUD_INIT_BYTES_MAX, DiskSpec};

use super::extract::{NicRequest, WantedFile};
use super::machine::{Reader, contradiction};
use super::refusal::Refusal;
use super::secret_source::{SecretSource, read_source};
use super::secrets::HIDDEN;
use super::section::Section;

/// The `id` of the disk that cloud-init reads.
pub const CLOUD_INIT_DISK: &str = "cloud-init";
/// The key of meta-data that is the worker's.
const INSTANCE_ID: &str = "instance-id";

/// What a guest's cloud-init is told. Nothing of it is shown by `Debug` but paths of files.
#[derive(Clone, PartialEq, Eq)]
pub struct CloudInitSettings {
    /// What its user wants; `None` is nothing.
    pub user_data: Option<SecretSource>,
    /// The same by whoever runs the host.
    pub vendor_data: Option<SecretSource>,
    /// Further meta-data.
    pub meta_data: BTreeMap<String, String>,
    /// How the guest's network is set up.
    pub network: CloudInitNetwork,
}

/// How cloud-init sets up a guest's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudInitNetwork {
    /// As the disk says, which has addresses, router and name servers.
    Told,
    /// By DHCP.
    Dhcp,
}

impl fmt::Debug for CloudInitSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user_data, vendor_data, meta_data, network } = self;
        formatter
            .debug_struct("CloudInitSettings")
            .field("user_data", user_data)
            .field("vendor_data", vendor_data)
            .field("meta_data", &format_args!("{} texts", meta_data.len()))
            .field("network", network)
            .finish()
    }
}

impl Reader<'_> {
    /// What cloud-init is told, if there is to be a disk for it beside `disks` and `nics`.
    pub(super) fn cloud_init(
        &self,
        disks: &[DiskSpec<WantedFile>],
        nics: &[NicRequest],
    ) -> Result<Option<CloudInitSettings>, Box<Refusal>> {
        let section = self.top.section("procurator").and_then(|procurator| procurator.section("cloud_init"));
        let Some(section) = section else { return Ok(None) };
        let mut ids = disks.iter().map(|disk| &disk.id).chain(nics.iter().map(|nic| &nic.id));
        if ids.any(|id| id == CLOUD_INIT_DISK) {
            let rule =
                format!("another device has the id {CLOUD_INIT_DISK:?}, which is that of the disk for it");
            let accepted = "another id for that device".to_owned();
            return Err(contradiction(section.path.clone(), HIDDEN, rule, accepted));
        }
        let meta_data = section.named_texts("meta_data");
        if meta_data.contains_key(INSTANCE_ID) {
            let json_path = format!("{}.{INSTANCE_ID}", section.path_of("meta_data"));
            let rule = "the worker says which instance it is".to_owned();
            return Err(contradiction(json_path, HIDDEN, rule, "leaving it out".to_owned()));
        }
        Ok(Some(CloudInitSettings {
            user_data: source(section, "user_data")?,
            vendor_data: source(section, "vendor_data")?,
            meta_data,
            network: match section.boolean("network") {
                Some(false) => CloudInitNetwork::Dhcp,
                Some(true) | None => CloudInitNetwork::Told,
            },
        }))
    }
}

fn source(section: &Section, name: &str) -> Result<Option<SecretSource>, Box<Refusal>> {
    section.section(name).map(|entry| read_source(entry, CLOUD_INIT_BYTES_MAX)).transpose()
}
