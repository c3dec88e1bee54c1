//! Whether this host can have the bridge and the subnet of each of the VMs' networks: looked at as the worker does when it starts.

use host_network::{Survey, survey};
use ipnetwork::Ipv4Network;
use vm_model::{NetworkName, error_chain};

use super::finding::{Finding, advice};
use crate::settings::Settings;

const CHECK: &str = "subnet";
const BRIDGE: &str = "bridge";
const UPLINK: &str = "uplink";

/// What was seen of one network.
#[derive(Debug)]
pub(crate) struct Facts {
    name: NetworkName,
    subnet: Ipv4Network,
    survey: Result<Survey, String>,
}

impl Facts {
    /// Which network.
    pub(super) fn name(&self) -> &NetworkName {
        &self.name
    }

    /// The table of the configuration that describes the network.
    fn table(&self) -> String {
        if self.name.is_default() { "network".to_owned() } else { format!("networks.{}", self.name) }
    }

    /// Whom this host forwards for while the network is up.
    pub(super) fn forwarding(&self) -> Option<String> {
        Some(self.survey.as_ref().ok()?.forwarding.to_string())
    }
}

/// One for each network. What the configuration has wrong of one was said of it, and it is left out here.
pub(crate) async fn look(settings: &Settings) -> Vec<Facts> {
    let mut seen = Vec::new();
    for (name, config) in settings.manager.network_configs() {
        let survey = survey(&config).await.map_err(|problem| error_chain(&problem));
        seen.push(Facts { name, subnet: config.subnet, survey });
    }
    seen
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
        let remedy = advice(format!("give VMs a bridge of another name ({}.bridge)", facts.table()));
        findings.push(Finding::fail(BRIDGE, error_chain(problem), remedy));
    }
    if let Some(problem) = &survey.uplink {
        let remedy = advice(format!("name another interface ({}.uplink), or leave it out", facts.table()));
        findings.push(Finding::fail(UPLINK, error_chain(problem), remedy));
    }
    let free = survey
        .free
        .map_or_else(String::new, |free| format!(": {}.subnet = \"{free}\" is free", facts.table()));
    findings.extend(survey.uses.iter().map(|user| {
        let advice = advice(format!("give VMs another network in the configuration{free}"));
        let found = format!("{} is in use on this host: {user}", facts.subnet);
        if survey.runs_vms {
            let found = format!(
                "{found}; VMs run on it already, so the worker starts, and some of them may not be reached"
            );
            Finding::warn(CHECK, found, advice)
        } else {
            Finding::fail(CHECK, format!("{found}; the worker does not start"), advice)
        }
    }));
    if survey.uses.is_empty() {
        findings.push(Finding::ok(CHECK, format!("{} is used by nobody else", facts.subnet)));
    }
    findings
}

/// What of a configured network this host does not let be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Complaints {
    /// For which `run` does not start.
    pub(crate) refusals: Vec<String>,
    /// With which it starts, because VMs run on the network already.
    pub(crate) warnings: Vec<String>,
}

/// What of the configured network this host does not let be, each with its key, as a start judges it.
pub(crate) fn complaints(facts: &Facts) -> Complaints {
    let Ok(survey) = &facts.survey else { return Complaints::default() };
    let told = |key: &str, problem| format!("{}.{key}: {}", facts.table(), error_chain(problem));
    let bridge = survey.bridge.iter().map(|problem| told("bridge", problem));
    let uplink = survey.uplink.iter().map(|problem| told("uplink", problem));
    let free = survey.free.map_or_else(String::new, |free| format!(" ({free} is free)"));
    let uses = survey.uses.iter().map(|user| {
        format!("{}.subnet = \"{}\": it is in use on this host: {user}{free}", facts.table(), facts.subnet)
    });
    let lenient = uplink.chain(uses);
    if survey.runs_vms {
        Complaints { refusals: bridge.collect(), warnings: lenient.collect() }
    } else {
        Complaints { refusals: bridge.chain(lenient).collect(), warnings: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use host_network::{HostForwarding, SubnetUse};

    use super::super::finding::{Remedy, Verdict};
    use super::*;

    fn facts(uses: Vec<SubnetUse>) -> Facts {
        let survey = Survey {
            bridge: None,
            uplink: None,
            runs_vms: false,
            uses,
            free: "10.102.0.0/16".parse().ok(),
            forwarding: HostForwarding::ForEverybody,
        };
        let name = NetworkName::default();
        Facts { name, subnet: "10.100.7.0/24".parse().expect("a network"), survey: Ok(survey) }
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
            complaints(&used).refusals,
            [
                "network.subnet = \"10.100.7.0/24\": it is in use on this host: link eth0 has the address 10.100.0.1/16 \
              (10.102.0.0/16 is free)"
            ]
        );
        assert_eq!(judge(&facts(vec![]))[0].verdict, Verdict::Ok);
    }

    #[test]
    fn a_use_of_a_network_on_which_vms_run_keeps_no_worker_from_starting() {
        let address = "10.100.0.1/16".parse().expect("an address");
        let mut used = facts(vec![SubnetUse::Address { link: "eth0".to_owned(), address }]);
        used.survey.as_mut().expect("seen").runs_vms = true;
        assert_eq!(judge(&used)[0].verdict, Verdict::Warn);
        let Complaints { refusals, warnings } = complaints(&used);
        assert_eq!((refusals.len(), warnings.len()), (0, 1), "{refusals:?}, {warnings:?}");
    }

    #[tokio::test]
    async fn a_link_that_is_no_bridge_is_complained_of() {
        let mut settings = crate::settings::testing::settings("");
        settings.manager.network_bridge = "lo".to_owned();
        let facts = look(&settings).await.remove(0);
        assert!(
            judge(&facts).iter().any(|finding| finding.check == BRIDGE && finding.verdict == Verdict::Fail)
        );
        assert!(
            complaints(&facts).refusals[0].starts_with("network.bridge: the link lo is no bridge"),
            "{facts:?}"
        );
    }

    #[tokio::test]
    async fn each_network_is_looked_at_and_spoken_of_by_its_table() {
        let text = "[networks.storage]\nbridge = 'lo'\nsubnet = '10.101.0.0/24'\n";
        let facts = look(&crate::settings::testing::settings(text)).await;
        let [_, storage] = facts.as_slice() else { panic!("{facts:?}") };
        let told = complaints(storage).refusals;
        assert!(told[0].starts_with("networks.storage.bridge: the link lo is no bridge"), "{told:?}");
    }
}
