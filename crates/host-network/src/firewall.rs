//! Our own nftables table: masquerading, no foreign source addresses from VMs, and no forwarding between others where
//! the host forwards for VMs only.
//!
//! The table is replaced whole in one transaction, so applying it twice is the same as once, and nobody else's
//! table is written. There is no rule that accepts: a packet passes when no table on the host drops it, so one
//! table's `accept` cannot lift another's `drop`. Where such a drop is seen, it is told as a [`ForwardDrop`] rather
//! than worked around.

mod forward_drop;

use std::fmt::Write;

use ipnetwork::Ipv4Network;
use thiserror::Error;

pub(crate) use self::forward_drop::find_forward_drops;
pub use self::forward_drop::{ForwardDrop, observe_forward_drops};
use crate::nft::{self, NftError};
use crate::{Egress, LinkName, NetworkConfig};

/// Just before the usual filter priority (0): what VMs may not send need not be looked at further.
const FILTER_PRIORITY: i32 = -10;
/// The usual priority of source address translation.
const SOURCE_NAT_PRIORITY: i32 = 100;

/// Why our table could not be applied or removed.
#[derive(Debug, Error)]
#[error("cannot {operation} the nftables table {table}")]
pub struct FirewallError {
    operation: &'static str,
    table: String,
    #[source]
    cause: NftError,
}

/// What our table is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Firewall {
    pub(crate) table: String,
    pub(crate) bridge: LinkName,
    pub(crate) subnet: Ipv4Network,
    pub(crate) egress: Egress,
}

/// A link whose forwarding is on for the VMs' sake alone: what comes in there may go on to the bridge only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GuardedLink {
    pub(crate) index: u32,
    /// Whether it is a bridge: frames between two ports of one meet our rules too where `br_netfilter` is on, and are
    /// not forwarded by the host.
    pub(crate) is_bridge: bool,
}

impl Firewall {
    pub(crate) fn new(config: &NetworkConfig) -> Self {
        Self {
            table: config.nft_table.clone(),
            bridge: config.bridge.clone(),
            subnet: config.network(),
            egress: config.egress,
        }
    }

    /// The transaction that leaves exactly our table; `None` when none is needed.
    pub(crate) fn script(&self, guarded: &[GuardedLink]) -> Option<String> {
        let masquerades = match self.egress {
            Egress::Masquerade => true,
            Egress::Routed if guarded.is_empty() => return None,
            Egress::Routed => false,
            Egress::Isolated => return None,
        };
        let Self { table, bridge, subnet, .. } = self;
        let mut script = self.removal_script();
        let mut rule = |text: String| {
            script.push_str(&text);
            script.push('\n');
        };
        rule(format!("table ip {table} {{"));
        rule("chain forward {".to_owned());
        rule(format!("type filter hook forward priority {FILTER_PRIORITY}; policy accept;"));
        if masquerades {
            // From VM to VM is their own affair; with br_netfilter those frames come by here too.
            rule(format!(
                "iifname \"{bridge}\" oifname != \"{bridge}\" ip saddr != {subnet} drop \
                 comment \"VMs leave from their own network's addresses only\""
            ));
        }
        for link in guarded {
            rule(guard(*link, bridge));
        }
        rule("}".to_owned());
        if masquerades {
            rule("chain postrouting {".to_owned());
            rule(format!("type nat hook postrouting priority {SOURCE_NAT_PRIORITY}; policy accept;"));
            rule(format!(
                "ip saddr {subnet} ip daddr != {subnet} oifname != \"{bridge}\" masquerade \
                 comment \"VMs leave under the host's address\""
            ));
            rule("}".to_owned());
        }
        rule("}".to_owned());
        Some(script)
    }

    /// The transaction after which there is no table of ours, whether there was one or not. Adding before deleting
    /// makes the deletion succeed also where there is no table yet.
    fn removal_script(&self) -> String {
        let mut script = String::new();
        for verb in ["add", "delete"] {
            writeln!(script, "{verb} table ip {}", self.table).expect("a string takes all text");
        }
        script
    }

    /// Puts our table in place, or removes it where none is needed and `nft` is there. Blocks on `nft`.
    ///
    /// # Errors
    /// If the table is needed and cannot be had.
    pub(crate) fn apply(&self, guarded: &[GuardedLink]) -> Result<(), FirewallError> {
        match self.script(guarded) {
            Some(script) => self.run(&script, "apply"),
            None => self.remove(),
        }
    }

    /// Removes our table; no error if there is none, or no `nft` that could have made it. Blocks on `nft`.
    ///
    /// # Errors
    /// If `nft` refuses.
    pub(crate) fn remove(&self) -> Result<(), FirewallError> {
        match self.run(&self.removal_script(), "remove") {
            Err(FirewallError { cause: NftError::Missing(_), .. }) => Ok(()),
            other => other,
        }
    }

    /// Our table as `nft` shows it now; `None` where there is none, or none can be seen. Blocks on `nft`.
    pub(crate) fn listing(&self) -> Option<String> {
        nft::list(&["-s", "list", "table", "ip", &self.table]).ok()
    }

    /// Whether a listing has all the rules that [`Firewall::apply`] makes. Each of ours has a comment.
    pub(crate) fn shows_every_rule(&self, guarded: &[GuardedLink], listing: Option<&str>) -> bool {
        let rules = |text: &str| text.matches(" comment \"").count();
        rules(&self.script(guarded).unwrap_or_default()) == rules(listing.unwrap_or_default())
    }

    fn run(&self, script: &str, operation: &'static str) -> Result<(), FirewallError> {
        let failed = |cause| FirewallError { operation, table: self.table.clone(), cause };
        nft::run_script(script).map_err(failed)
    }
}

fn guard(link: GuardedLink, bridge: &LinkName) -> String {
    let GuardedLink { index, is_bridge } = link;
    let but_itself = if is_bridge { format!("oif != {index} ") } else { String::new() };
    format!(
        "iif {index} {but_itself}oifname != \"{bridge}\" drop comment \"this host forwards for VMs only\""
    )
}

#[cfg(test)]
mod tests;
