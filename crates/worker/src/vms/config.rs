//! What a [`VmManager`](super::VmManager) is told about its host.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use binary_cache::FetchSettings;
use host_network::{
    BetweenVms, ConnectionLimit, Domain, GuestAddresses, HostService, LinkName, NetworkConfig, VlanId,
};
use host_process::JailSettings;
use ipam::AddressRange;
use machine_host::Enforcement;
use nix_artifacts::CREDENTIAL_DIRECTORY;
use vm_model::{CollectionRule, Ipv6Subnet, NetworkName, ResourceLimits};

use super::network_plan::plan_networks;
use crate::node::RemovalLimit;
use crate::records::noted_networks;

/// The domain in which VMs are found by name: one that is kept for such use (ICANN's `.internal`).
const DEFAULT_DOMAIN: &str = "vm.internal";
/// Idle guests take next to nothing, and hundreds of them on a processor are in order. This only stops what cannot be meant.
const DEFAULT_VCPUS_PER_PROCESSOR: u32 = 256;

/// Settings of a VM manager. Every field has a default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmManagerConfig {
    /// How often the VMs' counters are sampled.
    pub metrics_poll_interval: Duration,
    /// Whether a failed VM is started again, with growing delays. A guest that powers itself off has not failed.
    pub auto_restart: bool,
    /// One directory a VM lies here, with all that belongs to it. What is common to all VMs lies in its parent.
    pub vm_artifacts_dir: PathBuf,
    /// The bridge that connects the VMs, created where it does not exist. At most 15 bytes.
    pub network_bridge: String,
    /// The VMs' IPv4 network in CIDR form. The bridge has its first host address.
    pub vm_subnet_base: String,
    /// The VMs' IPv6 network, in which each interface has the address that its hardware address makes; `None` does without.
    pub ipv6_subnet: Option<Ipv6Subnet>,
    /// Addresses of the IPv4 network that a VM has only if its description asks for them.
    pub reserved_addresses: Vec<AddressRange>,
    /// Directories whose entries may be VM artifacts.
    pub store_roots: Vec<PathBuf>,
    /// Where store paths come from that are not there; `None` waits until somebody brings them.
    pub fetch: Option<FetchSettings>,
    /// What of the fetched paths that nothing needs is deleted by itself; where it says nothing, only what is in the way of another
    /// fetch.
    pub collection: CollectionRule,
    /// When an artifact's content is compared with the hash it was assigned with.
    pub hash_verification: HashVerification,
    /// Whether VMs reach other networks through this host's addresses.
    pub nat: NetworkAddressTranslation,
    /// Whether VMs reach each other.
    pub between_vms: BetweenVms,
    /// What VMs reach of this host, beside pings and DHCP.
    pub host_services: Vec<HostService>,
    /// How many connections each VM may have in this host's table of connections.
    pub connections: ConnectionLimit,
    /// The domain in which VMs are found by name; `None` runs no name server.
    pub names: Option<Domain>,
    /// Further networks, each with a bridge and a subnet of its own. Interfaces that name no network are in the default one,
    /// which the settings above describe.
    pub networks: BTreeMap<NetworkName, NetworkSettings>,
    /// Who moves the frames between VMs and their bridges.
    pub vhost_net: VhostNet,
    /// How long a guest may take to obey the power button before it is killed.
    pub stop_timeout: Duration,
    /// How long volumes of removed VMs, and contents of volumes that were replaced, are kept. Zero keeps neither.
    pub removal_grace: Duration,
    /// How many VMs a master may have removed or replaced within an hour before somebody has to allow it.
    pub removal_limit: RemovalLimit,
    /// How much memory VMs may have together, as far as it is not of huge pages.
    pub memory_overcommit: MemoryOvercommit,
    /// How many vCPUs VMs may have together for each processor of the host.
    pub vcpus_per_processor: u32,
    /// Which processes the VMs run in.
    pub placement: Placement,
    /// How many machines are started at the same time. Others wait for their turn, and say so.
    pub max_parallel_starts: NonZeroUsize,
    /// The directory below which the files of VMs' credentials may lie.
    pub credentials_dir: PathBuf,
    /// What VMs may take of the host.
    pub limits: LimitSettings,
}

