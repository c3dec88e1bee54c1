//! Whether this host can have the VMs' bridge and subnet: looked at as the worker does when it starts.

use host_network::{LinkName, NetworkConfig, Survey, survey};
use ipnetwork::Ipv4Network;
use vm_model::error_chain;

use super::finding::{Finding, advice};
use crate::settings::Settings;

const CHECK: &str = "subnet";
const BRIDGE: &str = "bridge";

/// What was seen.
#[derive(Debug)]
pub(crate) struct Facts {
    subnet: Ipv4Network,
    survey: Result<Survey, String>,
}

impl Facts {
    /// Whom this host forwards for while the network is up.
    pub(super) fn forwarding(&self) -> Option<String> {
        Some(self.survey.as_ref().ok()?.forwarding.to_string())
    }
}

/// `None` where the configuration names no network: that was said of it.
pub(crate) async fn look(settings: &Settings) -> Option<Facts> {
    let manager = &settings.manager;
    let subnet = manager.vm_subnet_base.parse().ok()?;
    let config = NetworkConfig::new(LinkName::parse(&manager.network_bridge).ok()?, subnet);
    let survey = survey(&config).await.map_err(|problem| error_chain(&problem));
    Some(Facts { subnet, survey })
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let survey = match &facts.survey {
        Ok(survey) => survey,
        Err(problem) => {
            let remedy = advice("look whether this host's links and routes can be listed");
            return vec![Finding::fail(CHECK, problem.clone(), remedy)];
        }
    };
    let mut findings = Vec::new();
    if let Some(problem) = &survey.bridge {
        let remedy = advice("give VMs a bridge of another name (network.bridge)");
        findings.push(Finding::fail(BRIDGE, error_chain(problem), remedy));
    }
    let free = survey.free.map_or_else(String::new, |free| format!(": network.subnet = \"{free}\" is free"));
    findings.extend(survey.uses.iter().map(|user| {
        let found = format!(
            "{} is in use on this host: {user}; the worker does not start unless VMs run on it already",
            facts.subnet
        );
        Finding::fail(CHECK, found, advice(format!("give VMs another network in the configuration{free}")))
    }));
    if survey.uses.is_empty() {
        findings.push(Finding::ok(CHECK, format!("{} is used by nobody else", facts.subnet)));
    }
    findings
}

/// What of the configured network this host does not let be, each with its key.
pub(crate) fn complaints(facts: &Facts) -> Vec<String> {
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let bridge = survey.bridge.iter().map(|problem| format!("network.bridge: {}", error_chain(problem)));
    let free = survey.free.map_or_else(String::new, |free| format!(" ({free} is free)"));
    let uses = survey.uses.iter().map(|user| {
        format!("network.subnet = \"{}\": it is in use on this host: {user}{free}", facts.subnet)
    });
    bridge.chain(uses).collect()
}

#[cfg(test)]
mod tests {
    use host_network::{HostForwarding, SubnetUse};

    use super::super::finding::{Remedy, Verdict};
    use super::*;

    fn facts(uses: Vec<SubnetUse>) -> Facts {
        let survey = Survey {
            bridge: None,
            uses,
            free: "10.102.0.0/16".parse().ok(),
            forwarding: HostForwarding::ForEverybody,
        };
        Facts { subnet: "10.100.7.0/24".parse().expect("a network"), survey: Ok(survey) }
    }

    #[test]
    fn a_use_is_named_with_a_network_that_is_free() {
        let address = "10.100.0.1/16".parse().expect("an address");
        let used = facts(vec![SubnetUse::Address { link: "eth0".to_owned(), address }]);
        let finding = judge(&used).remove(0);
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(finding.found.contains("link eth0 has the address 10.100.0.1/16"), "{finding:?}");
        assert!(matches!(&finding.remedy, Some(Remedy::Advice(text)) if text.contains("\"10.102.0.0/16\"")));
        assert_eq!(
            complaints(&used),
            [
                "network.subnet = \"10.100.7.0/24\": it is in use on this host: link eth0 has the address 10.100.0.1/16 \
              (10.102.0.0/16 is free)"
            ]
        );
        assert_eq!(judge(&facts(vec![]))[0].verdict, Verdict::Ok);
    }

    #[tokio::test]
    async fn a_link_that_is_no_bridge_is_complained_of() {
        let mut settings = crate::settings::testing::settings("");
        settings.manager.network_bridge = "lo".to_owned();
        let facts = look(&settings).await.expect("a network");
        assert!(
            judge(&facts).iter().any(|finding| finding.check == BRIDGE && finding.verdict == Verdict::Fail)
        );
        assert!(complaints(&facts)[0].starts_with("network.bridge: the link lo is no bridge"), "{facts:?}");
    }
}
