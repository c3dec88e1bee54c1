//! The elements of a port in the sets of our bridge table. They change as nfnetlink messages: one VM more or less is one
//! transaction of a few hundred bytes; running `nft` for it would cost a process.

use super::{IPV4, IPV6, MACS, PORTS, PortIdentity, TARGETS};
use crate::bound_port::Tables;
use crate::nfnetlink::Message;
use crate::nfnetlink::element::{Change, Element, Family, joined};

/// The messages that make `change` for the port with the link index `index`, in `tables`.
pub(crate) fn messages(
    tables: &Tables<'_>,
    change: Change,
    index: u32,
    identity: PortIdentity,
) -> Vec<Message> {
    let port = index.to_ne_bytes();
    let mut entries = vec![
        (MACS, joined(&[&port, &identity.mac.octets()])),
        (IPV4, joined(&[&port, &identity.address.octets()])),
    ];
    for address in identity.ipv6(tables.ipv6) {
        let key = joined(&[&port, &address.octets()]);
        entries.extend([(IPV6, key.clone()), (TARGETS, key)]);
    }
    // Last: from here on the port is filtered.
    entries.push((PORTS, port.to_vec()));
    let message = |(set, key)| {
        Element { set, key, last: None, value: None }.message(Family::Bridge, tables.name, change)
    };
    entries.into_iter().map(message).collect()
}
