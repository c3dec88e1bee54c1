//! The uplink at a start: refused before anything is made, made ready before the rules, joined after them.

use crate::bridge::{BridgeOrigin, BridgePlan, Observed, observe, seen_bridge};
use crate::netlink::Netlink;
use crate::rules::SharedRules;
use crate::uplink::{UplinkPlan, give_uplinks_back, plan_uplink, prepare_uplink};
use crate::{NetworkConfig, NetworkError, Uplink, UplinkProblem};

/// What a start finds of the uplink.
pub(super) struct UplinkOutlook {
    /// The MTU of the network, which is no larger than that of the uplink.
    pub(super) mtu: u16,
    /// Why the bridge begins without its uplink. Upkeep tells it, and takes the uplink when it can be had.
    pub(super) problem: Option<UplinkProblem>,
}

/// Looks whether the bridge can have its uplink. VMs that run are served without one, and an interface that is not there may
/// come yet, as network cards do while a host boots: neither keeps the network from starting.
pub(super) fn check_uplink(
    config: &NetworkConfig,
    observed: &Observed,
    plan: &BridgePlan,
    runs_vms: bool,
) -> Result<UplinkOutlook, NetworkError> {
    let without = |problem| UplinkOutlook { mtu: plan.mtu, problem };
    let Some(uplink) = &config.uplink else { return Ok(without(None)) };
    let bridge = seen_bridge(&config.bridge, &observed.links).map(|link| link.index);
    match plan_uplink(uplink, &config.bridge, (bridge, plan.origin), observed) {
        Ok(UplinkPlan { mtu, .. }) => {
            let mtu = u16::try_from(mtu).map_or(plan.mtu, |mtu| mtu.min(plan.mtu));
            Ok(UplinkOutlook { mtu, problem: None })
        }
        Err(problem) if runs_vms || problem.may_pass() => Ok(without(Some(problem))),
        Err(problem) => Err(no_uplink(config, uplink, problem)),
    }
}

/// That `uplink` cannot be the one of the network of `config`.
pub(crate) fn no_uplink(config: &NetworkConfig, uplink: &Uplink, problem: UplinkProblem) -> NetworkError {
    NetworkError::Uplink { bridge: config.bridge.clone(), uplink: uplink.clone(), problem }
}

/// Makes the uplink ready, as far as it can be: the plan for what is left, and the index of its port. Uplinks that the
/// configuration no longer has are given back.
pub(super) async fn ready_uplink(
    config: &NetworkConfig,
    netlink: &Netlink,
    (bridge, origin): (u32, BridgeOrigin),
    rules: &SharedRules,
) -> Result<Option<(UplinkPlan, u32)>, NetworkError> {
    give_uplinks_back(netlink, config, Some(bridge), rules, config.uplink.as_ref()).await?;
    let Some(uplink) = &config.uplink else { return Ok(None) };
    let observed = observe(netlink).await?;
    // What was in its way was told or refused before.
    let Ok(plan) = plan_uplink(uplink, &config.bridge, (Some(bridge), origin), &observed) else {
        return Ok(None);
    };
    let port = prepare_uplink(netlink, rules, &config.bridge, (uplink, &plan)).await?;
    Ok(Some((plan, port)))
}
