//! A network that is there and not yet as it is configured: what keeps it so, and whether that is over.

use std::collections::{BTreeMap, BTreeSet};

use host_network::{
    GuestAddresses, HostNetwork, KeptNic, LinkName, NetworkConfig, NetworkError, check_access, guests_access,
    survey,
};
use vm_model::VmId;

use crate::failure::chain;

/// That a network is there otherwise than it is configured.
#[derive(Debug)]
pub(crate) struct HeldBack {
    /// As it is to be.
    pub(crate) configured: NetworkConfig,
    /// What keeps it from that: a sentence.
    pub(crate) sentence: String,
}

/// VMs that run in a network and could not be in it as it is configured, by what cannot be kept to.
#[derive(Debug, Default)]
pub(crate) struct UnfitVms(BTreeMap<String, BTreeSet<VmId>>);

impl HeldBack {
    /// What keeps `network` as it is at this moment; nothing where it can be changed.
    ///
    /// # Errors
    /// The host's links cannot be listed.
    pub(crate) async fn look(&self, network: &HostNetwork) -> Result<Option<String>, NetworkError> {
        let present = network.config();
        if present.bridge == self.configured.bridge {
            let unfit = unfit_vms(&self.configured, present, &network.attached_nics()).await?;
            return Ok(unfit.sentence());
        }
        if let Some(problem) = find_bridge_problem(&self.configured, &present.bridge).await? {
            return Ok(Some(problem));
        }
        let is_in_use = network.is_in_use().await?;
        Ok(is_in_use.then(|| keeps_for_vms(&present.bridge, &self.configured.bridge)))
    }
}

impl UnfitVms {
    /// That they keep the network as it was; nothing where there are none.
    pub(crate) fn sentence(&self) -> Option<String> {
        let told = self.0.iter().map(|(problem, vms)| {
            let vms: Vec<&str> = vms.iter().map(VmId::as_str).collect();
            format!("{}: {problem}", vms.join(", "))
        });
        let told: Vec<String> = told.collect();
        (!told.is_empty()).then(|| {
            format!(
                "the network stays as it was before while VMs run in it that cannot be in it as it is configured, and is \
                 changed once none of them runs (a crash or a restart is enough) or needs that; {}",
                told.join("; ")
            )
        })
    }
}

/// The VMs in a network, which is there by the configuration `present`, that could not be in it as it is `configured`: those of
/// `kept`, and those that the host's tables know of.
///
/// # Errors
/// The host's links cannot be listed.
pub(crate) async fn unfit_vms(
    configured: &NetworkConfig,
    present: &NetworkConfig,
    kept: &[KeptNic],
) -> Result<UnfitVms, NetworkError> {
    let mut unfit = UnfitVms::default();
    if configured.uplink.is_none() && configured.addresses == GuestAddresses::Ours {
        return Ok(unfit);
    }
    let kept = kept.iter().map(|nic| (nic.vm.clone(), nic.access.clone()));
    for (vm, access) in kept.chain(guests_access(present).await?) {
        if let Err(problem) = check_access(configured, &access) {
            unfit.0.entry(problem.to_string()).or_default().insert(vm);
        }
    }
    Ok(unfit)
}

/// That a network keeps its bridge `former` because VMs are there.
pub(crate) fn keeps_for_vms(former: &LinkName, configured: &LinkName) -> String {
    format!(
        "the network keeps its bridge {former} while VMs run there; {configured} is made in its place once nothing is on it"
    )
}

/// That a network keeps its bridge `former`, which is there, because the one that is `configured` cannot be had; nothing where it
/// can.
///
/// # Errors
/// The host's links cannot be listed.
pub(crate) async fn find_bridge_problem(
    configured: &NetworkConfig,
    former: &LinkName,
) -> Result<Option<String>, NetworkError> {
    let seen = survey(configured, Some(former)).await?;
    let problem = seen.bridge.filter(|_| seen.former_is_there);
    Ok(problem.map(|problem| {
        format!(
            "the network keeps its bridge {former}, because {} cannot be had: {}",
            configured.bridge,
            chain(&problem)
        )
    }))
}
