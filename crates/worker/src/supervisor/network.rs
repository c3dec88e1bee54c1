//! One of the host's networks as supervisors share it, up to the moment when it is taken down.

use std::net::Ipv4Addr;

use host_network::{
    ForwardConflict, HostNetwork, KeptNic, KeptNicProblem, NetworkConfig, NetworkError, NicAttachment, Tap,
    Teardown, TeardownOutcome,
};
use thiserror::Error;
use tokio::sync::{RwLock, watch};
use vm_model::{NetworkName, PortForward, VmId};

use super::context::Subnet;

/// Why an interface was not attached or detached.
#[derive(Debug, Error)]
pub(crate) enum AttachError {
    #[error("the network is being taken down")]
    Closed,
    #[error("there is no network \"{0}\"")]
    NoSuchNetwork(NetworkName),
    #[error(transparent)]
    Forward(#[from] ForwardConflict),
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// A network that is there until somebody takes it down.
#[derive(Debug)]
pub(crate) struct SharedNetwork {
    /// Taken down only when nobody is in the middle of attaching.
    network: RwLock<Option<HostNetwork>>,
    /// What is wrong with it.
    degraded: watch::Receiver<Vec<String>>,
    /// What its guests are told of it.
    subnet: Subnet,
    told: ToldNetwork,
    config: NetworkConfig,
    /// Whether interfaces were found whose VMs nobody named.
    has_unknown_nics: bool,
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

impl SharedNetwork {
    pub(crate) fn new(network: HostNetwork) -> Self {
        let degraded = network.watch_degraded();
        let report = network.report();
        let has_unknown_nics = !report.unknown.is_empty();
        let config = network.config();
        let told = ToldNetwork {
            mask: config.subnet.mask(),
            router: config.router.address(config.gateway),
            name_servers: report.dns.clone(),
            domain: report.domain.as_ref().map(ToString::to_string),
        };
        let subnet = Subnet { gateway: config.gateway, mask: config.subnet.mask(), ipv6: config.ipv6 };
        let config = config.clone();
        let network = RwLock::new(Some(network));
        Self { network, degraded, subnet, told, config, has_unknown_nics }
    }

    /// What its guests are told of it.
    pub(crate) fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// Whether interfaces were found at the start whose VMs were not taken over: they may run on.
    pub(crate) fn has_unknown_nics(&self) -> bool {
        self.has_unknown_nics
    }

    /// What its guests are told of it, in all.
    pub(crate) fn told(&self) -> ToldNetwork {
        self.told.clone()
    }

    /// What is wrong with it at this moment and cannot be mended by itself: a sentence each.
    pub(crate) fn degradations(&self) -> Vec<String> {
        self.degraded.borrow().clone()
    }

    /// The configuration that it runs with.
    pub(crate) fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// Gives an interface its TAP.
    pub(crate) async fn attach(&self, attachment: NicAttachment) -> Result<Tap, AttachError> {
        match self.network.read().await.as_ref() {
            Some(network) => Ok(network.attach(attachment).await?),
            None => Err(AttachError::Closed),
        }
    }

    /// Whether the ports of the host that `vm` wants lead to no other VM at this moment. Blocks.
    ///
    /// # Errors
    /// The first that does.
    pub(crate) fn check_forwards(&self, vm: &VmId, forwards: &[PortForward]) -> Result<(), ForwardConflict> {
        match self.network.blocking_read().as_ref() {
            Some(network) => network.check_forwards(vm, forwards),
            None => Ok(()),
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
        match self.network.read().await.as_ref() {
            Some(network) => network.check_forwards(vm, forwards),
            None => Ok(()),
        }
    }

    /// Takes over the interface of a VM that ran on; what of it is not as it was is answered.
    pub(crate) async fn keep(&self, kept: KeptNic) -> Result<Option<KeptNicProblem>, AttachError> {
        match self.network.read().await.as_ref() {
            Some(network) => Ok(network.keep(kept).await?),
            None => Err(AttachError::Closed),
        }
    }

    /// Takes an interface's TAP away. What was never attached is no error.
    pub(crate) async fn detach(&self, vm: &VmId, nic: &str) -> Result<(), AttachError> {
        match self.network.read().await.as_ref() {
            Some(network) => Ok(network.detach(vm, nic).await?),
            None => Ok(()),
        }
    }

    /// Leaves what was set up on the host as it is, for guests that go on. Doing so twice is fine.
    pub(crate) async fn leave(&self) -> Result<(), NetworkError> {
        match self.network.write().await.take() {
            Some(network) => network.shutdown(Teardown::Keep).await.map(drop),
            None => Ok(()),
        }
    }

    /// Takes down what was set up on the host. Doing so twice is fine.
    pub(crate) async fn take_down(&self) -> Result<Option<TeardownOutcome>, NetworkError> {
        match self.network.write().await.take() {
            Some(network) => network.shutdown(Teardown::Remove).await.map(Some),
            None => Ok(None),
        }
    }
}
