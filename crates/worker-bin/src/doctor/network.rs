//! The packet filter and forwarding: whether VMs' packets get through.

use host_network::{LinkName, NftError, observe_forward_drops};
use vm_model::error_chain;
use worker::vms::NetworkAddressTranslation;

use super::finding::{Finding, Remedy, command, commands};
use super::host::Host;
use crate::settings::Settings;

const FILTER: &str = "packet filter";
const FORWARDING: &str = "forwarding";
const BRIDGED: &str = "br_netfilter";

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    bridge: String,
    nat: NetworkAddressTranslation,
    filter: Filter,
    /// Whom this host forwards for; `None` where that cannot be seen.
    forwarding: Option<String>,
    /// Whether frames from VM to VM go through the IP filter.
    filters_frames: bool,
}

/// What `nft` says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Filter {
    /// It works; these chains of others drop what VMs forward.
    Works(Vec<String>),
    /// There is no `nft`.
    Missing,
    /// It does not do what it is told.
    Refuses(String),
}

pub(super) fn look(host: &Host, settings: &Settings, forwarding: Option<String>) -> Facts {
    let manager = &settings.manager;
    let filter = match LinkName::parse(&manager.network_bridge).map(|bridge| observe_forward_drops(&bridge)) {
        Ok(Ok(drops)) => Filter::Works(drops.into_iter().map(|drop| drop.chain).collect()),
        Ok(Err(NftError::Missing(_))) => Filter::Missing,
        Ok(Err(problem @ (NftError::Run(_) | NftError::Refused { .. }))) => {
            Filter::Refuses(error_chain(&problem))
        }
        Err(problem) => Filter::Refuses(problem.to_string()),
    };
    let is_on = |path: &str| host.read(path).as_deref() == Some("1");
    Facts {
        bridge: manager.network_bridge.clone(),
        nat: manager.nat,
        filter,
        forwarding,
        filters_frames: is_on("/proc/sys/net/bridge/bridge-nf-call-iptables"),
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![filter(facts), forwarding(facts)];
    if let Filter::Works(drops) = &facts.filter {
        let them = drops.iter();
        findings.extend(
            them.map(|chain| Finding::warn(FILTER, dropped(chain, facts), accept(chain, &facts.bridge))),
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
        Filter::Works(_) => Finding::ok(FILTER, "nft works"),
        Filter::Missing => Finding::fail(
            FILTER,
            "there is no nft, by which guests are bound to their addresses",
            command("apt install nftables"),
        ),
        Filter::Refuses(why) => Finding::fail(FILTER, why.clone(), command("modprobe nf_tables")),
    }
}

fn forwarding(facts: &Facts) -> Finding {
    let told = match (facts.nat, &facts.forwarding) {
        (NetworkAddressTranslation::Off, _) => "VMs reach this host and each other only (network.nat is off)",
        (NetworkAddressTranslation::Masquerade, Some(forwarding)) => forwarding,
        (NetworkAddressTranslation::Masquerade, None) => "whom this host forwards for cannot be seen",
    };
    Finding::ok(FORWARDING, told)
}

fn dropped(chain: &str, facts: &Facts) -> String {
    let whom = if facts.filters_frames {
        "between VMs, and between them and the outside"
    } else {
        "between VMs and the outside"
    };
    let whose = if is_iptables(chain) { " (Docker sets that policy)" } else { "" };
    format!("the chain {chain} drops what it does not accept{whose}: no traffic {whom}")
}

/// Whether `iptables` made the chain.
fn is_iptables(chain: &str) -> bool {
    chain == "ip filter FORWARD"
}

/// Lets the bridge's packets through `chain`.
fn accept(chain: &str, bridge: &str) -> Remedy {
    if is_iptables(chain) {
        return commands([
            format!("iptables -I FORWARD -i {bridge} -j ACCEPT"),
            format!("iptables -I FORWARD -o {bridge} -j ACCEPT"),
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

    fn facts(filter: Filter) -> Facts {
        let nat = NetworkAddressTranslation::Masquerade;
        Facts { bridge: "br-p".to_owned(), nat, filter, forwarding: None, filters_frames: false }
    }

    #[test]
    fn a_missing_nft_fails() {
        assert_eq!(judge(&facts(Filter::Missing))[0].verdict, Verdict::Fail);
        assert_eq!(judge(&facts(Filter::Refuses("no".to_owned())))[0].verdict, Verdict::Fail);
    }

    #[test]
    fn chains_that_drop_are_named_with_what_lets_vms_through() {
        let drops = vec!["ip filter FORWARD".to_owned(), "inet firewall forward".to_owned()];
        let seen = Facts { filters_frames: true, ..facts(Filter::Works(drops)) };
        let findings = judge(&seen);
        assert_eq!(findings.len(), 5);
        assert!(findings[2].found.contains("Docker"), "{findings:?}");
        let expected = Remedy::Commands(vec![
            "nft insert rule inet firewall forward iifname br-p accept".to_owned(),
            "nft insert rule inet firewall forward oifname br-p accept".to_owned(),
        ]);
        assert_eq!(findings[3].remedy.as_ref(), Some(&expected));
        assert_eq!(findings[4].check, BRIDGED);
    }
}
