//! The uplink while the network is up.

use tracing::info;

use super::{Keeper, Verdict};
use crate::bridge::Observed;
use crate::rules::Rules;
use crate::start::no_uplink;
use crate::uplink::{UplinkPlan, join_uplink, plan_uplink, prepare_uplink};
use crate::{NetworkConfig, Uplink};

impl Keeper {
    /// Looks for the uplink, makes what is missing of it, and has the rules know its port. Answers the plan for what is left.
    pub(super) async fn ready_uplink(
        &self,
        observed: &Observed,
        verdict: &mut Verdict,
    ) -> Option<(UplinkPlan, u32)> {
        let (shared, rules) = (&self.shared, &self.holdings.rules);
        let uplink = shared.config.uplink.as_ref()?;
        let bridge = (Some(shared.bridge()), self.holdings.origin);
        let plan = match plan_uplink(uplink, &shared.config.bridge, bridge, observed) {
            Ok(plan) => plan,
            Err(problem) => {
                shared.set_uplink_problem(Some(problem.clone()));
                let refusal = no_uplink(&shared.config, uplink, problem);
                let meaning = "VMs on it reach nothing by it, and others do not start";
                verdict.degraded.push(format!("{refusal} ({meaning})"));
                return None;
            }
        };
        shared.set_uplink_problem(None);
        verdict.degraded.extend(shortcomings(&shared.config, uplink, &plan));
        match prepare_uplink(&shared.netlink, rules, &shared.config.bridge, (uplink, &plan)).await {
            Ok(port) => {
                let know = move |rules: &mut Rules| rules.know_uplink(port);
                if let Err(error) = rules.run("have the rules know the uplink", know).await {
                    verdict.failed("the uplink is not looked after", &error);
                    return None;
                }
                Some((plan, port))
            }
            Err(error) => {
                verdict.failed(&format!("the uplink {uplink} cannot be had"), &error);
                None
            }
        }
    }

    /// Makes the uplink a port of the bridge again, and up, where it is not; the rules for it are in force.
    pub(super) async fn join_uplink(&self, ready: Option<(UplinkPlan, u32)>, verdict: &mut Verdict) {
        let (Some(uplink), Some((plan, port))) = (&self.shared.config.uplink, ready) else { return };
        if plan.steps.is_empty() {
            return;
        }
        match join_uplink(&self.shared.netlink, (self.shared.bridge(), port), (uplink, &plan)).await {
            Ok(()) => {
                info!(bridge = %self.shared.config.bridge, %uplink, steps = ?plan.steps, "mended the uplink, which somebody had changed");
            }
            Err(error) => verdict.failed(&format!("the uplink {uplink} cannot be had"), &error.into()),
        }
    }
}

/// What of an uplink that the bridge has is not as VMs need it; nothing here can change that.
fn shortcomings(config: &NetworkConfig, uplink: &Uplink, plan: &UplinkPlan) -> Vec<String> {
    let bridge = &config.bridge;
    let mut told = Vec::new();
    // Before, it may only be on its way up.
    if plan.steps.is_empty() && !plan.has_carrier {
        told.push(format!(
            "the uplink {uplink} of the bridge {bridge} has no carrier: nothing is connected to it, or what is there is off"
        ));
    }
    if plan.mtu < u32::from(config.mtu) {
        told.push(format!(
            "the uplink {uplink} of the bridge {bridge} passes on {} bytes at once, and VMs were told {}: raise its MTU, or \
             restart the worker and these VMs",
            plan.mtu, config.mtu
        ));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LinkName;
    use crate::uplink::UplinkStep;

    #[test]
    fn an_uplink_without_carrier_or_with_a_smaller_mtu_is_told() {
        let link = |name| LinkName::parse(name).expect("a name");
        let (uplink, bridge) = (Uplink { link: link("eth1"), vlan: None }, link("br-lan"));
        let config = NetworkConfig::new(bridge, "10.101.0.0/16".parse().expect("a network"));
        let plan = |mtu, has_carrier, steps: &[UplinkStep]| UplinkPlan {
            parent: 3,
            port: Some(3),
            mtu,
            has_carrier,
            steps: steps.to_vec(),
            before: None,
        };
        let told = |plan| shortcomings(&config, &uplink, &plan);
        assert_eq!(told(plan(9000, true, &[])), [""; 0]);
        assert_eq!(told(plan(1500, false, &[UplinkStep::BringPortUp])), [""; 0], "it is about to come up");
        let [unplugged] = &told(plan(1500, false, &[]))[..] else { panic!("one sentence") };
        assert!(unplugged.contains("the uplink eth1 of the bridge br-lan has no carrier"), "{unplugged}");
        let [narrow] = &told(plan(1400, true, &[]))[..] else { panic!("one sentence") };
        assert!(narrow.contains("1400 bytes at once, and VMs were told 1500"), "{narrow}");
    }
}
