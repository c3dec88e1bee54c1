//! All networks of this host, by name: each interface of a VM is attached to one of them, and ports of the host lead to one VM
//! whichever network it is in.

use std::collections::BTreeMap;

use host_network::{
    ForwardConflict, KeptNic, KeptNicProblem, LinkName, NetworkConfig, NetworkError, NicAttachment, Tap,
    TeardownOutcome,
};
use tokio::sync::{Mutex, watch};
use vm_model::{NetworkName, NicMismatch, PortForward, VmId, VmNic};

use super::context::Subnet;
use super::look_ahead::OwnPlaces;
use super::network::{AttachError, NetworkState, NetworkWaits, SharedNetwork, ToldNetwork};

/// The networks, up to the moment when they are taken down.
#[derive(Debug)]
pub(crate) struct Networks {
    networks: BTreeMap<NetworkName, SharedNetwork>,
    /// Held while ports of the host are given to a VM: no network knows of those that lead into another.
    forwarding: Mutex<()>,
    /// Told when one of them has become another than it was.
    changed: watch::Sender<()>,
}

impl Networks {
    pub(crate) fn new(networks: BTreeMap<NetworkName, NetworkState>) -> Self {
        let shared =
            networks.into_iter().map(|(name, state)| (name.clone(), SharedNetwork::new(name, state)));
        Self { networks: shared.collect(), forwarding: Mutex::new(()), changed: watch::Sender::new(()) }
    }

    /// Hears when one of them has become another than it was.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Tells that one of them has become another than it was.
    pub(crate) fn tell_change(&self) {
        self.changed.send_replace(());
    }

