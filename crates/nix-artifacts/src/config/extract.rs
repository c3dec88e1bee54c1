//! From checked sections to the machine: defaults, and the rules that span several keys.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;
use uuid::Uuid;
use vm_model::{
    Bytes, MacAddress, MachineSpec, MemoryBacking, NetworkAccess, NetworkName, NicOptions, Overrides,
    is_possible_memory,
};

use super::access::read_access;
use super::bus::DeviceCount;
use super::check::check;
use super::document::{MAX_CONFIG_SIZE, Node};
use super::keys;
use super::machine::Reader;
use super::memory::are_whole_pages;
use super::networks::read_networks;
use super::overlay::overlay;
use super::refusal::{ConfigError, ConfigWarning, Refusal};
use super::rollout::read_rollout;
use super::secrets;
use super::services::VsockRequest;
use super::settings::{ProcuratorSettings, read_settings};
use super::volumes::read_disk_settings;

/// A network interface that an image asks for; the worker finds a TAP and what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicRequest {
    /// The interface's name in reports and metrics, unique in its machine.
    pub id: String,
    /// The guest's hardware address.
    pub mac: Option<MacAddress>,
    /// The guest's address; whether it is free and inside the network is left to the worker.
    pub ip: Option<Ipv4Addr>,
    /// The netmask of `ip`, contiguous.
    pub mask: Option<Ipv4Addr>,
    /// A wish for the TAP's name; valid as an interface name.
    pub tap: Option<String>,
    /// The MTU told to the guest.
    pub mtu: Option<u16>,
    /// Descriptors a queue, a power of two.
    pub queue_size: u16,
    /// How many pairs of queues it has; more than vCPUs are of no use.
    pub queue_pairs: NonZeroU16,
    /// How it is served.
    pub options: NicOptions,
    /// What passes between it and what lies beyond its network.
    pub access: NetworkAccess,
    /// Which of the worker's networks it is in; whether there is one of this name is left to the worker.
    pub network: NetworkName,
}

/// Why an override cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("override {name} is {value}; accepted is {accepted}")]
pub struct OverrideError {
    name: &'static str,
    value: String,
    accepted: String,
}

/// Which of the files that are used without being named are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conventional {
    /// `initrd` in the store path.
    pub(crate) initrd: bool,
    /// `disk.img` in the store path.
    pub(crate) disk_image: bool,
}

/// What a part of the machine lies on, still to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WantedFile {
    /// A file of the store.
    InStore(FileRequest),
    /// Nothing that is there: a disk that is given by its size and begins blank.
    Blank,
}

/// A file of the store that the machine needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileRequest {
    /// The path as it was written.
    pub(crate) path: PathBuf,
    /// Who asked for it.
    pub(crate) origin: FileOrigin,
    /// What the configuration says in words about a disk image.
    pub(crate) stated: StatedImage,
}

/// What a configuration says in words about the format of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StatedImage {
    /// Nothing.
    #[default]
    Unstated,
    /// That it is raw.
    Raw,
    /// That it is qcow2.
    Qcow2,
}

/// Who asked for a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileOrigin {
    /// The key at this JSON path.
    Key(String),
    /// Nobody: it is what is used when the key at this JSON path is missing.
    Default(String),
}

/// A whole configuration.
#[derive(Debug)]
pub(crate) struct ParsedConfig {
    pub(crate) machine: MachineSpec<WantedFile>,
    pub(crate) nics: Vec<NicRequest>,
    pub(crate) vsock: Option<VsockRequest>,
    pub(crate) settings: ProcuratorSettings,
    pub(crate) warnings: Vec<ConfigWarning>,
}

/// Reads the text of the configuration `file`; `assignment` takes precedence over what stands under its key
/// `procurator`.
pub(crate) fn parse_config(
    text: &[u8],
    file: &Path,
    uuid: Uuid,
    present: Conventional,
    assignment: &Map<String, Value>,
) -> Result<ParsedConfig, ConfigError> {
    let size = text.len() as u64;
    if size > MAX_CONFIG_SIZE {
        return Err(ConfigError::TooLarge { file: file.to_owned(), size, limit: MAX_CONFIG_SIZE });
    }
    let document: Node = serde_json::from_slice(text)
        .map_err(|source| ConfigError::Syntax { file: file.to_owned(), source })?;
    let (document, overlaid) = overlay(document, assignment);
    let mut warnings = Vec::new();
    match read(&document, uuid, present, &mut warnings) {
        Ok((machine, nics, vsock, settings)) => {
            for warning in &mut warnings {
                if let Some(json_path) = overlaid.place_in_assignment(&warning.json_path) {
                    warning.json_path = format!("assignment: {json_path}");
                }
            }
            Ok(ParsedConfig { machine, nics, vsock, settings, warnings })
        }
        Err(mut refusal) => {
            secrets::hide(&mut refusal);
            Err(match overlaid.place_in_assignment(&refusal.json_path) {
                Some(json_path) => {
                    ConfigError::RefusedAssignment { refusal: Box::new(Refusal { json_path, ..*refusal }) }
                }
                None => ConfigError::Refused { file: file.to_owned(), refusal },
            })
        }
    }
}

type Described = (MachineSpec<WantedFile>, Vec<NicRequest>, Option<VsockRequest>, ProcuratorSettings);

