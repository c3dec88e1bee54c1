//! One of the host's networks as supervisors share it, up to the moment when it is taken down.
//!
//! ```text
//!             conflict with the host                    VMs need it as it was before
//!   Waiting ◀──────────────────────── set up ────────────────────────▶ Up, held back
//!      │                                 │                                   │
//!      │ the conflict is gone            ▼                      none does any more
//!      └────────────────────────────▶   Up   ◀───────────────────────────────┘
//! ```
//!
//! Who sets networks up, and tries again, is in [`crate::vms`].

use std::net::Ipv4Addr;
use std::sync::{PoisonError, RwLock as Lock};

use host_network::{
    AttachmentOutlook, ForwardConflict, GuestAddresses, HostNetwork, KeptNic, KeptNicProblem, Leftovers,
    LinkName, NetworkConfig, NetworkError, NicAttachment, Tap, Teardown, TeardownOutcome, remove_leftovers,
};
use thiserror::Error;
use tokio::sync::{RwLock, RwLockWriteGuard, watch};
use vm_model::{AddressSource, NetworkName, PortForward, VmId};

use super::context::Subnet;
use super::held_network::HeldBack;
use crate::failure::chain;

/// Why an interface was not attached or detached.
#[derive(Debug, Error)]
pub(crate) enum AttachError {
    #[error("the network is being taken down")]
    Closed,
    #[error("there is no network \"{0}\"")]
    NoSuchNetwork(NetworkName),
    #[error(transparent)]
    Waiting(#[from] NetworkWaits),
    #[error(transparent)]
    Forward(#[from] ForwardConflict),
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// That a network is configured and could not be set up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the network \"{network}\" is not set up: {problem}")]
pub(crate) struct NetworkWaits {
    /// Which.
    network: NetworkName,
    /// What stands against it.
    problem: String,
}

/// How a network is on this host.
#[derive(Debug)]
pub(crate) enum NetworkState {
    /// It is there, or held back as it was before.
    Up { network: HostNetwork, held_back: Option<HeldBack> },
    /// The host does not let it be as it is configured.
    Waiting(WaitingNetwork),
    /// It was taken down or left.
    Ended,
}

/// A network that the host does not let be as it is configured.
#[derive(Debug)]
pub(crate) struct WaitingNetwork {
    /// What stands against it.
    pub(crate) problem: String,
    /// Interfaces of VMs that run on in what an earlier worker made of it.
    pub(crate) kept: Vec<KeptNic>,
    /// What an earlier worker made of it and may be there still.
    pub(crate) left: Option<NetworkConfig>,
}

impl WaitingNetwork {
    fn sentence(&self) -> String {
        let Self { problem, kept, .. } = self;
        let mut vms: Vec<&str> = kept.iter().map(|nic| nic.vm.as_str()).collect();
        vms.dedup();
        let run_on = match vms.as_slice() {
            [] => String::new(),
            vms => format!("; VMs that run in it go on as before ({})", vms.join(", ")),
        };
        format!("the network is not set up as it is configured, and no VM starts in it: {problem}{run_on}")
    }
}

/// A network of this host, until somebody takes it down.
#[derive(Debug)]
pub(crate) struct SharedNetwork {
    name: NetworkName,
    /// Changed only when nobody is in the middle of attaching.
    state: RwLock<NetworkState>,
    /// What is told of it without waiting for that. Written by who has changed the state, held for moments.
    facts: Lock<Facts>,
}

/// What is told of a network.
#[derive(Debug)]
enum Facts {
    Up(Box<UpFacts>),
    Waiting(WaitingFacts),
}

#[derive(Debug)]
struct WaitingFacts {
    waits: NetworkWaits,
    sentence: String,
}

/// What is told of a network that is there.
#[derive(Debug)]
struct UpFacts {
    /// What is wrong with it.
    degraded: watch::Receiver<Vec<String>>,
    held_back: Option<String>,
    /// As it is to be, where it is held back.
    configured: Option<NetworkConfig>,
    /// What its guests are told of it.
    subnet: Subnet,
    told: ToldNetwork,
    config: NetworkConfig,
    outlook: AttachmentOutlook,
    /// Whether interfaces were found whose VMs nobody named.
    has_unknown_nics: bool,
}

impl UpFacts {
    fn of(network: &HostNetwork, held_back: Option<&HeldBack>) -> Self {
        let degraded = network.watch_degraded();
        let (report, config) = (network.report(), network.config());
        let told = ToldNetwork {
            mask: config.subnet.mask(),
            router: config.router.address(config.gateway),
            name_servers: report.dns.clone(),
            domain: report.domain.as_ref().map(ToString::to_string),
        };
        let address_source = match config.addresses {
            GuestAddresses::Ours => AddressSource::Worker,
            GuestAddresses::External => AddressSource::Others,
        };
        let (gateway, mask) = (config.gateway, config.subnet.mask());
        let subnet = Subnet { gateway, mask, ipv6: config.ipv6, address_source };
        let has_unknown_nics = !report.unknown.is_empty();
        let config = config.clone();
        let outlook = network.attachment_outlook();
        let configured = held_back.map(|held| held.configured.clone());
        let held_back = held_back.map(|held| held.sentence.clone());
        Self { degraded, held_back, configured, subnet, told, config, outlook, has_unknown_nics }
    }
}

impl Facts {
    /// `None` of one that is ended: what was told of it stays.
    fn of(name: &NetworkName, state: &NetworkState) -> Option<Self> {
        Some(match state {
            NetworkState::Up { network, held_back } => {
                Self::Up(Box::new(UpFacts::of(network, held_back.as_ref())))
            }
            NetworkState::Waiting(waiting) => {
                let waits = NetworkWaits { network: name.clone(), problem: waiting.problem.clone() };
                Self::Waiting(WaitingFacts { waits, sentence: waiting.sentence() })
            }
            NetworkState::Ended => return None,
        })
    }
}

/// What guests are told of a network, by whatever means.
#[derive(Clone, Debug)]
pub(crate) struct ToldNetwork {
    /// Which bits of an address name the network.
    pub(crate) mask: Ipv4Addr,
    /// Where they send what is for no network of theirs, if it leads there.
    pub(crate) router: Option<Ipv4Addr>,
    /// Their name servers.
    pub(crate) name_servers: Vec<Ipv4Addr>,
    /// The domain that they look names up in.
    pub(crate) domain: Option<String>,
}

/// The right to change how a network is. Nobody attaches anything meanwhile.
#[derive(Debug)]
pub(crate) struct NetworkTurn<'a> {
    network: &'a SharedNetwork,
    state: RwLockWriteGuard<'a, NetworkState>,
}

impl NetworkTurn<'_> {
    /// Takes the state out if something is to be done about it: it is not as it is configured, and nothing keeps it so any more.
    ///
    /// # Errors
    /// The host's links cannot be listed.
    pub(crate) async fn take_pending(&mut self) -> Result<Option<NetworkState>, NetworkError> {
        let kept_by = match &mut *self.state {
            NetworkState::Up { held_back: None, .. } | NetworkState::Ended => return Ok(None),
            NetworkState::Up { network, held_back: Some(held) } => {
                held.look(network).await?.map(|sentence| held.sentence = sentence)
            }
            NetworkState::Waiting(_) => None,
        };
        if kept_by.is_some() {
            self.network.tell(&self.state);
            return Ok(None);
        }
        Ok(Some(std::mem::replace(&mut *self.state, NetworkState::Ended)))
    }

    /// Has it be so from now on.
    pub(crate) fn put(mut self, state: NetworkState) {
        *self.state = state;
        self.network.tell(&self.state);
    }
}

impl SharedNetwork {
    pub(crate) fn new(name: NetworkName, state: NetworkState) -> Self {
        let waits = NetworkWaits { network: name.clone(), problem: "it is ended".to_owned() };
        let ended = || Facts::Waiting(WaitingFacts { waits, sentence: String::new() });
        let facts = Facts::of(&name, &state).unwrap_or_else(ended);
        Self { name, state: RwLock::new(state), facts: Lock::new(facts) }
    }

