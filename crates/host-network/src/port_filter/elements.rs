//! Entering a port into the sets of our table, and taking it out, as nfnetlink messages.
//!
//! One VM more or less is one transaction of a few hundred bytes here; running `nft` for it would cost a process.
//! Message formats: Linux `include/uapi/linux/netfilter/nfnetlink.h` and `nf_tables.h`.

use super::{IPV4, IPV6, MACS, PORTS, PortIdentity, TARGETS};
use crate::nfnetlink::{Attributes, Message};

/// `NFT_MSG_NEWSETELEM` and `NFT_MSG_DELSETELEM`.
const NEW_ELEMENT: u8 = 12;
const DELETE_ELEMENT: u8 = 14;
/// Attributes of a message about elements: their table, their set, and the list of them.
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
/// An item of a list; in it the element's key; in that the value.
const LIST_ITEM: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const DATA_VALUE: u16 = 1;
/// `NFPROTO_BRIDGE`.
const BRIDGE_FAMILY: u8 = 7;

/// What is done with the elements of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Enter,
    Remove,
}

/// The messages that do so for the port with the link index `index`, in `table`.
pub(crate) fn messages(table: &str, change: Change, index: u32, identity: PortIdentity) -> Vec<Message> {
    let port = index.to_ne_bytes();
    // Each part of a joined key takes whole words of four bytes.
    let key = |value: &[u8]| {
        let mut key = port.to_vec();
        key.extend(value);
        key.resize(key.len().next_multiple_of(4), 0);
        key
    };
    let link_local = identity.link_local().octets();
    let entries = [
        (MACS, key(&identity.mac.octets())),
        (IPV4, key(&identity.address.octets())),
        (IPV6, key(&link_local)),
        (TARGETS, key(&link_local)),
        // Last: from here on the port is filtered.
        (PORTS, port.to_vec()),
    ];
    entries.into_iter().map(|(set, key)| message(table, change, set, &key)).collect()
}

fn message(table: &str, change: Change, set: &str, key: &[u8]) -> Message {
    let element = Attributes::default().nested(ELEMENT_KEY, Attributes::default().bytes(DATA_VALUE, key));
    let body = Attributes::default()
        .text(ELEMENTS_TABLE, table)
        .text(ELEMENTS_SET, set)
        .nested(ELEMENTS, Attributes::default().nested(LIST_ITEM, element));
    let kind = match change {
        Change::Enter => NEW_ELEMENT,
        Change::Remove => DELETE_ELEMENT,
    };
    Message { kind, creates: change == Change::Enter, family: BRIDGE_FAMILY, body }
}
