//! A port of the bridge as our rules know it: whose it is, and what passes between its guest and the world beyond.

use std::collections::BTreeMap;

use vm_model::{Ipv6Subnet, NetworkAccess, VmId};

use crate::nfnetlink::Message;
use crate::nfnetlink::element::Change;
use crate::port_filter::{self, Identities, PortIdentity};
use crate::{egress, forwards};

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BoundPort {
    /// The VM that it leads to.
    pub(crate) vm: VmId,
    /// Under which addresses its guest may send.
    pub(crate) identity: PortIdentity,
    /// What passes between the guest and what lies beyond its network.
    pub(crate) access: NetworkAccess,
}

/// Our tables, as far as elements of ports go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables<'name> {
    /// The name that all of them have.
    pub(crate) name: &'name str,
    /// The network of which guests have IPv6 addresses; there is a table of the family `ip6` where it is one.
    pub(crate) ipv6: Option<Ipv6Subnet>,
}

/// The ports by the index of their link.
pub(crate) type Ports = BTreeMap<u32, BoundPort>;

/// The identities of ports.
pub(crate) fn identities(ports: &Ports) -> Identities {
    ports.iter().map(|(index, port)| (*index, port.identity)).collect()
}

impl BoundPort {
    /// The messages that make `change` of all that stands in `tables` for this port, which has the link index `index`.
    pub(crate) fn messages(&self, tables: &Tables<'_>, change: Change, index: u32) -> Vec<Message> {
        let identity = port_filter::elements::messages(tables, change, index, self.identity);
        let access = self.access_messages(tables, change);
        match change {
            // A guest is bound to what it is before anything leads to it.
            Change::Enter => [identity, access].concat(),
            Change::Remove => [access, identity].concat(),
        }
    }

    /// The messages that make `change` of what stands there under its guest's addresses.
    pub(crate) fn access_messages(&self, tables: &Tables<'_>, change: Change) -> Vec<Message> {
        let (guest, table) = (self.identity.address, tables.name);
        let rules = self.access.egress.as_deref();
        let mut messages = egress::messages(table, change, guest.into(), rules);
        if let Some(subnet) = tables.ipv6 {
            let guest = subnet.address_of(self.identity.mac);
            messages.extend(egress::messages(table, change, guest.into(), rules));
        }
        messages.extend(forwards::messages(table, change, guest, &self.access.forwards));
        messages
    }
}
