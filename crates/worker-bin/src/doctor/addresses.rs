//! Whether this host can have the bridge and the subnet of each of the VMs' networks: looked at as the worker does when it starts.

use host_network::{LinkName, Survey, survey};
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
    /// The bridge that it is to have.
    bridge: LinkName,
    /// The bridge that it had, where that is another one.
    former: Option<LinkName>,
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

    /// That it keeps its former bridge for now, in a sentence.
    fn held_back(&self) -> Option<String> {
        let (former, survey) = (self.former.as_ref()?, self.survey.as_ref().ok()?);
        let sentence = || {
            format!(
                "VMs run on {former}, the bridge so far: the network keeps it until none does, and has {} then",
                self.bridge
            )
        };
        survey.held_back.then(sentence)
    }

    /// That VMs keep it as it was before, in a sentence.
    fn kept_for_vms(&self) -> Option<String> {
        let unfit = &self.survey.as_ref().ok()?.unfit;
        let told: Vec<String> = unfit.iter().map(|(vm, problem)| format!("{vm}: {problem}")).collect();
        (!told.is_empty()).then(|| {
            format!(
                "VMs run in it that cannot be in it as it is configured, and it stays as it was before while they do; {}",
                told.join("; ")
            )
        })
    }

    /// Whom this host forwards for while the network is up.
    pub(super) fn forwarding(&self) -> Option<String> {
        Some(self.survey.as_ref().ok()?.forwarding.to_string())
    }
}

/// One for each network. What the configuration has wrong of one was said of it, and it is left out here.
pub(crate) async fn look(settings: &Settings) -> Vec<Facts> {
    let mut seen = Vec::new();
    let mut before = settings.manager.former_bridges();
    for (name, config) in settings.manager.network_configs() {
        let former = before.remove(&name);
        let survey = survey(&config, former.as_ref()).await.map_err(|problem| error_chain(&problem));
        seen.push(Facts { name, subnet: config.subnet, bridge: config.bridge, former, survey });
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
    if let Some(sentence) = facts.held_back() {
        let remedy = advice("stop those VMs at a time that suits, or leave the name of the bridge as it was");
        findings.push(Finding::warn(BRIDGE, sentence, remedy));
    }
    if let Some(sentence) = facts.kept_for_vms() {
        let remedy =
            advice("stop those VMs, or take out of their definitions what the network cannot keep to");
        findings.push(Finding::warn(BRIDGE, sentence, remedy));
    }
    findings.extend(judge_uplink(survey, &facts.table()));
    let free = survey
        .free
        .map_or_else(String::new, |free| format!(": {}.subnet = \"{free}\" is free", facts.table()));
    findings.extend(survey.uses.iter().map(|user| {
        let advice = advice(format!("give VMs another network in the configuration{free}"));
        let found = format!("{} is in use on this host: {user}", facts.subnet);
        if survey.serves_subnet {
            let found = format!("{found}; VMs run in it already, and some of them may not be reached");
            Finding::warn(CHECK, found, advice)
        } else {
            Finding::fail(CHECK, format!("{found}; no VM starts in this network"), advice)
        }
    }));
    if survey.uses.is_empty() {
        findings.push(Finding::ok(CHECK, format!("{} is used by nobody else", facts.subnet)));
    }
    findings
}

/// What stands against the uplink of the network that the table `table` describes.
fn judge_uplink(survey: &Survey, table: &str) -> Option<Finding> {
    let elsewhere = format!("name another interface ({table}.uplink), or leave it out");
    match &survey.uplink {
        Some(problem) if survey.starts_without_uplink() => {
            let found = format!(
                "{}; the worker starts, and VMs that are started in this network wait for it",
                error_chain(problem)
            );
            Some(Finding::warn(UPLINK, found, advice(elsewhere)))
        }
        Some(problem) => Some(Finding::fail(UPLINK, error_chain(problem), advice(elsewhere))),
        None if survey.uplink_is_unplugged => {
            let found = format!("the interface of {table}.uplink has no carrier: VMs reach nothing by it");
            Some(Finding::warn(UPLINK, found, advice("look what it is connected to, and whether that is on")))
        }
        None => None,
    }
}

/// What of a configured network this host does not let be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Complaints {
    /// For which `run` does without it: no VM starts in it.
    pub(crate) refusals: Vec<String>,
    /// With which it is there: because VMs run in it already, or because it may pass.
    pub(crate) warnings: Vec<String>,
}

