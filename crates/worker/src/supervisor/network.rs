//! The host's network as supervisors share it, up to the moment when it is taken down.

use std::net::Ipv4Addr;

use host_network::{
    ForwardConflict, HostNetwork, KeptNic, KeptNicProblem, NetworkError, NicAttachment, Tap, Teardown,
    TeardownOutcome,
};
use thiserror::Error;
use tokio::sync::{RwLock, watch};
use vm_model::{PortForward, VmId};

/// Why an interface was not attached or detached.
#[derive(Debug, Error)]
pub(crate) enum AttachError {
    #[error("the network is being taken down")]
    Closed,
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
    /// Whether interfaces were found whose VMs nobody named.
    has_unknown_nics: bool,
    /// The name servers that guests are told.
    name_servers: Vec<Ipv4Addr>,
    /// The domain that guests are told to look names up in.
    domain: Option<String>,
}

impl SharedNetwork {
    pub(crate) fn new(network: HostNetwork) -> Self {
        let degraded = network.watch_degraded();
        let report = network.report();
        let has_unknown_nics = !report.unknown.is_empty();
        let (name_servers, domain) = (report.dns.clone(), report.domain.as_ref().map(ToString::to_string));
        Self { network: RwLock::new(Some(network)), degraded, has_unknown_nics, name_servers, domain }
    }

    /// Whether interfaces were found at the start whose VMs were not taken over: they may run on.
    pub(crate) fn has_unknown_nics(&self) -> bool {
        self.has_unknown_nics
    }

    /// The name servers that guests are told, and the domain that they look names up in.
    pub(crate) fn told_names(&self) -> (Vec<Ipv4Addr>, Option<String>) {
        (self.name_servers.clone(), self.domain.clone())
    }

    /// What is wrong with it at this moment and cannot be mended by itself: a sentence each.
    pub(crate) fn degradations(&self) -> Vec<String> {
        self.degraded.borrow().clone()
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