fn read(
    document: &Node,
    uuid: Uuid,
    present: Conventional,
    warnings: &mut Vec<ConfigWarning>,
) -> Result<Described, Box<Refusal>> {
    let top = check(document, warnings)?;
    let mut reader = Reader::new(&top, present, warnings);
    let listed = reader.listed_devices();
    reader.check_bus(listed, if listed.disks > 0 { "$.disks" } else { "$.net" })?;
    let cpus = reader.cpus()?;
    let memory = reader.memory()?;
    let boot = reader.boot()?;
    let mut disks = reader.disks()?;
    let mut nics = reader.nics(&cpus)?;
    reader.refuse_repeated(&disks, &nics)?;
    read_access(top.section("procurator"), &mut nics)?;
    read_networks(top.section("procurator"), &mut nics)?;
    let serial = reader.serial();
    let mut services = reader.services(&memory)?;
    let vsock = reader.vsock();
    let health = reader.health()?;
    let credential_files = reader.credentials(health.as_ref(), &mut services.oem_strings)?;
    let procurator = top.section("procurator");
    let entries = procurator.map_or(&[][..], |procurator| procurator.list("disks"));
    let disk_settings = read_disk_settings(entries, &mut disks, &nics)?;
    let settings = ProcuratorSettings {
        health,
        credential_files,
        cloud_init: reader.cloud_init(&disks, &nics)?,
        rollout: read_rollout(procurator),
        ..read_settings(procurator, disk_settings)
    };
    let count = DeviceCount { disks: disks.len(), nics: nics.len() };
    reader.check_bus(count, entries.last().map_or("$.disks", |entry| entry.path.as_str()))?;
    let machine =
        MachineSpec { uuid, cpus, memory, boot, disks, nics: Vec::new(), serial, rng: true, services };
    Ok((machine, nics, vsock, settings))
}

/// Reads `procurator.ports` and `procurator.egress` of an assignment, whatever its artifact says beside.
///
/// # Errors
/// Says which value, and what would be accepted.
pub fn check_network_access(procurator: &Map<String, Value>) -> Result<NetworkAccess, ConfigError> {
    let keys = procurator.iter().filter(|(key, _)| matches!(key.as_str(), "ports" | "egress"));
    let access: Map<String, Value> = keys.map(|(key, value)| (key.clone(), value.clone())).collect();
    let (file, present) = (Path::new("vm-config.json"), Conventional::default());
    let parsed = parse_config(br#"{"net": [{}]}"#, file, Uuid::nil(), present, &access)?;
    Ok(parsed.nics.into_iter().next().map(|nic| nic.access).unwrap_or_default())
}

/// Applies `overrides`, which obey the same bounds as the keys that they replace.
pub(crate) fn apply_overrides<F>(
    machine: &mut MachineSpec<F>,
    overrides: &Overrides,
) -> Result<(), OverrideError> {
    let Overrides { vcpus, memory_bytes, cmdline_append } = overrides;
    if let Some(vcpus) = *vcpus {
        if !(1..=keys::MAX_VCPUS).contains(&u64::from(vcpus)) {
            return Err(OverrideError {
                name: "vcpus",
                value: vcpus.to_string(),
                accepted: format!("an integer from 1 to {}", keys::MAX_VCPUS),
            });
        }
        let places = machine.cpus.topology.map(|topology| topology.places());
        if let Some(places) = places.filter(|places| u32::from(vcpus) > *places) {
            return Err(OverrideError {
                name: "vcpus",
                value: vcpus.to_string(),
                accepted: format!("at most the {places} that the image's cpus.topology has places for"),
            });
        }
        machine.cpus.boot_vcpus = vcpus;
    }
    if let Some(size) = *memory_bytes {
        machine.memory.size = checked_memory(size, machine.memory.backing)?;
    }
    if let Some(balloon) = machine.services.balloon.filter(|balloon| balloon.size > machine.memory.size) {
        return Err(OverrideError {
            name: "memory_bytes",
            value: machine.memory.size.get().to_string(),
            accepted: format!("at least the balloon's {} bytes", balloon.size.get()),
        });
    }
    if let Some(appended) = cmdline_append.as_deref().filter(|text| !text.is_empty()) {
        let cmdline = &mut machine.boot.cmdline;
        if !cmdline.is_empty() {
            cmdline.push(' ');
        }
        cmdline.push_str(appended);
        if cmdline.len() > keys::MAX_CMDLINE || appended.contains('\0') {
            return Err(OverrideError {
                name: "cmdline_append",
                value: format!("a text of {} bytes", appended.len()),
                accepted: format!(
                    "text without NUL that makes a command line of at most {} bytes",
                    keys::MAX_CMDLINE
                ),
            });
        }
    }
    Ok(())
}

fn checked_memory(size: Bytes, backing: MemoryBacking) -> Result<Bytes, OverrideError> {
    if let MemoryBacking::HugePages(page) = backing
        && !are_whole_pages(size, page)
    {
        let accepted = format!("a multiple of the image's huge pages of {} bytes", page.bytes().get());
        return Err(OverrideError { name: "memory_bytes", value: size.get().to_string(), accepted });
    }
    if is_possible_memory(size) {
        Ok(size)
    } else {
        let accepted = keys::MEMORY_SIZE.to_string();
        Err(OverrideError { name: "memory_bytes", value: size.get().to_string(), accepted })
    }
}
