//! A port of the bridge as our rules know it: whose it is, and what passes between its guest and the world beyond.

use std::collections::BTreeMap;

use vm_model::{NetworkAccess, VmId};

use crate::forwards;
use crate::nfnetlink::Message;
use crate::nfnetlink::element::Change;
use crate::port_filter::{self, Identities, PortIdentity};

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BoundPort {
    /// The VM that it leads to.
    pub(crate) vm: VmId,
    /// Under which addresses its guest may send.
    pub(crate) identity: PortIdentity,
    /// What reaches the guest from beyond its network.
    pub(crate) access: NetworkAccess,
}

/// The ports by the index of their link.
pub(crate) type Ports = BTreeMap<u32, BoundPort>;

/// The identities of ports.
pub(crate) fn identities(ports: &Ports) -> Identities {
    ports.iter().map(|(index, port)| (*index, port.identity)).collect()
}

impl BoundPort {
    /// The messages that make `change` of all that stands in `table` for this port, which has the link index `index`.
    pub(crate) fn messages(&self, table: &str, change: Change, index: u32) -> Vec<Message> {
        let mut messages = self.forward_messages(table, change);
        let identity = port_filter::elements::messages(table, change, index, self.identity);
        match change {
            // A guest is bound to what it is before anything leads to it.
            Change::Enter => messages.splice(..0, identity).for_each(drop),
            Change::Remove => messages.extend(identity),
        }
        messages
    }

    /// The messages that make `change` of the ports of the host that lead to it.
    pub(crate) fn forward_messages(&self, table: &str, change: Change) -> Vec<Message> {
        forwards::messages(table, change, self.identity.address, &self.access.forwards)
    }
}
