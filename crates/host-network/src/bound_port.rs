//! A port of the bridge as our rules know it: whose it is, and what passes between its guest and the world beyond.

use std::collections::BTreeMap;

use vm_model::{NetworkAccess, VmId};

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

/// The ports by the index of their link.
pub(crate) type Ports = BTreeMap<u32, BoundPort>;

/// The identities of ports.
pub(crate) fn identities(ports: &Ports) -> Identities {
    ports.iter().map(|(index, port)| (*index, port.identity)).collect()
}

impl BoundPort {
    /// The messages that make `change` of all that stands in `table` for this port, which has the link index `index`.
    pub(crate) fn messages(&self, table: &str, change: Change, index: u32) -> Vec<Message> {
        let identity = port_filter::elements::messages(table, change, index, self.identity);
        let access = self.access_messages(table, change);
        match change {
            // A guest is bound to what it is before anything leads to it.
            Change::Enter => [identity, access].concat(),
            Change::Remove => [access, identity].concat(),
        }
    }

    /// The messages that make `change` of what stands there under its guest's address.
    pub(crate) fn access_messages(&self, table: &str, change: Change) -> Vec<Message> {
        let guest = self.identity.address;
        let mut messages = egress::messages(table, change, guest, self.access.egress.as_deref());
        messages.extend(forwards::messages(table, change, guest, &self.access.forwards));
        messages
    }
}