/// A network of VMs beside the default one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSettings {
    /// Its bridge, created where it does not exist. At most 15 bytes.
    pub bridge: String,
    /// Its IPv4 network in CIDR form. The bridge has its first host address.
    pub subnet: String,
    /// The network of its VMs' IPv6 addresses; `None` does without.
    pub ipv6_subnet: Option<Ipv6Subnet>,
    /// Addresses of it that no VM gets unless it asks for one.
    pub reserved: Vec<AddressRange>,
    /// Whether its VMs reach other networks through this host's addresses by it.
    pub nat: NetworkAddressTranslation,
    /// Whether its VMs reach each other by it.
    pub between_vms: BetweenVms,
    /// What its VMs reach of this host, beside pings and DHCP.
    pub host_services: Vec<HostService>,
    /// The domain in which its VMs are found by name on it; `None` runs no name server.
    pub names: Option<Domain>,
    /// The interface of this host that is a port of its bridge.
    pub uplink: Option<UplinkSettings>,
    /// Who gives its VMs their addresses.
    pub addresses: GuestAddresses,
    /// This host's address in it; `None` takes the first one.
    pub host_address: Option<Ipv4Addr>,
    /// The router that its VMs are told; `None` tells this host where VMs leave through its addresses, and none elsewhere.
    pub router: Option<Ipv4Addr>,
}

impl NetworkSettings {
    /// The network `subnet` on the bridge `bridge`, with the defaults of the configuration file.
    pub fn new(bridge: impl Into<String>, subnet: impl Into<String>) -> Self {
        Self {
            bridge: bridge.into(),
            subnet: subnet.into(),
            ipv6_subnet: None,
            reserved: Vec::new(),
            nat: NetworkAddressTranslation::default(),
            between_vms: BetweenVms::default(),
            host_services: Vec::new(),
            names: None,
            uplink: None,
            addresses: GuestAddresses::default(),
            host_address: None,
            router: None,
        }
    }
}

/// The interface of this host that is a port of a network's bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkSettings {
    /// Its name. At most 15 bytes.
    pub link: String,
    /// The VLAN on it that is the port; `None` for the interface itself.
    pub vlan: Option<VlanId>,
}

/// Which processes VMs run in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// All in this one. They end with it. A VM that is to be isolated strictly is refused.
    #[default]
    InThisProcess,
    /// In this one, but for those that are isolated strictly, which have a process each. All end with this one.
    StrictApart(HostProcessSettings),
    /// In processes of their own, which go on when this one ends; the next manager takes them over.
    HostProcesses(HostProcessSettings),
}

/// How host processes are started, and what they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostProcessSettings {
    /// The program with its arguments. It is to call `host_process::host::serve` and little else.
    pub program: Vec<OsString>,
    /// Where their sockets lie. Made where it does not exist; nobody else's to read.
    pub directory: PathBuf,
    /// The most VMs in one of them: a process is the only border between tenants. One that is isolated strictly is alone in
    /// any case.
    pub vms_per_process: NonZeroUsize,
    /// How many are started ahead, so that a VM need not wait for its process.
    pub spare: usize,
    /// How they are jailed; `None` leaves them as they are started. The program is told by `--jail=…`, and tells of it when
    /// it is called with `--probe-jail`, too.
    pub jail: Option<JailSettings>,
}

/// When an artifact's content is hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashVerification {
    /// Once for each store path, as long as the path stays the same file system object.
    #[default]
    Once,
    /// Before each boot.
    Always,
    /// Never: the assigned hash only tells one artifact from another.
    Never,
}

/// Whether the host forwards and masquerades for its VMs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkAddressTranslation {
    /// Forward, and masquerade what leaves by other interfaces.
    #[default]
    Masquerade,
    /// The VMs reach each other and the host only, unless somebody else routes for them.
    Off,
}

/// Who moves the frames between a VM's queues and its TAP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VhostNet {
    /// The VM's own thread.
    #[default]
    Off,
    /// The host's kernel, where it has `/dev/vhost-net`; the VM's own thread where it has not, and for interfaces with a
    /// rate limit. A warning in the VM's status tells why.
    WherePossible,
}

/// How much memory VMs may be promised together. A VM that would be promised more is not started, and tried again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryOvercommit {
    /// So many hundredths of what the host has, 1 to 10,000, less a reserve for the host itself.
    Percent(u32),
    /// As much as is asked for, but no VM more than the host has. Where guests use more than there is, the host ends
    /// processes.
    Unlimited,
}

/// What VMs may take of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitSettings {
    /// Limits of every VM, where its definition says nothing else. A VM with any limit has a process of its own.
    pub defaults: ResourceLimits,
    /// How much memory a VM may take whose definition does not say it.
    pub memory: MemoryLimit,
    /// What becomes of a VM whose limits cannot be put in force on this host.
    pub enforcement: Enforcement,
}

