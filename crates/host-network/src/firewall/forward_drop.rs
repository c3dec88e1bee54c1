//! Other tables' chains that drop forwarded packets by default: container engines and firewalls make them.

use serde_json::Value;
use vm_model::Ipv6Subnet;

use crate::LinkName;
use crate::nft::{self, NftError};

/// A chain of somebody else's that drops what nothing in it accepts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForwardDrop {
    /// Where the chain is, as `family table chain`.
    pub chain: String,
}

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
    let listing = nft::list(&["-j", "list", "chains"])?;
    let dropping =
        dropping_chains(&listing).into_iter().filter(|chain| ipv6.is_some() || chain.family != "ip6");
    let unaware = dropping.filter(|chain| {
        let table = nft::list(&["list", "table", &chain.family, &chain.table]);
        // A rule about our bridge is there for a reason: whoever wrote it has thought of us.
        !table.is_ok_and(|rules| rules.contains(&format!("\"{bridge}\"")))
    });
    Ok(unaware
        .map(|Place { family, table, chain }| ForwardDrop { chain: format!("{family} {table} {chain}") })
        .collect())
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    family: String,
    table: String,
    chain: String,
}

/// The chains in a listing of `nft -j` that drop forwarded IP packets by policy. Read loosely: what is not
/// understood is passed over.
fn dropping_chains(listing: &str) -> Vec<Place> {
    let Ok(value) = serde_json::from_str::<Value>(listing) else {
        return Vec::new();
    };
    let objects = value["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    objects
        .iter()
        .map(|object| &object["chain"])
        .filter(|chain| chain["policy"] == "drop" && chain["hook"] == "forward")
        .filter_map(|chain| {
            let text = |key: &str| Some(chain[key].as_str()?.to_owned());
            Some(Place { family: text("family")?, table: text("table")?, chain: text("name")? })
        })
        .filter(|place| matches!(place.family.as_str(), "ip" | "ip6" | "inet"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropping_chain_is_seen_and_nonsense_is_not_one() {
        let listing = r#"{"nftables": [{"metainfo": {"json_schema_version": 1}}, {"chain": {"family": "ip",
            "table": "filter", "name": "FORWARD", "hook": "forward", "prio": 0, "policy": "drop"}}]}"#;
        let place =
            Place { family: "ip".to_owned(), table: "filter".to_owned(), chain: "FORWARD".to_owned() };
        assert_eq!(dropping_chains(listing), [place]);
        for harmless in [
            listing.replace("drop", "accept"),
            listing.replace("forward", "input"),
            listing.replace("\"ip\"", "\"arp\""),
        ] {
            assert_eq!(dropping_chains(&harmless), [], "{harmless}");
        }
        for nonsense in ["", "[]", "{\"nftables\": 3}", "{\"nftables\": [3]}"] {
            assert_eq!(dropping_chains(nonsense), [], "{nonsense:?}");
        }
    }
}
