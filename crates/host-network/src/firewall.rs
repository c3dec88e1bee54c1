//! Our own nftables table: masquerading, and no foreign source addresses from VMs.
//!
//! The table is replaced whole in one transaction, so applying it twice is the same as once, and nobody else's
//! table is read strictly or written. There is no rule that accepts: a packet passes when no table on the host
//! drops it, so one table's `accept` cannot lift another's `drop`. Where such a drop is seen, it is told as a
//! [`ForwardDrop`] rather than worked around.

use std::borrow::Cow;
use std::io;

use ipnetwork::Ipv4Network;
use nftables::batch::Batch;
use nftables::expr::{Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix};
use nftables::helper::{DEFAULT_ARGS, DEFAULT_NFT, NftablesError};
use nftables::schema::{Chain, NfListObject, Nftables, Rule, Table};
use nftables::stmt::{Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use thiserror::Error;

use crate::{Egress, LinkName};

/// Just before the usual filter priority (0): what VMs may not send need not be looked at further.
const FILTER_PRIORITY: i32 = -10;
/// The usual priority of source address translation.
const SOURCE_NAT_PRIORITY: i32 = 100;

/// Why our table could not be applied or removed.
#[derive(Debug, Error)]
pub enum FirewallError {
    /// There is no `nft`.
    #[error("nft is not on PATH: install nftables, or configure an egress that needs no masquerading")]
    Missing(#[source] io::Error),
    /// `nft` could not be run.
    #[error("cannot run nft")]
    Run(#[source] Box<NftablesError>),
    /// `nft` or the kernel refused.
    #[error("nft could not {operation} the table {table}: {said}")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// The table's name.
        table: String,
        /// The first line of its complaint.
        said: String,
    },
}

/// A chain of somebody else's that drops what nothing in it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardDrop {
    /// Where the chain is, as `family table chain`.
    pub chain: String,
}

/// What our table is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Firewall {
    pub(crate) table: String,
    pub(crate) bridge: LinkName,
    pub(crate) subnet: Ipv4Network,
    pub(crate) egress: Egress,
}

impl Firewall {
    /// The transaction that leaves exactly our table; `None` when none is needed.
    pub(crate) fn ruleset(&self) -> Option<Nftables<'_>> {
        match self.egress {
            Egress::Masquerade => {}
            Egress::Routed | Egress::Isolated => return None,
        }
        let mut batch = self.removal_batch();
        batch.add(NfListObject::Table(self.table()));
        batch.add(self.chain("forward", NfChainType::Filter, NfHook::Forward, FILTER_PRIORITY));
        batch.add(self.rule(
            "forward",
            "VMs leave from their own network's addresses only",
            vec![
                match_link(MetaKey::Iifname, Operator::EQ, &self.bridge),
                // From VM to VM is their own affair; with br_netfilter those frames come by here too.
                match_link(MetaKey::Oifname, Operator::NEQ, &self.bridge),
                match_address("saddr", Operator::NEQ, self.subnet),
                Statement::Drop(None),
            ],
        ));
        batch.add(self.chain("postrouting", NfChainType::NAT, NfHook::Postrouting, SOURCE_NAT_PRIORITY));
        batch.add(self.rule(
            "postrouting",
            "VMs leave under the host's address",
            vec![
                match_address("saddr", Operator::EQ, self.subnet),
                match_address("daddr", Operator::NEQ, self.subnet),
                match_link(MetaKey::Oifname, Operator::NEQ, &self.bridge),
                Statement::Masquerade(None),
            ],
        ));
        Some(batch.to_nftables())
    }

    /// The transaction after which there is no table of ours, whether there was one or not.
    pub(crate) fn removal(&self) -> Nftables<'_> {
        self.removal_batch().to_nftables()
    }

    /// Adding before deleting makes the deletion succeed also where there is no table yet.
    fn removal_batch(&self) -> Batch<'_> {
        let mut batch = Batch::new();
        batch.add(NfListObject::Table(self.table()));
        batch.delete(NfListObject::Table(self.table()));
        batch
    }

    fn table(&self) -> Table<'_> {
        Table { family: NfFamily::IP, name: Cow::Borrowed(&self.table), handle: None }
    }

    fn chain(&self, name: &'static str, kind: NfChainType, hook: NfHook, priority: i32) -> NfListObject<'_> {
        NfListObject::Chain(Chain {
            family: NfFamily::IP,
            table: Cow::Borrowed(&self.table),
            name: Cow::Borrowed(name),
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(NfChainPolicy::Accept),
            ..Chain::default()
        })
    }

    fn rule<'a>(
        &'a self,
        chain: &'static str,
        comment: &'static str,
        statements: Vec<Statement<'a>>,
    ) -> NfListObject<'a> {
        NfListObject::Rule(Rule {
            family: NfFamily::IP,
            table: Cow::Borrowed(&self.table),
            chain: Cow::Borrowed(chain),
            expr: Cow::Owned(statements),
            comment: Some(Cow::Borrowed(comment)),
            ..Rule::default()
        })
    }

    /// Puts our table in place, or removes it where none is needed and `nft` is there. Blocks on `nft`.
    ///
    /// # Errors
    /// If the table is needed and cannot be had.
    pub(crate) fn apply(&self) -> Result<(), FirewallError> {
        match self.ruleset() {
            Some(ruleset) => self.run(&ruleset, "apply"),
            None => match self.remove() {
                Err(FirewallError::Missing(_)) => Ok(()),
                other => other,
            },
        }
    }

    /// Removes our table; no error if there is none. Blocks on `nft`.
    ///
    /// # Errors
    /// If `nft` is missing or refuses.
    pub(crate) fn remove(&self) -> Result<(), FirewallError> {
        self.run(&self.removal(), "remove")
    }

    fn run(&self, ruleset: &Nftables<'_>, operation: &'static str) -> Result<(), FirewallError> {
        nftables::helper::apply_ruleset(ruleset).map_err(|error| match error {
            NftablesError::NftExecution { inner, .. } if inner.kind() == io::ErrorKind::NotFound => {
                FirewallError::Missing(inner)
            }
            NftablesError::NftFailed { stderr, .. } => FirewallError::Refused {
                operation,
                table: self.table.clone(),
                said: stderr.lines().next().unwrap_or("nothing").to_owned(),
            },
            other => FirewallError::Run(Box::new(other)),
        })
    }
}