    /// Each of them by its name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&NetworkName, &SharedNetwork)> {
        self.networks.iter()
    }

    /// The bridge that the network `name` is on, where it is there.
    pub(crate) fn bridge(&self, name: &NetworkName) -> Option<LinkName> {
        self.networks.get(name)?.bridge()
    }

    /// Whether the network `name` is there, if there is to be one.
    ///
    /// # Errors
    /// What stands against it.
    pub(crate) fn check_up(&self, name: &NetworkName) -> Result<(), NetworkWaits> {
        self.networks.get(name).map_or(Ok(()), SharedNetwork::check_up)
    }

    /// Which of them are not as they are configured: a sentence each, which names a network that is not the default one.
    pub(crate) fn pending(&self) -> Vec<String> {
        self.networks
            .iter()
            .filter_map(|(name, network)| Some(of_network(name, network.pending()?)))
            .collect()
    }

    /// What the guests of the network `name` are told of it.
    pub(crate) fn subnet(&self, name: &NetworkName) -> Option<Subnet> {
        self.networks.get(name)?.subnet()
    }

    /// The configuration that the network `name` runs with, and the one that it is to have, where it is held back.
    pub(crate) fn configs(&self, name: &NetworkName) -> Vec<NetworkConfig> {
        self.networks.get(name).map(SharedNetwork::configs).unwrap_or_default()
    }

    /// What of the host is theirs.
    pub(crate) fn own_places(&self) -> OwnPlaces {
        OwnPlaces::of(self.networks.values().filter_map(|network| network.configs().into_iter().next()))
    }

    /// What the network `name` tells its guests of itself.
    pub(crate) fn told(&self, name: &NetworkName) -> Option<ToldNetwork> {
        self.networks.get(name)?.told()
    }

    /// An interface with what its network gives it beside the address that is kept for it, whatever was noted before.
    pub(crate) fn given(&self, nic: VmNic) -> VmNic {
        match self.subnet(&nic.network) {
            Some(subnet) => subnet.given(nic),
            None => VmNic { ipv6: None, ..nic },
        }
    }

    /// An interface of a machine that ran on while the networks were configured anew: as its network has it now, and what does
    /// not fit. In one that could not be set up it is as it was.
    pub(crate) fn of_running(&self, nic: VmNic) -> VmNic {
        let nic = as_given(nic);
        match (self.subnet(&nic.network), self.networks.get(&nic.network)) {
            (Some(subnet), _) => VmNic { mismatch: subnet.mismatch(&nic), ..subnet.given(nic) },
            (None, Some(_)) => nic,
            (None, None) => VmNic { ipv6: None, mismatch: Some(NicMismatch::NetworkRemoved), ..nic },
        }
    }

    /// Whether interfaces were found at the start whose VMs were not taken over: they may run on.
    pub(crate) fn has_unknown_nics(&self) -> bool {
        self.networks.values().any(SharedNetwork::has_unknown_nics)
    }

    /// What is wrong at this moment and cannot be mended by itself: a sentence each, which names a network that is not the
    /// default one.
    pub(crate) fn degradations(&self) -> Vec<String> {
        let told = self.networks.iter().flat_map(|(name, network)| {
            network.degradations().into_iter().map(move |sentence| of_network(name, sentence))
        });
        told.collect()
    }

    /// Gives an interface its TAP in the network `name`.
    pub(crate) async fn attach(
        &self,
        name: &NetworkName,
        attachment: NicAttachment,
    ) -> Result<Tap, AttachError> {
        let network = self.network(name)?;
        if attachment.access.forwards.is_empty() {
            return network.attach(attachment).await;
        }
        let _forwarding = self.forwarding.lock().await;
        for (other, elsewhere) in &self.networks {
            if other != name {
                elsewhere.refuse_conflict(&attachment.vm, &attachment.access.forwards).await?;
            }
        }
        network.attach(attachment).await
    }

    /// Whether the ports of the host that `vm` wants lead to no other VM at this moment, in whatever network. Blocks.
    ///
    /// # Errors
    /// The first that does.
    pub(crate) fn check_forwards(&self, vm: &VmId, forwards: &[PortForward]) -> Result<(), ForwardConflict> {
        self.networks.values().try_for_each(|network| network.check_forwards(vm, forwards))
    }

    /// Takes over the interface of a VM that ran on, in the network `name`; what of it is not as it was is answered.
    pub(crate) async fn keep(
        &self,
        name: &NetworkName,
        kept: KeptNic,
    ) -> Result<Option<KeptNicProblem>, AttachError> {
        self.network(name)?.keep(kept).await
    }

    /// Takes an interface's TAP away. What was never attached, or is in a network that there is no more, is no error.
    pub(crate) async fn detach(&self, name: &NetworkName, vm: &VmId, nic: &str) -> Result<(), AttachError> {
        match self.networks.get(name) {
            Some(network) => network.detach(vm, nic).await,
            None => Ok(()),
        }
    }

    /// Leaves what was set up on the host as it is, for guests that go on. Doing so twice is fine.
    ///
    /// # Errors
    /// The first of a network; the others are left all the same.
    pub(crate) async fn leave(&self) -> Result<(), NetworkError> {
        let mut outcome = Ok(());
        for network in self.networks.values() {
            outcome = outcome.and(network.leave().await);
        }
        outcome
    }

    /// Takes down what was set up on the host. Doing so twice is fine.
    ///
    /// # Errors
    /// The first of a network; the others are taken down all the same.
    pub(crate) async fn take_down(&self) -> Result<BTreeMap<NetworkName, TeardownOutcome>, NetworkError> {
        let (mut outcomes, mut problem) = (BTreeMap::new(), None);
        for (name, network) in &self.networks {
            match network.take_down().await {
                Ok(outcome) => outcomes.extend(outcome.map(|outcome| (name.clone(), outcome))),
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        problem.map_or(Ok(outcomes), Err)
    }

    fn network(&self, name: &NetworkName) -> Result<&SharedNetwork, AttachError> {
        self.networks.get(name).ok_or_else(|| AttachError::NoSuchNetwork(name.clone()))
    }
}

/// An interface as its guest was told of it, whatever was found not to fit its network since.
fn as_given(nic: VmNic) -> VmNic {
    match nic.mismatch {
        Some(NicMismatch::Ipv6Changed { given }) => VmNic { ipv6: given, mismatch: None, ..nic },
        Some(NicMismatch::NetworkRemoved | NicMismatch::AddressOutside { .. }) | None => {
            VmNic { mismatch: None, ..nic }
        }
    }
}

/// A sentence of the network `name`.
fn of_network(name: &NetworkName, sentence: String) -> String {
    if name.is_default() { sentence } else { format!("network {name}: {sentence}") }
}