/// What of the configured network this host does not let be, each with its key, as a start judges it.
pub(crate) fn complaints(facts: &Facts) -> Complaints {
    let Ok(survey) = &facts.survey else { return Complaints::default() };
    let told = |key: &str, problem| format!("{}.{key}: {}", facts.table(), error_chain(problem));
    let bridge: Vec<String> = survey.bridge.iter().map(|problem| told("bridge", problem)).collect();
    let uplink: Vec<String> = survey.uplink.iter().map(|problem| told("uplink", problem)).collect();
    let free = survey.free.map_or_else(String::new, |free| format!(" ({free} is free)"));
    let uses = survey.uses.iter().map(|user| {
        format!("{}.subnet = \"{}\": it is in use on this host: {user}{free}", facts.table(), facts.subnet)
    });
    let held_back = facts.held_back().map(|sentence| format!("{}.bridge: {sentence}", facts.table()));
    let kept = facts.kept_for_vms().map(|sentence| format!("{}: {sentence}", facts.table()));
    let mut complaints =
        Complaints { refusals: Vec::new(), warnings: held_back.into_iter().chain(kept).collect() };
    for (is_excused, told) in [
        // The network keeps the bridge that it has.
        (survey.former_is_there, bridge),
        (survey.starts_without_uplink(), uplink),
        (survey.serves_subnet, uses.collect::<Vec<_>>()),
    ] {
        let list = if is_excused { &mut complaints.warnings } else { &mut complaints.refusals };
        list.extend(told);
    }
    complaints
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
            uplink_is_unplugged: false,
            runs_vms: false,
            serves_subnet: false,
            held_back: false,
            former_is_there: false,
            unfit: Vec::new(),
            uses,
            free: "10.102.0.0/16".parse().ok(),
            forwarding: HostForwarding::ForEverybody,
        };
        let (name, subnet) = (NetworkName::default(), "10.100.7.0/24".parse().expect("a network"));
        let bridge = LinkName::parse("br-new").expect("a name");
        Facts { name, subnet, bridge, former: None, survey: Ok(survey) }
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
        assert_eq!(judge(&used)[0].verdict, Verdict::Fail, "they are in another one");
        assert_eq!(complaints(&used).refusals.len(), 1);
        used.survey.as_mut().expect("seen").serves_subnet = true;
        assert_eq!(judge(&used)[0].verdict, Verdict::Warn);
        let Complaints { refusals, warnings } = complaints(&used);
        assert_eq!((refusals.len(), warnings.len()), (0, 1), "{refusals:?}, {warnings:?}");
    }

    #[test]
    fn a_bridge_that_vms_keep_is_no_fault() {
        let mut kept = facts(vec![]);
        kept.former = LinkName::parse("br-old").ok();
        assert_eq!(complaints(&kept), Complaints::default(), "no VM is there");
        kept.survey.as_mut().expect("seen").held_back = true;
        let Complaints { refusals, warnings } = complaints(&kept);
        assert_eq!(refusals.len(), 0);
        assert!(warnings[0].starts_with("network.bridge: VMs run on br-old"), "{warnings:?}");
        assert_eq!(judge(&kept)[0].verdict, Verdict::Warn);
    }

    #[tokio::test]
    async fn an_uplink_that_is_not_there_keeps_no_worker_from_starting_and_one_that_cannot_be_does() {
        let look = async |uplink: &str| {
            let network = "[networks.lan]\nbridge = 'br-none'\nsubnet = '10.231.0.0/24'\n";
            let settings = crate::settings::testing::settings(&format!("{network}uplink = '{uplink}'\n"));
            look(&settings).await.pop().expect("the further network")
        };
        let absent = look("eth-none").await;
        let Complaints { refusals, warnings } = complaints(&absent);
        assert!(refusals.is_empty() && warnings[0].contains("eth-none of the bridge br-none is not there"));
        let finding = judge(&absent).into_iter().find(|finding| finding.check == UPLINK).expect("it is told");
        assert_eq!(finding.verdict, Verdict::Warn);
        assert!(finding.found.contains("VMs that are started in this network wait for it"), "{finding:?}");

        let unusable = look("lo").await;
        assert_eq!(complaints(&unusable).refusals.len(), 1);
        let finding =
            judge(&unusable).into_iter().find(|finding| finding.check == UPLINK).expect("it is told");
        assert_eq!(finding.verdict, Verdict::Fail);

        let mut unplugged = facts(vec![]);
        unplugged.survey.as_mut().expect("seen").uplink_is_unplugged = true;
        assert!(judge(&unplugged)[0].found.contains("network.uplink has no carrier"));
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
