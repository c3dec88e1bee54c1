//! The uplink while the network is up.

use tracing::info;

use super::{Keeper, Verdict};
use crate::bridge::Observed;
use crate::rules::Rules;
use crate::start::no_uplink;
use crate::uplink::{UplinkPlan, join_uplink, plan_uplink, prepare_uplink};

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
                let refusal = no_uplink(&shared.config, uplink, problem);
                verdict.degraded.push(format!("VMs reach nothing by it: {refusal}"));
                return None;
            }
        };
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