/// How much memory a VM may take whose definition does not say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// As much as the host has.
    #[default]
    Off,
    /// Its guest's memory, what its process takes besides, and some room for pages of files.
    Computed,
}

impl Default for MemoryOvercommit {
    fn default() -> Self {
        Self::Percent(100)
    }
}

impl Default for VmManagerConfig {
    fn default() -> Self {
        Self {
            metrics_poll_interval: Duration::from_secs(5),
            auto_restart: true,
            vm_artifacts_dir: PathBuf::from("/var/lib/procurator/vms"),
            network_bridge: "br-procurator".to_owned(),
            vm_subnet_base: "10.100.0.0/16".to_owned(),
            ipv6_subnet: None,
            reserved_addresses: Vec::new(),
            store_roots: vec![PathBuf::from("/nix/store")],
            fetch: None,
            collection: CollectionRule::default(),
            hash_verification: HashVerification::default(),
            nat: NetworkAddressTranslation::default(),
            between_vms: BetweenVms::default(),
            host_services: Vec::new(),
            connections: ConnectionLimit::default(),
            names: DEFAULT_DOMAIN.parse().ok(),
            networks: BTreeMap::new(),
            vhost_net: VhostNet::default(),
            stop_timeout: Duration::from_secs(30),
            removal_grace: Duration::from_secs(24 * 3600),
            removal_limit: RemovalLimit::default(),
            memory_overcommit: MemoryOvercommit::default(),
            vcpus_per_processor: DEFAULT_VCPUS_PER_PROCESSOR,
            placement: Placement::default(),
            max_parallel_starts: twice_the_processors(),
            credentials_dir: PathBuf::from(CREDENTIAL_DIRECTORY),
            limits: LimitSettings::default(),
        }
    }
}

/// Starts that are many enough to keep all processors busy while some wait for the host's kernel.
fn twice_the_processors() -> NonZeroUsize {
    let processors = available_parallelism().unwrap_or(NonZeroUsize::MIN);
    processors.saturating_add(processors.get())
}

impl VmManagerConfig {
    /// The directory of what is common to all VMs: the parent of [`VmManagerConfig::vm_artifacts_dir`].
    pub(crate) fn state_dir(&self) -> &Path {
        self.vm_artifacts_dir.parent().unwrap_or(&self.vm_artifacts_dir)
    }

    /// What of the limits that these settings speak of could not be put in force on this host, in a sentence: every VM's, and
    /// where limits are required, whichever a VM may have.
    pub fn foresee_limits(&self) -> Option<String> {
        super::placing::foresee_limits(self)
    }

    /// Which limit of every VM is so tight that no machine could run within it, in a sentence.
    pub fn foresee_tight_limits(&self) -> Option<String> {
        super::placing::foresee_tight_limits(self)
    }

    /// Every network as it is to be on this host, the default one first. None where settings are such that a manager refuses
    /// them.
    pub fn network_configs(&self) -> Vec<(NetworkName, NetworkConfig)> {
        let planned = plan_networks(self).unwrap_or_default().into_iter();
        planned.map(|network| (network.name, network.config)).collect()
    }

    /// The bridges that networks of these settings had under an earlier worker of this state directory, where they are to have
    /// others.
    pub fn former_bridges(&self) -> BTreeMap<NetworkName, LinkName> {
        let former = noted_networks(self.state_dir()).into_iter().filter_map(|(name, note)| {
            let (_, settings) = self.all_networks().into_iter().find(|(known, _)| *known == name)?;
            Some((
                name,
                LinkName::parse(&note.bridge).ok().filter(|bridge| bridge.as_str() != settings.bridge)?,
            ))
        });
        former.collect()
    }

    /// Every network by its name, the default one first.
    pub fn all_networks(&self) -> Vec<(NetworkName, NetworkSettings)> {
        let default = NetworkSettings {
            ipv6_subnet: self.ipv6_subnet,
            reserved: self.reserved_addresses.clone(),
            nat: self.nat,
            between_vms: self.between_vms,
            host_services: self.host_services.clone(),
            names: self.names.clone(),
            ..NetworkSettings::new(self.network_bridge.as_str(), self.vm_subnet_base.as_str())
        };
        let further = self.networks.iter().map(|(name, settings)| (name.clone(), settings.clone()));
        std::iter::once((NetworkName::default(), default)).chain(further).collect()
    }
}
