//! The packet filter and forwarding: whether VMs' packets get through.

use host_network::{ForwardDrop, LinkName, NftError, observe_forward_drops};
use vm_model::{NetworkName, error_chain};
use worker::vms::{NetworkAddressTranslation, NetworkSettings};

use super::addresses;
use super::finding::{Finding, Remedy, command, commands};
use super::host::Host;
use crate::settings::Settings;

const FILTER: &str = "packet filter";
const FORWARDING: &str = "forwarding";
const BRIDGED: &str = "br_netfilter";

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    filter: Filter,
    networks: Vec<Network>,
    /// Whether frames from VM to VM go through the IP filter.
    filters_frames: bool,
}

/// What was seen of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Network {
    name: NetworkName,
    bridge: String,
    nat: NetworkAddressTranslation,
    /// Chains of others that drop what its VMs forward.
    drops: Vec<ForwardDrop>,
    /// Whom this host forwards for; `None` where that cannot be seen.
    forwarding: Option<String>,
}

/// What `nft` says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Filter {
    /// It works.
    Works,
    /// There is no `nft`.
    Missing,
    /// It does not do what it is told.
    Refuses(String),
}

pub(super) fn look(host: &Host, settings: &Settings, addresses: &[addresses::Facts]) -> Facts {
    let mut filter = Filter::Works;
    let mut networks = Vec::new();
    for (name, NetworkSettings { bridge, ipv6_subnet, nat, .. }) in settings.manager.all_networks() {
        let mut drops = Vec::new();
        match LinkName::parse(&bridge).map(|bridge| observe_forward_drops(&bridge, ipv6_subnet)) {
            Ok(Ok(seen)) => drops.extend(seen),
            Ok(Err(NftError::Missing(_))) => filter = Filter::Missing,
            Ok(Err(problem @ (NftError::Run(_) | NftError::Refused { .. }))) => {
                filter = Filter::Refuses(error_chain(&problem));
            }
            Err(problem) => filter = Filter::Refuses(problem.to_string()),
        }
        let survey = addresses.iter().find(|facts| *facts.name() == name);
        let forwarding = survey.and_then(addresses::Facts::forwarding);
        networks.push(Network { name, bridge, nat, drops, forwarding });
    }
    let is_on = |path: &str| host.read(path).as_deref() == Some("1");
    Facts { filter, networks, filters_frames: is_on("/proc/sys/net/bridge/bridge-nf-call-iptables") }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![filter(facts)];
    for network in &facts.networks {
        findings.push(Finding::ok(FORWARDING, forwarding(network)));
        let them = network.drops.iter();
        findings.extend(
            them.map(|drop| Finding::warn(FILTER, dropped(drop, facts), accept(drop, &network.bridge))),
        );
    }
    if facts.filters_frames {
        findings.push(Finding::warn(
            BRIDGED,
            "frames from VM to VM go through the host's IP filter, whose rules may drop them",
            command("sysctl -w net.bridge.bridge-nf-call-iptables=0"),
        ));
    }
    findings
}

fn filter(facts: &Facts) -> Finding {
    match &facts.filter {
        Filter::Works => Finding::ok(FILTER, "nft works"),
        Filter::Missing => Finding::fail(
            FILTER,
            "there is no nft, by which guests are bound to their addresses",
            command("apt install nftables"),
        ),
        Filter::Refuses(why) => Finding::fail(FILTER, why.clone(), command("modprobe nf_tables")),
    }
}

fn forwarding(network: &Network) -> String {
    let (whose, key) = if network.name.is_default() {
        (String::new(), "network.nat".to_owned())
    } else {
        (format!("network {}: ", network.name), format!("networks.{}.nat", network.name))
    };
    match (network.nat, &network.forwarding) {
        (NetworkAddressTranslation::Off, _) => {
            format!("{whose}VMs reach this host and each other only ({key} is off)")
        }
        (NetworkAddressTranslation::Masquerade, Some(forwarding)) => format!("{whose}{forwarding}"),
        (NetworkAddressTranslation::Masquerade, None) => {
            format!("{whose}whom this host forwards for cannot be seen")
        }
    }
}

fn dropped(drop: &ForwardDrop, facts: &Facts) -> String {
    let whom = if facts.filters_frames {
        "between VMs, and between them and the outside"
    } else {
        "between VMs and the outside"
    };
    format!("{drop}: no traffic {whom}")
}

/// Lets the bridge's packets through the chain of `drop`.
fn accept(ForwardDrop { chain, products }: &ForwardDrop, bridge: &str) -> Remedy {
    // `iptables` made it. Docker leaves a chain to others, before its own.
    if chain == "ip filter FORWARD" {
        let chain = if products.contains(&"Docker") { "DOCKER-USER" } else { "FORWARD" };
        return commands([
            format!("iptables -I {chain} -i {bridge} -j ACCEPT"),
            format!("iptables -I {chain} -o {bridge} -j ACCEPT"),
        ]);
    }
    commands([
        format!("nft insert rule {chain} iifname {bridge} accept"),
        format!("nft insert rule {chain} oifname {bridge} accept"),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn facts(filter: Filter, drops: Vec<ForwardDrop>) -> Facts {
        let nat = NetworkAddressTranslation::Masquerade;
        let (name, bridge) = (NetworkName::default(), "br-p".to_owned());
        Facts {
            filter,
            networks: vec![Network { name, bridge, nat, drops, forwarding: None }],
            filters_frames: false,
        }
    }

    #[test]
    fn a_missing_nft_fails() {
        assert_eq!(judge(&facts(Filter::Missing, Vec::new()))[0].verdict, Verdict::Fail);
        assert_eq!(judge(&facts(Filter::Refuses("no".to_owned()), Vec::new()))[0].verdict, Verdict::Fail);
    }

    #[test]
    fn chains_that_drop_are_named_with_what_lets_vms_through() {
        let drop = |chain: &str, products| ForwardDrop { chain: chain.to_owned(), products };
        let drops =
            vec![drop("ip filter FORWARD", vec!["Docker"]), drop("inet firewall forward", Vec::new())];
        let seen = Facts { filters_frames: true, ..facts(Filter::Works, drops) };
        let findings = judge(&seen);
        assert_eq!(findings.len(), 5);
        assert!(findings[2].found.contains("Docker"), "{findings:?}");
        let remedy = findings[2].remedy.as_ref();
        let is_dockers =
            |remedy: &Remedy| matches!(remedy, Remedy::Commands(lines) if lines[0].contains("DOCKER-USER"));
        assert!(remedy.is_some_and(is_dockers), "{remedy:?}");
        let expected = Remedy::Commands(vec![
            "nft insert rule inet firewall forward iifname br-p accept".to_owned(),
            "nft insert rule inet firewall forward oifname br-p accept".to_owned(),
        ]);
        assert_eq!(findings[3].remedy.as_ref(), Some(&expected));
        assert_eq!(findings[4].check, BRIDGED);
    }
}
