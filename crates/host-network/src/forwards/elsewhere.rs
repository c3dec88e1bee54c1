//! Ports of the host that tables of other workers lead to VMs. Of two tables that translate one port, the kernel asks the one that
//! was made first, so a second worker's VM would not be reached and nobody would be told.

use std::net::Ipv4Addr;

use thiserror::Error;
use vm_model::PortForward;

use crate::firewall::Listing;
use crate::{NetworkConfig, nft};

/// A port of the host that another worker's table leads to a VM.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the port forward {forward} cannot be had: the nftables table {table}, which is another worker's, leads {held} of this host to \
     {guest}: take another port of the host, or end that worker's VM (`nft delete table ip {table}` where nobody runs one any more)"
)]
pub struct ForwardElsewhere {
    /// The forward that is not to be had.
    pub forward: PortForward,
    /// The table.
    pub table: String,
    /// What it leads there.
    pub held: PortForward,
    /// The VM's address.
    pub guest: Ipv4Addr,
}

/// The first of `forwards` whose port of the host leads to a VM by a worker's table that is none of `own`. Changes nothing, and
/// needs no network that was started. Nothing where that cannot be seen. Blocks on `nft`.
pub fn find_forward_elsewhere(forwards: &[PortForward], own: &[String]) -> Option<ForwardElsewhere> {
    if forwards.is_empty() {
        return None;
    }
    // Of all that is listed, maps are little: rules and sets are left out.
    find_in(&nft::list(&["list", "maps", "ip"]).ok()?, forwards, own)
}

fn find_in(listing: &str, forwards: &[PortForward], own: &[String]) -> Option<ForwardElsewhere> {
    listing.split("table ip ").find_map(|table| {
        let (name, maps) = table.split_once(' ')?;
        let is_others = NetworkConfig::is_table_of_a_worker(name) && !own.iter().any(|own| own == name);
        if !is_others {
            return None;
        }
        Listing::new(maps).forwards().find_map(|(held, guest)| {
            let forward = forwards.iter().find(|forward| forward.conflicts_with(&held))?;
            Some(ForwardElsewhere { forward: *forward, table: name.to_owned(), held, guest })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_another_workers_table_is_found_and_named() {
        let map = "\tmap forwards_any {\n\t\ttype inet_proto . inet_service : ipv4_addr . inet_service\n\t\telements = { tcp . \
                   8080 : 10.9.0.2 . 80 }\n\t}\n}\n";
        let listing = format!(
            "table ip docker {{\n{map}table ip procurator {{\n{map}table ip procurator-br-b {{\n{map}"
        );
        let wanted = |text: &str| vec![text.parse::<PortForward>().unwrap()];
        let own = ["procurator".to_owned()];
        let found = find_in(&listing, &wanted("127.0.0.1:8080:1"), &own).unwrap();
        assert_eq!(
            (found.table.as_str(), found.held.to_string().as_str(), found.guest.to_string().as_str()),
            ("procurator-br-b", "8080:80/tcp", "10.9.0.2")
        );
        assert_eq!(find_in(&listing, &wanted("8081:1"), &own), None);
        assert_eq!(find_in(&listing, &wanted("8080:1/udp"), &own), None);
        let both = ["procurator".to_owned(), "procurator-br-b".to_owned()];
        assert_eq!(find_in(&listing, &wanted("8080:1"), &both), None, "docker's maps are none of a worker");
    }
}