    /// For who wants to change how it is.
    pub(crate) async fn turn(&self) -> NetworkTurn<'_> {
        NetworkTurn { network: self, state: self.state.write().await }
    }

    fn tell(&self, state: &NetworkState) {
        if let Some(facts) = Facts::of(&self.name, state) {
            *self.facts.write().unwrap_or_else(PoisonError::into_inner) = facts;
        }
    }

    /// What `of` tells of it while it is there.
    fn while_up<T>(&self, of: impl FnOnce(&UpFacts) -> T) -> Option<T> {
        match &*self.facts.read().unwrap_or_else(PoisonError::into_inner) {
            Facts::Up(facts) => Some(of(facts)),
            Facts::Waiting(_) => None,
        }
    }

    /// Whether it is there, and guests could be attached to it.
    ///
    /// # Errors
    /// What stands against it.
    pub(crate) fn check_up(&self) -> Result<(), NetworkWaits> {
        match &*self.facts.read().unwrap_or_else(PoisonError::into_inner) {
            Facts::Up(facts) => facts
                .outlook
                .check()
                .map_err(|problem| NetworkWaits { network: self.name.clone(), problem: chain(&problem) }),
            Facts::Waiting(WaitingFacts { waits, .. }) => Err(waits.clone()),
        }
    }

    /// What its guests are told of it, where it is there.
    pub(crate) fn subnet(&self) -> Option<Subnet> {
        self.while_up(|facts| facts.subnet)
    }

    /// Whether VMs may run in it that were not taken over.
    pub(crate) fn has_unknown_nics(&self) -> bool {
        self.while_up(|facts| facts.has_unknown_nics).unwrap_or(false)
    }

    /// What its guests are told of it, in all.
    pub(crate) fn told(&self) -> Option<ToldNetwork> {
        self.while_up(|facts| facts.told.clone())
    }

    /// The bridge that it is on.
    pub(crate) fn bridge(&self) -> Option<LinkName> {
        self.while_up(|facts| facts.config.bridge.clone())
    }

