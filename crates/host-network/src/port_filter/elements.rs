//! The elements of a port in the sets of our bridge table. They change as nfnetlink messages: one VM more or less is one
//! transaction of a few hundred bytes; running `nft` for it would cost a process.

use super::{IPV4, IPV6, MACS, PORTS, PortIdentity, TARGETS};
use crate::nfnetlink::Message;
use crate::nfnetlink::element::{Change, Element, Family, joined};

/// The messages that make `change` for the port with the link index `index`, in `table`.
pub(crate) fn messages(table: &str, change: Change, index: u32, identity: PortIdentity) -> Vec<Message> {
    let port = index.to_ne_bytes();
    let link_local = identity.link_local().octets();
    let entries = [
        (MACS, joined(&[&port, &identity.mac.octets()])),
        (IPV4, joined(&[&port, &identity.address.octets()])),
        (IPV6, joined(&[&port, &link_local])),
        (TARGETS, joined(&[&port, &link_local])),
        // Last: from here on the port is filtered.
        (PORTS, port.to_vec()),
    ];
    let message =
        |(set, key)| Element { set, key, last: None, value: None }.message(Family::Bridge, table, change);
    entries.into_iter().map(message).collect()
}
