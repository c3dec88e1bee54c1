//! From a client's DHCPv6 message to the server's answer (RFC 8415 §18.3), without I/O.
//!
//! Each interface has one address, made of its hardware address; a client is known by that hardware address, which the
//! packet filter vouches for, and not by what it calls itself. So nothing is kept: what a client is told depends on its
//! message and on whether its interface is attached.
//!
//! Written by hand: few options are read of a message, each with its length checked, and few are written.

use std::net::Ipv6Addr;
use std::time::Duration;

use vm_model::MacAddress;

use super::server::Ipv6Facts;
use crate::dns::Domain;

/// How long an address may be used without an answer, and when a client first asks to keep it. The same as those of
/// DHCP for IPv4, and for the same reasons.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
const RENEWAL_TIME: Duration = Duration::from_secs(6 * 3600);
/// Bytes of a message before its options: its type and the number of its exchange (§8).
const HEADER_BYTES: usize = 4;
/// Bytes of an association before its options: its number, and two times (§21.4).
const IA_BYTES: usize = 12;
/// The most bytes of what a client calls itself (§11.1: 128, and its type).
const CLIENT_ID_BYTES_MOST: usize = 130;
/// The most associations, and addresses in one of them, that are answered: a client has one of each.
const ASSOCIATIONS_MOST: usize = 4;
const ADDRESSES_MOST: usize = 4;
/// Types of messages (§7.3).
const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION_REQUEST: u8 = 11;
/// Codes of options (§21, RFC 3646).
const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_TA: u16 = 4;
const IA_ADDRESS: u16 = 5;
const STATUS: u16 = 13;
const RAPID_COMMIT: u16 = 14;
const DNS_SERVERS: u16 = 23;
const DOMAIN_LIST: u16 = 24;
const IA_PD: u16 = 25;
/// Codes of a status (§21.13).
const SUCCESS: u16 = 0;
const NO_ADDRESSES: u16 = 2;
const NOT_ON_LINK: u16 = 4;
const NO_PREFIXES: u16 = 6;

/// What the client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// An offer, or the address at once where it may be committed rapidly.
    Offer { rapidly: bool },
    /// The address that was offered.
    Address,
    /// To keep its addresses.
    Extension,
    /// To know whether its addresses are of this link.
    Confirmation,
    /// To give its addresses back.
    Release,
    /// Name servers and the domain alone.
    Information,
}

/// An association of addresses (§12): its kind of option, its number, and the addresses that the client has in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Association {
    kind: u16,
    number: [u8; 4],
    addresses: Vec<Ipv6Addr>,
}

/// The parts of a client's message that an answer depends on.
#[derive(Debug)]
struct Asked<'message> {
    exchange: [u8; 3],
    wanted: Wanted,
    client: Option<&'message [u8]>,
    associations: Vec<Association>,
}

/// The answer to `request`, a DHCPv6 message of the guest with the hardware address `client`, whose interface is attached.
/// `None` where silence is right: for anything malformed or relayed, and for what is meant for another server.
pub(crate) fn respond(facts: &Ipv6Facts, client: MacAddress, request: &[u8]) -> Option<Vec<u8>> {
    let asked = parse(facts, request)?;
    let address = facts.subnet.address_of(client);
    let kind = if asked.wanted == (Wanted::Offer { rapidly: false }) { ADVERTISE } else { REPLY };
    let mut message = vec![kind];
    message.extend(asked.exchange);
    push(&mut message, SERVER_ID, &facts.server_id());
    if let Some(client) = asked.client {
        push(&mut message, CLIENT_ID, client);
    }
    match asked.wanted {
        Wanted::Offer { rapidly } => {
            if rapidly {
                push(&mut message, RAPID_COMMIT, &[]);
            }
            push_associations(&mut message, &asked.associations, address);
        }
        Wanted::Address | Wanted::Extension => push_associations(&mut message, &asked.associations, address),
        Wanted::Confirmation => {
            let mut named =
                asked.associations.iter().flat_map(|association| &association.addresses).peekable();
            // There is nothing to confirm (§18.3.3).
            named.peek()?;
            let code = if named.all(|named| *named == address) { SUCCESS } else { NOT_ON_LINK };
            push_status(&mut message, code);
        }
        // An interface has its address as long as it is attached, whatever its guest does with it.
        Wanted::Release => push_status(&mut message, SUCCESS),
        Wanted::Information => {}
    }
    match asked.wanted {
        Wanted::Confirmation | Wanted::Release => {}
        Wanted::Offer { .. } | Wanted::Address | Wanted::Extension | Wanted::Information => {
            push_network(&mut message, facts);
        }
    }
    Some(message)
}