    /// That it is not as it is configured: a sentence.
    pub(crate) fn pending(&self) -> Option<String> {
        match &*self.facts.read().unwrap_or_else(PoisonError::into_inner) {
            Facts::Up(facts) => facts.held_back.clone(),
            Facts::Waiting(WaitingFacts { sentence, .. }) => Some(sentence.clone()),
        }
    }

    /// What is wrong with it at this moment and cannot be mended by itself: a sentence each.
    pub(crate) fn degradations(&self) -> Vec<String> {
        let of_network = self.while_up(|facts| facts.degraded.borrow().clone()).unwrap_or_default();
        self.pending().into_iter().chain(of_network).collect()
    }

    /// The configuration that it runs with, where it is there, and the one that it is to have, where it is held back.
    pub(crate) fn configs(&self) -> Vec<NetworkConfig> {
        self.while_up(|facts| [facts.config.clone()].into_iter().chain(facts.configured.clone()).collect())
            .unwrap_or_default()
    }

    /// Gives an interface its TAP.
    pub(crate) async fn attach(&self, attachment: NicAttachment) -> Result<Tap, AttachError> {
        match &*self.state.read().await {
            NetworkState::Up { network, .. } => Ok(network.attach(attachment).await?),
            NetworkState::Waiting(WaitingNetwork { problem, .. }) => {
                Err(NetworkWaits { network: self.name.clone(), problem: problem.clone() }.into())
            }
            NetworkState::Ended => Err(AttachError::Closed),
        }
    }

    /// Whether the ports of the host that `vm` wants lead to no other VM at this moment. Blocks.
    ///
    /// # Errors
    /// The first that does.
    pub(crate) fn check_forwards(&self, vm: &VmId, forwards: &[PortForward]) -> Result<(), ForwardConflict> {
        match &*self.state.blocking_read() {
            NetworkState::Up { network, .. } => network.check_forwards(vm, forwards),
            NetworkState::Waiting(_) | NetworkState::Ended => Ok(()),
        }
    }

    /// [`SharedNetwork::check_forwards`] for use on a runtime.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn refuse_conflict(
        &self,
        vm: &VmId,
        forwards: &[PortForward],
    ) -> Result<(), ForwardConflict> {
        match &*self.state.read().await {
            NetworkState::Up { network, .. } => network.check_forwards(vm, forwards),
            NetworkState::Waiting(_) | NetworkState::Ended => Ok(()),
        }
    }

    /// Takes over the interface of a VM that ran on; what of it is not as it was is answered.
    pub(crate) async fn keep(&self, kept: KeptNic) -> Result<Option<KeptNicProblem>, AttachError> {
        if let NetworkState::Up { network, .. } = &*self.state.read().await {
            return Ok(network.keep(kept).await?);
        }
        self.change_kept(|nics| nics.push(kept)).await.then_some(None).ok_or(AttachError::Closed)
    }

    /// Takes an interface's TAP away. What was never attached is no error, and what an earlier worker attached in a network that
    /// waits goes with its machine.
    pub(crate) async fn detach(&self, vm: &VmId, nic: &str) -> Result<(), AttachError> {
        if let NetworkState::Up { network, .. } = &*self.state.read().await {
            return Ok(network.detach(vm, nic).await?);
        }
        self.change_kept(|nics| nics.retain(|kept| kept.vm != *vm || kept.nic != nic)).await;
        Ok(())
    }

    /// Changes what is known of interfaces of VMs that run in a network that waits; whether it does.
    async fn change_kept(&self, change: impl FnOnce(&mut Vec<KeptNic>)) -> bool {
        let mut state = self.state.write().await;
        let NetworkState::Waiting(waiting) = &mut *state else { return false };
        change(&mut waiting.kept);
        self.tell(&state);
        true
    }

    /// Leaves what was set up on the host as it is, for guests that go on. Doing so twice is fine.
    pub(crate) async fn leave(&self) -> Result<(), NetworkError> {
        match std::mem::replace(&mut *self.state.write().await, NetworkState::Ended) {
            NetworkState::Up { network, .. } => network.shutdown(Teardown::Keep).await.map(drop),
            NetworkState::Waiting(_) | NetworkState::Ended => Ok(()),
        }
    }

    /// Takes down what was set up on the host, by an earlier worker too. Doing so twice is fine.
    pub(crate) async fn take_down(&self) -> Result<Option<TeardownOutcome>, NetworkError> {
        match std::mem::replace(&mut *self.state.write().await, NetworkState::Ended) {
            NetworkState::Up { network, .. } => network.shutdown(Teardown::Remove).await.map(Some),
            NetworkState::Waiting(WaitingNetwork { left: Some(left), .. }) => {
                Ok(Some(match remove_leftovers(&left).await? {
                    Leftovers::Removed => TeardownOutcome::Removed,
                    Leftovers::CarriesVms { ports } | Leftovers::InUse { ports } => {
                        TeardownOutcome::InUse { ports }
                    }
                }))
            }
            NetworkState::Waiting(WaitingNetwork { left: None, .. }) | NetworkState::Ended => Ok(None),
        }
    }
}
