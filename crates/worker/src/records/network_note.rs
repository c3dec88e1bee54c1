//! What is noted of each network, so that a later worker whose configuration no longer has it, or has it on another bridge, can take
//! away what is left of it on the host.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use vm_model::{NetworkName, VmId};

use super::atomic_file::read_in_place;
use super::leases::forget_leases;
use super::{RecordWriter, WriteError, make_private};
use crate::failure::chain;

const DIRECTORY: &str = "networks";
const FILE: &str = "network.json";
const VERSION: u32 = 1;

/// What of a network is on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkNote {
    version: u32,
    pub(crate) bridge: String,
    pub(crate) subnet: Ipv4Network,
    /// Absent from notes of earlier workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ways: Option<NotedWays>,
}

/// By which settings what VMs send leaves a network, and who gives them addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NotedWays {
    pub(crate) nat: bool,
    pub(crate) host_address: Option<Ipv4Addr>,
    pub(crate) router: Option<Ipv4Addr>,
    pub(crate) uplink: Option<String>,
    pub(crate) vlan: Option<u16>,
    pub(crate) external: bool,
}

impl NetworkNote {
    pub(crate) fn new(bridge: String, subnet: Ipv4Network, ways: NotedWays) -> Self {
        Self { version: VERSION, bridge, subnet, ways: Some(ways) }
    }
}

/// Where the files of a network lie. Those of the default one lie beside those that are common to all VMs.
pub(crate) fn network_directory(state_dir: &Path, name: &NetworkName) -> PathBuf {
    if name.is_default() { state_dir.to_owned() } else { state_dir.join(DIRECTORY).join(name.as_str()) }
}

/// Notes a network in its directory, which is made where it is not there yet.
///
/// # Errors
/// The host refuses.
pub(crate) fn note_network(
    writer: &RecordWriter,
    directory: &Path,
    note: &NetworkNote,
) -> Result<(), WriteError> {
    let file = directory.join(FILE);
    if read_in_place::<NetworkNote>(&file, VERSION).is_ok_and(|noted| noted.as_ref() == Some(note)) {
        return Ok(());
    }
    make_private(directory).map_err(|source| WriteError::new(directory, source))?;
    writer.write_json(&file, note)
}

/// Forgets a network that nothing is left of on the host. Its leases stay, for the day on which it is configured again.
pub(crate) fn forget_network(directory: &Path) {
    // Left behind it would only be looked after once more. A directory with leases in it stays.
    let _ = fs::remove_file(directory.join(FILE));
    let _ = fs::remove_dir(directory);
}

/// Removes what is kept of networks that are neither `configured` nor noted as being on this host, where no VM of `known` has an
/// address in them. What cannot be read is left alone.
pub(crate) fn sweep_networks(state_dir: &Path, configured: &BTreeSet<NetworkName>, known: &BTreeSet<VmId>) {
    for entry in fs::read_dir(state_dir.join(DIRECTORY)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_str().and_then(|name| NetworkName::parse(name).ok());
        let Some(name) = name.filter(|name| !configured.contains(name)) else { continue };
        let directory = entry.path();
        if directory.join(FILE).exists() {
            continue;
        }
        match forget_leases(&directory, known) {
            Ok(true) => {
                forget_network(&directory);
                info!(network = %name, "what was kept of the network is removed: it is configured no more, and no VM has an address in it");
            }
            Ok(false) => {}
            Err(problem) => {
                warn!(network = %name, error = chain(&problem), "what is kept of this network stays");
            }
        }
    }
}

/// The networks that are noted, the default one first. One whose note cannot be read is left alone, and told.
pub(crate) fn noted_networks(state_dir: &Path) -> Vec<(NetworkName, NetworkNote)> {
    let listed = fs::read_dir(state_dir.join(DIRECTORY)).into_iter().flatten().flatten();
    let further = listed.filter_map(|entry| NetworkName::parse(entry.file_name().to_str()?).ok());
    let names = std::iter::once(NetworkName::default()).chain(further.filter(|name| !name.is_default()));
    let noted = names.filter_map(|name| {
        match read_in_place::<NetworkNote>(&network_directory(state_dir, &name).join(FILE), VERSION) {
            Ok(note) => Some((name, note?)),
            Err(problem) => {
                warn!(network = %name, error = chain(&problem), "what is left of this network is not known");
                None
            }
        }
    });
    noted.collect()
}

#[cfg(test)]
mod tests {
    use ipam::{Pool, Wish};

    use super::*;
    use crate::records::Leases;

    #[test]
    fn what_nobody_refers_to_is_swept() {
        let state = tempfile::tempdir().expect("a directory");
        let names = ["configured", "on-host", "needed", "gone", "unreadable"];
        let [configured, on_host, needed, gone, unreadable] =
            names.map(|name| NetworkName::parse(name).expect("a name"));
        let directory = |name: &NetworkName| network_directory(state.path(), name);
        let (kept_vm, other) = (VmId::new("kept"), VmId::new("other"));
        for name in [&configured, &on_host, &needed, &gone, &unreadable] {
            let (directory, vm) = (directory(name), if *name == needed { &kept_vm } else { &other });
            fs::create_dir_all(&directory).expect("made");
            let pool = Pool::new("10.9.0.0/29".parse().expect("a network")).expect("a pool");
            let leases = Leases::open(&directory, pool, RecordWriter::open(state.path())).expect("opened");
            leases.put_in_force().expect("written");
            leases.ensure(vm, &[("net0", Wish::default())]).expect("given");
        }
        let note = NetworkNote::new(
            "br-x".to_owned(),
            "10.9.0.0/29".parse().expect("a network"),
            NotedWays::default(),
        );
        note_network(&RecordWriter::open(state.path()), &directory(&on_host), &note).expect("written");
        fs::copy(directory(&needed).join("leases.json"), directory(&needed).join("leases.json.kept-1"))
            .expect("copied");
        fs::copy(directory(&gone).join("leases.json"), directory(&gone).join("leases.json.kept-1"))
            .expect("copied");
        fs::write(directory(&unreadable).join("leases.json"), "{").expect("written");
        sweep_networks(state.path(), &[configured.clone()].into(), &[kept_vm].into());
        let left = names.map(|name| state.path().join(DIRECTORY).join(name).exists());
        assert_eq!(left, [true, true, true, false, true]);
    }

    #[test]
    fn a_network_is_noted_until_it_is_forgotten() {
        let state = tempfile::tempdir().expect("a directory");
        let writer = RecordWriter::open(state.path());
        let name = NetworkName::parse("storage").expect("a name");
        let directory = network_directory(state.path(), &name);
        let note = NetworkNote::new(
            "br-storage".to_owned(),
            "10.101.0.0/16".parse().expect("a network"),
            NotedWays { uplink: Some("eth1".to_owned()), vlan: Some(100), ..NotedWays::default() },
        );
        assert_eq!(noted_networks(state.path()), []);
        note_network(&writer, &directory, &note).expect("written");
        fs::create_dir(state.path().join("networks/other")).expect("made");
        fs::write(state.path().join("networks/other/network.json"), "{").expect("written");
        assert_eq!(noted_networks(state.path()), [(name, note.clone())], "a damaged note hides no other");
        note_network(&writer, state.path(), &note).expect("written");
        let names = noted_networks(state.path()).into_iter().map(|(name, _)| name.to_string());
        assert_eq!(names.collect::<Vec<_>>(), ["default", "storage"]);
        forget_network(state.path());
        forget_network(&directory);
        assert!(!directory.exists());
        assert_eq!(noted_networks(state.path()), []);
    }
}
