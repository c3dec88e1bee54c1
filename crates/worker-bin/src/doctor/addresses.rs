//! Whether something else on this host uses the VMs' network.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::finding::{Finding, advice};
use super::host::Host;
use crate::settings::Settings;

const CHECK: &str = "subnet";

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    subnet: Option<Ipv4Network>,
    bridge: String,
    routes: Vec<Route>,
}

/// A route of the main table, which has one for the network of each address too.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    link: String,
    destination: Ipv4Network,
}

pub(super) fn look(host: &Host, settings: &Settings) -> Facts {
    Facts {
        subnet: settings.manager.vm_subnet_base.parse().ok(),
        bridge: settings.manager.network_bridge.clone(),
        routes: routes(&host.read("/proc/net/route").unwrap_or_default()),
    }
}

/// Reads `/proc/net/route`: addresses are hexadecimal, their bytes in the order of memory.
fn routes(text: &str) -> Vec<Route> {
    let address =
        |field: &str| u32::from_str_radix(field, 16).ok().map(|bits| Ipv4Addr::from(bits.to_le_bytes()));
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (destination, mask) = (address(fields.get(1)?)?, address(fields.get(7)?)?);
        let destination = Ipv4Network::with_netmask(destination, mask).ok()?;
        Some(Route { link: (*fields.first()?).to_owned(), destination })
    };
    text.lines().skip(1).filter_map(route).collect()
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    // What is no network was said of the configuration.
    let Some(subnet) = facts.subnet else { return Vec::new() };
    let others =
        || facts.routes.iter().filter(|route| route.link != facts.bridge && route.destination.prefix() > 0);
    let overlaps = |network: Ipv4Network| others().find(|route| route.destination.overlaps(network));
    let Some(Route { link, destination }) = overlaps(subnet) else {
        return vec![Finding::ok(CHECK, format!("{subnet} is used by nobody else"))];
    };
    let candidates =
        (100..=255).filter_map(|second| Ipv4Network::new(Ipv4Addr::new(10, second, 0, 0), 16).ok());
    let free = candidates.into_iter().find(|network| overlaps(*network).is_none());
    let example = free.map_or_else(String::new, |free| format!(": network.subnet = \"{free}\" is free"));
    let found = format!(
        "{subnet} overlaps {destination}, which is reached through {link}: the worker does not start"
    );
    let remedy = advice(format!("give VMs another network in the configuration{example}"));
    vec![Finding::fail(CHECK, found, remedy)]
}

#[cfg(test)]
mod tests {
    use super::super::finding::{Remedy, Verdict};
    use super::*;

    const TABLE: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t0000640A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
        br0\t0000650A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\nnonsense\n";

    fn judged(subnet: &str, bridge: &str) -> Finding {
        let subnet = Some(subnet.parse().expect("a network"));
        judge(&Facts { subnet, bridge: bridge.to_owned(), routes: routes(TABLE) }).remove(0)
    }

    #[test]
    fn an_overlap_is_named_with_a_network_that_is_free() {
        assert_eq!(routes(TABLE).len(), 3);
        let overlap = judged("10.100.7.0/24", "br-procurator");
        assert_eq!(overlap.verdict, Verdict::Fail);
        assert!(
            overlap.found.contains("overlaps 10.100.0.0/16, which is reached through eth0"),
            "{overlap:?}"
        );
        assert!(matches!(&overlap.remedy, Some(Remedy::Advice(text)) if text.contains("\"10.102.0.0/16\"")));
        assert_eq!(judged("10.101.0.0/16", "br0").verdict, Verdict::Ok, "it is the bridge's own");
        assert_eq!(judged("10.99.0.0/16", "br0").verdict, Verdict::Ok, "a default route is not in the way");
    }
}