/// Looks, as best it can, for the chain by which container engines and old firewalls drop forwarded packets.
/// Blocks on `nft`.
pub(crate) fn find_forward_drop() -> Option<ForwardDrop> {
    let arguments = ["list", "chain", "ip", "filter", "FORWARD"];
    debug_assert!(DEFAULT_ARGS.is_empty(), "the arguments above are all of them");
    let listing = nftables::helper::get_current_ruleset_raw(DEFAULT_NFT, arguments).ok()?;
    drops_by_default(&listing).then(|| ForwardDrop { chain: "ip filter FORWARD".to_owned() })
}

/// Whether a chain in a listing of `nft -j` drops by policy. Read loosely: the rules in it may be of any kind.
fn drops_by_default(listing: &str) -> bool {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(listing) else {
        return false;
    };
    let objects = value["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    objects.iter().any(|object| object["chain"]["policy"] == "drop")
}

fn match_link(key: MetaKey, operator: Operator, link: &LinkName) -> Statement<'_> {
    Statement::Match(Match {
        left: Expression::Named(NamedExpression::Meta(Meta { key })),
        right: Expression::String(Cow::Borrowed(link.as_str())),
        op: operator,
    })
}

fn match_address(field: &'static str, operator: Operator, network: Ipv4Network) -> Statement<'static> {
    let payload = PayloadField { protocol: Cow::Borrowed("ip"), field: Cow::Borrowed(field) };
    let prefix = Prefix {
        addr: Box::new(Expression::String(Cow::Owned(network.network().to_string()))),
        len: u32::from(network.prefix()),
    };
    Statement::Match(Match {
        left: Expression::Named(NamedExpression::Payload(Payload::PayloadField(payload))),
        right: Expression::Named(NamedExpression::Prefix(prefix)),
        op: operator,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firewall(egress: Egress) -> Firewall {
        Firewall {
            table: "procurator".to_owned(),
            bridge: LinkName::parse("br-test").unwrap(),
            subnet: "10.100.0.0/16".parse().unwrap(),
            egress,
        }
    }

    #[test]
    fn the_transaction_replaces_our_table_whole() {
        let firewall = firewall(Egress::Masquerade);
        let json = serde_json::to_value(firewall.ruleset().unwrap()).unwrap();
        let commands: Vec<String> = json["nftables"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|command| command.as_object().unwrap())
            .map(|(verb, object)| {
                let (kind, value) = object.as_object().unwrap().iter().next().unwrap();
                let name = value.get("name").or(value.get("chain")).unwrap();
                format!("{verb} {kind} {}", name.as_str().unwrap())
            })
            .collect();
        assert_eq!(
            commands,
            [
                "add table procurator",
                "delete table procurator",
                "add table procurator",
                "add chain forward",
                "add rule forward",
                "add chain postrouting",
                "add rule postrouting"
            ]
        );
    }

    #[test]
    fn no_table_is_needed_without_masquerading() {
        assert!(firewall(Egress::Routed).ruleset().is_none());
        assert!(firewall(Egress::Isolated).ruleset().is_none());
    }

    #[test]
    fn a_dropping_chain_is_seen_and_nonsense_is_not_one() {
        let listing = r#"{"nftables": [{"metainfo": {"json_schema_version": 1}}, {"chain": {"family": "ip",
            "table": "filter", "name": "FORWARD", "hook": "forward", "prio": 0, "policy": "drop"}}]}"#;
        assert!(drops_by_default(listing));
        assert!(!drops_by_default(&listing.replace("drop", "accept")));
        for nonsense in ["", "[]", "{\"nftables\": 3}", "{\"nftables\": [3]}"] {
            assert!(!drops_by_default(nonsense), "{nonsense:?}");
        }
    }
}
