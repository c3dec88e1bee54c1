//! Entering an element into a set or map of a table of ours, and taking it out.
//!
//! Message formats: Linux `include/uapi/linux/netfilter/nf_tables.h`.

use super::{Attributes, Message};

/// `NFT_MSG_NEWSETELEM` and `NFT_MSG_DELSETELEM`.
const NEW_ELEMENT: u8 = 12;
const DELETE_ELEMENT: u8 = 14;
/// Attributes of a message about elements: their table, their set, and the list of them.
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
/// An item of a list; in it the element's key and, in a map, its value; in those the bytes.
const LIST_ITEM: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_VALUE: u16 = 2;
/// Of a range: the last key (`NFTA_SET_ELEM_KEY_END`).
const ELEMENT_LAST: u16 = 10;
const DATA_VALUE: u16 = 1;

/// A table's family (`NFPROTO_IPV4`, `NFPROTO_BRIDGE`, `NFPROTO_IPV6`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4 = 2,
    Bridge = 7,
    Ipv6 = 10,
}

/// What is done with an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Enter,
    Remove,
}

/// An element of a set, or of a map where it has a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) set: &'static str,
    pub(crate) key: Vec<u8>,
    /// Where it is a range: its last key.
    pub(crate) last: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
}

impl Element {
    /// The message that enters it into its set of `table`, or takes it out.
    pub(crate) fn message(&self, family: Family, table: &str, change: Change) -> Message {
        let data = |bytes: &[u8]| Attributes::default().bytes(DATA_VALUE, bytes);
        let mut element = Attributes::default().nested(ELEMENT_KEY, data(&self.key));
        if let Some(last) = &self.last {
            element = element.nested(ELEMENT_LAST, data(last));
        }
        if let Some(value) = &self.value {
            element = element.nested(ELEMENT_VALUE, data(value));
        }
        let body = Attributes::default()
            .text(ELEMENTS_TABLE, table)
            .text(ELEMENTS_SET, self.set)
            .nested(ELEMENTS, Attributes::default().nested(LIST_ITEM, element));
        let kind = match change {
            Change::Enter => NEW_ELEMENT,
            Change::Remove => DELETE_ELEMENT,
        };
        Message { kind, creates: change == Change::Enter, family: family as u8, body }
    }
}

/// A key or value of several parts: each takes whole words of four bytes.
pub(crate) fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend(*part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}