/// Reads a message, and looks whether it is one that a server answers (§16).
fn parse<'message>(facts: &Ipv6Facts, request: &'message [u8]) -> Option<Asked<'message>> {
    let (header, options) = request.split_at_checked(HEADER_BYTES)?;
    let (mut client, mut server, mut rapidly, mut associations) = (None, None, false, Vec::new());
    for option in Options(options) {
        let (code, data) = option?;
        match code {
            CLIENT_ID => client = Some(data).filter(|id| (1..=CLIENT_ID_BYTES_MOST).contains(&id.len())),
            SERVER_ID => server = Some(data),
            RAPID_COMMIT => rapidly = true,
            IA_NA | IA_TA | IA_PD if associations.len() < ASSOCIATIONS_MOST => {
                associations.push(association(code, data)?);
            }
            _ => {}
        }
    }
    let is_to_us = server.is_some_and(|id| *id == facts.server_id());
    let (wanted, is_addressed_well) = match header[0] {
        SOLICIT => (Wanted::Offer { rapidly }, server.is_none()),
        REQUEST => (Wanted::Address, is_to_us),
        RENEW => (Wanted::Extension, is_to_us),
        REBIND => (Wanted::Extension, server.is_none()),
        CONFIRM => (Wanted::Confirmation, server.is_none()),
        RELEASE | DECLINE => (Wanted::Release, is_to_us),
        INFORMATION_REQUEST => {
            (Wanted::Information, associations.is_empty() && (server.is_none() || is_to_us))
        }
        _ => return None,
    };
    let names_itself = client.is_some() || wanted == Wanted::Information;
    let exchange = [header[1], header[2], header[3]];
    (is_addressed_well && names_itself).then_some(Asked { exchange, wanted, client, associations })
}

/// An association; one of temporary addresses has no times.
fn association(kind: u16, data: &[u8]) -> Option<Association> {
    let number = *data.first_chunk::<4>()?;
    let options = data.get(if kind == IA_TA { number.len() } else { IA_BYTES }..)?;
    let mut addresses = Vec::new();
    for option in Options(options) {
        let (code, data) = option?;
        if code == IA_ADDRESS && addresses.len() < ADDRESSES_MOST {
            addresses.push(Ipv6Addr::from(*data.first_chunk::<16>()?));
        }
    }
    Some(Association { kind, number, addresses })
}

/// The first association of addresses has `address`, and what else the client has in it ends (§18.3.4). The others have
/// nothing.
fn push_associations(message: &mut Vec<u8>, associations: &[Association], address: Ipv6Addr) {
    let first = associations.iter().position(|association| association.kind == IA_NA);
    for (place, association) in associations.iter().enumerate() {
        let mut data = association.number.to_vec();
        let rebinding = LIFETIME / 8 * 7;
        match (association.kind, Some(place) == first) {
            (IA_NA, true) => {
                data.extend([seconds(RENEWAL_TIME), seconds(rebinding)].concat());
                push(&mut data, IA_ADDRESS, &lifetimes(address, LIFETIME));
                for other in association.addresses.iter().filter(|other| **other != address) {
                    push(&mut data, IA_ADDRESS, &lifetimes(*other, Duration::ZERO));
                }
            }
            (IA_TA, _) => push_status(&mut data, NO_ADDRESSES),
            (kind, _) => {
                data.extend([0; 8]);
                push_status(&mut data, if kind == IA_PD { NO_PREFIXES } else { NO_ADDRESSES });
            }
        }
        push(message, association.kind, &data);
    }
}

/// An address with its preferred and valid lifetime (§21.6).
fn lifetimes(address: Ipv6Addr, lifetime: Duration) -> Vec<u8> {
    [&address.octets()[..], &seconds(lifetime), &seconds(lifetime)].concat()
}

fn seconds(time: Duration) -> [u8; 4] {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX).to_be_bytes()
}

/// Name servers and the domain, whether the client asks for them or not.
fn push_network(message: &mut Vec<u8>, facts: &Ipv6Facts) {
    if let Some(server) = facts.name_server() {
        push(message, DNS_SERVERS, &server.octets());
    }
    if let Some(domain) = &facts.domain {
        push(message, DOMAIN_LIST, &labels(domain));
    }
}

/// A domain as a list of one (RFC 8415 §10). Its labels are short enough.
fn labels(domain: &Domain) -> Vec<u8> {
    let label = |label: &str| [&[u8::try_from(label.len()).unwrap_or_default()], label.as_bytes()].concat();
    let labels: Vec<Vec<u8>> = domain.as_str().split('.').map(label).collect();
    [labels.concat(), vec![0]].concat()
}

fn push_status(message: &mut Vec<u8>, code: u16) {
    push(message, STATUS, &code.to_be_bytes());
}

/// Adds an option. Ours are far shorter than an option can be.
fn push(message: &mut Vec<u8>, code: u16, data: &[u8]) {
    message.extend(code.to_be_bytes());
    message.extend(u16::try_from(data.len()).unwrap_or_default().to_be_bytes());
    message.extend(data);
}

/// The options of a message or of another option, each with its code; `None` for one that is cut short, which is the last.
struct Options<'message>(&'message [u8]);

impl<'message> Iterator for Options<'message> {
    type Item = Option<(u16, &'message [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let option = split_option(self.0);
        self.0 = option.map_or(&[], |(_, _, rest)| rest);
        Some(option.map(|(code, data, _)| (code, data)))
    }
}

fn split_option(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (code, rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (data, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    Some((u16::from_be_bytes(*code), data, rest))
}

#[cfg(test)]
mod tests;
