//! Other tables' chains that drop forwarded packets by default: container engines and firewalls make them.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;
use vm_model::Ipv6Subnet;

use crate::LinkName;
use crate::nft::{self, NftError};

/// A chain of somebody else's that drops what nothing in it accepts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForwardDrop {
    /// Where the chain is, as `family table chain`.
    pub chain: String,
    /// Whose chains are in that table, as far as their names tell: "Docker".
    pub products: Vec<&'static str>,
}

impl fmt::Display for ForwardDrop {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the chain {} drops what it does not accept", self.chain)?;
        match self.products.as_slice() {
            [] => Ok(()),
            products => write!(formatter, " (chains of {} are in that table)", products.join(" and ")),
        }
    }
}

/// Who makes chains, or a table, whose names begin like that.
const PRODUCTS: [(&str, &str); 6] = [
    ("DOCKER", "Docker"),
    ("ufw", "ufw"),
    ("firewalld", "firewalld"),
    ("KUBE-", "Kubernetes"),
    ("LIBVIRT_", "libvirt"),
    ("NETAVARK", "Podman"),
];

/// Looks, as best it can, for what [`observe_forward_drops`] answers. Blocks on `nft`.
pub(crate) fn find_forward_drops(bridge: &LinkName, ipv6: Option<Ipv6Subnet>) -> Vec<ForwardDrop> {
    observe_forward_drops(bridge, ipv6).unwrap_or_default()
}

/// The chains that drop forwarded packets by policy in tables in which nothing is said of `bridge`: those of IPv4, and of IPv6
/// where VMs have addresses of `ipv6`. Changes nothing, and needs no network that was started. Blocks on `nft`.
///
/// # Errors
/// `nft` cannot be run, or may not list chains.
pub fn observe_forward_drops(
    bridge: &LinkName,
    ipv6: Option<Ipv6Subnet>,
) -> Result<Vec<ForwardDrop>, NftError> {
    let chains = chains(&nft::list(&["-j", "list", "chains"])?);
    let dropping = dropping(&chains).into_iter().filter(|chain| ipv6.is_some() || chain.family != "ip6");
    let unaware = dropping.filter(|chain| {
        let table = nft::list(&["list", "table", &chain.family, &chain.table]);
        // A rule about our bridge is there for a reason: whoever wrote it has thought of us.
        !table.is_ok_and(|rules| rules.contains(&format!("\"{bridge}\"")))
    });
    let found = unaware.map(|place| ForwardDrop {
        chain: format!("{} {} {}", place.family, place.table, place.name),
        products: products(place, &chains),
    });
    Ok(found.collect())
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    family: String,
    table: String,
    name: String,
    /// Whether it drops forwarded packets by policy.
    drops: bool,
}

/// The chains that drop forwarded IP packets.
fn dropping(chains: &[Chain]) -> Vec<&Chain> {
    let of_ip = |chain: &&Chain| matches!(chain.family.as_str(), "ip" | "ip6" | "inet");
    chains.iter().filter(|chain| chain.drops).filter(of_ip).collect()
}

/// Whose chains are in the table of `dropping`, by name.
fn products(dropping: &Chain, chains: &[Chain]) -> Vec<&'static str> {
    let is_beside = |chain: &&Chain| (&chain.family, &chain.table) == (&dropping.family, &dropping.table);
    let names = chains.iter().filter(is_beside).flat_map(|chain| [&chain.name, &chain.table]);
    let known = names.filter_map(|name| {
        let mut products = PRODUCTS.iter();
        products.find_map(|(prefix, product)| name.starts_with(prefix).then_some(*product))
    });
    known.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The chains in a listing of `nft -j`. Read loosely: what is not understood is passed over.
fn chains(listing: &str) -> Vec<Chain> {
    let Ok(value) = serde_json::from_str::<Value>(listing) else {
        return Vec::new();
    };
    let objects = value["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    objects
        .iter()
        .map(|object| &object["chain"])
        .filter_map(|chain| {
            let text = |key: &str| Some(chain[key].as_str()?.to_owned());
            let drops = chain["policy"] == "drop" && chain["hook"] == "forward";
            Some(Chain { family: text("family")?, table: text("table")?, name: text("name")?, drops })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropping_chain_is_seen_and_nonsense_is_not_one() {
        let listing = r#"{"nftables": [{"metainfo": {"json_schema_version": 1}}, {"chain": {"family": "ip",
            "table": "filter", "name": "FORWARD", "hook": "forward", "prio": 0, "policy": "drop"}}]}"#;
        let seen = chains(listing);
        let [found] = dropping(&seen)[..] else { panic!("one chain, not {seen:?}") };
        assert_eq!(
            (found.family.as_str(), found.table.as_str(), found.name.as_str()),
            ("ip", "filter", "FORWARD")
        );
        for harmless in [
            listing.replace("drop", "accept"),
            listing.replace("forward", "input"),
            listing.replace("\"ip\"", "\"arp\""),
        ] {
            assert!(dropping(&chains(&harmless)).is_empty(), "{harmless}");
        }
        for nonsense in ["", "[]", "{\"nftables\": 3}", "{\"nftables\": [3]}"] {
            assert_eq!(chains(nonsense), [], "{nonsense:?}");
        }
    }

    #[test]
    fn whose_chains_are_beside_it_is_told() {
        let chain = |table: &str, name: &str| Chain {
            family: "ip".to_owned(),
            table: table.to_owned(),
            name: name.to_owned(),
            drops: name == "FORWARD",
        };
        let seen = [
            chain("filter", "FORWARD"),
            chain("filter", "DOCKER-USER"),
            chain("filter", "DOCKER"),
            chain("filter", "ufw-user-forward"),
            chain("nat", "KUBE-SERVICES"),
        ];
        let [dropping] = dropping(&seen)[..] else { panic!("one chain drops") };
        let found =
            ForwardDrop { chain: "ip filter FORWARD".to_owned(), products: products(dropping, &seen) };
        assert_eq!(
            found.to_string(),
            "the chain ip filter FORWARD drops what it does not accept (chains of Docker and ufw are in that table)"
        );
        assert_eq!(products(&seen[0], &seen[..1]), [""; 0]);
    }
}
