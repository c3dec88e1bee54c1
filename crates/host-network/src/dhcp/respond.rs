//! From a client's message to the server's answer (RFC 2131 §4.3), without I/O.
//!
//! Only the few fields that matter are read from a message, each by its raw bytes: the codec's typed option
//! parser asserts on lengths that a guest chooses.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::borrowed::Message as Request;
use dhcproto::v4::{DhcpOption, HType, MAGIC, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Encodable, Encoder, Name};
use ipnetwork::Ipv4Network;
use vm_model::MacAddress;

use super::{Binding, Bindings};
use crate::RouterAdvice;

/// How long a client may use its address without an answer. Nobody answers while no worker runs, and VMs run on
/// meanwhile: so it is much longer than a worker is ever missing. It is not infinite, because such a client would never
/// ask again, and never hear of other name servers, another mask or another address.
const LEASE_TIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// When a client first asks to keep its address (T1 of RFC 2131 §4.4.5). Far from half of the lease, so that what has
/// changed reaches it within hours, and at least 29 days are left whenever the worker stops answering.
const RENEWAL_TIME: Duration = Duration::from_secs(6 * 3600);
/// The smallest BOOTP message (RFC 951 §3); some clients drop shorter ones.
const SMALLEST_MESSAGE: usize = 300;

/// What the server says of itself and the network to everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// The server's own address: server identifier, and router where no other is told.
    pub address: Ipv4Addr,
    /// The network.
    pub subnet: Ipv4Network,
    /// Which router clients are told.
    pub router: RouterAdvice,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// The domain that names are looked up in.
    pub domain: Option<String>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The DHCP message.
    pub message: Vec<u8>,
    /// Where it goes.
    pub to: ReplyTo,
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyTo {
    /// The client alone, which may not answer ARP for the address yet.
    Client {
        /// Its hardware address.
        mac: MacAddress,
        /// Its address.
        address: Ipv4Addr,
    },
    /// Everybody, as the client asked.
    Broadcast,
}

/// The parts of a client's message that an answer depends on.
#[derive(Debug)]
struct Asked {
    kind: MessageType,
    client: MacAddress,
    client_address: Ipv4Addr,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    wants_broadcast: bool,
}

/// The answer to `request`, a DHCP message as it came from `sender`. `None` where silence is right: for anything
/// malformed or relayed, for clients without a binding, for messages sent in another's name, and for those that
/// need no answer. At most one answer a message, to the asker unless it asked for a broadcast.
pub fn respond(
    facts: &ServerFacts,
    bindings: &Bindings,
    sender: MacAddress,
    request: &[u8],
) -> Option<Reply> {
    let asked = parse(request)?;
    if asked.client != sender {
        return None;
    }
    let binding = bindings.get(asked.client)?;
    let answer = match asked.kind {
        MessageType::Discover => MessageType::Offer,
        MessageType::Request => answer_to_request(facts, binding, &asked)?,
        MessageType::Inform if asked.client_address == binding.address => MessageType::Ack,
        // A binding is not the client's to give back or decline, and the rest are no client's messages.
        _ => return None,
    };
    let message = compose(facts, binding, request, &asked, answer)?;
    let to = match answer {
        // Broadcast at the IP level (RFC 2131 §4.1), since the client has no address that it may use.
        MessageType::Nak if !asked.wants_broadcast => {
            ReplyTo::Client { mac: asked.client, address: Ipv4Addr::BROADCAST }
        }
        MessageType::Nak => ReplyTo::Broadcast,
        _ if asked.wants_broadcast && asked.client_address.is_unspecified() => ReplyTo::Broadcast,
        _ => ReplyTo::Client { mac: asked.client, address: binding.address },
    };
    Some(Reply { message, to })
}

/// RFC 2131 §4.3.2: which state the client is in shows by which addresses it names.
fn answer_to_request(facts: &ServerFacts, binding: &Binding, asked: &Asked) -> Option<MessageType> {
    if asked.server.is_some_and(|server| server != facts.address) {
        return None;
    }
    let named = match asked.requested {
        Some(address) => address,
        None if asked.client_address.is_unspecified() => return None,
        None => asked.client_address,
    };
    Some(if named == binding.address { MessageType::Ack } else { MessageType::Nak })
}

fn parse(request: &[u8]) -> Option<Asked> {
    let message = Request::new(request).ok()?;
    let is_ethernet = message.htype() == HType::Eth && message.hlen() == 6;
    if message.opcode() != Opcode::BootRequest || !is_ethernet || !message.giaddr().is_unspecified() {
        return None;
    }
    if request.get(236..240)? != MAGIC {
        return None;
    }
    let client = MacAddress::new(message.chaddr().try_into().ok()?);
    let mut kind = None;
    let mut requested = None;
    let mut server = None;
    for option in message.opts() {
        match option.code() {
            OptionCode::MessageType => match option.data() {
                [code] => kind = Some(MessageType::from(*code)),
                _ => return None,
            },
            OptionCode::RequestedIpAddress => requested = Some(address_from(option.data())?),
            OptionCode::ServerIdentifier => server = Some(address_from(option.data())?),
            _ => {}
        }
    }
    Some(Asked {
        kind: kind?,
        client,
        client_address: message.ciaddr(),
        requested,
        server,
        wants_broadcast: message.flags().broadcast(),
    })
}

fn address_from(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

/// RFC 2131 §4.3.1, table 3: the fields and options of each answer.
fn compose(
    facts: &ServerFacts,
    binding: &Binding,
    request: &[u8],
    asked: &Asked,
    answer: MessageType,
) -> Option<Vec<u8>> {
    let received = Request::new(request).ok()?;
    let mut message = Message::new_with_id(
        received.xid(),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        &asked.client.octets(),
    );
    message.set_opcode(Opcode::BootReply).set_flags(received.flags());
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(answer));
    options.insert(DhcpOption::ServerIdentifier(facts.address));
    if answer == MessageType::Nak {
        let reason = format!("this interface has the address {}", binding.address);
        options.insert(DhcpOption::Message(reason));
    } else {
        add_network_options(options, facts, binding);
        if asked.kind == MessageType::Inform {
            message.set_ciaddr(asked.client_address);
        } else {
            add_lease_options(options);
            message.set_yiaddr(binding.address);
            if answer == MessageType::Ack {
                message.set_ciaddr(asked.client_address);
            }
        }
    }
    let mut bytes = Vec::with_capacity(SMALLEST_MESSAGE + 64);
    message.encode(&mut Encoder::new(&mut bytes)).ok()?;
    bytes.resize(bytes.len().max(SMALLEST_MESSAGE), 0);
    Some(bytes)
}

fn add_network_options(options: &mut dhcproto::v4::DhcpOptions, facts: &ServerFacts, binding: &Binding) {
    let mask = binding.mask.unwrap_or_else(|| facts.subnet.mask());
    options.insert(DhcpOption::SubnetMask(mask));
    let hosts = !mask.to_bits();
    // A network of one or two addresses has no address for all of it (RFC 3021).
    if hosts > 1 {
        options.insert(DhcpOption::BroadcastAddr((binding.address.to_bits() | hosts).into()));
    }
    if let Some(router) = facts.router.address(facts.address) {
        options.insert(DhcpOption::Router(vec![router]));
        if binding.address & mask != router & mask {
            options.insert(routes_by_way_of(router));
        }
    }
    if !facts.dns.is_empty() {
        options.insert(DhcpOption::DomainNameServer(facts.dns.clone()));
    }
    if let Some(domain) = &facts.domain {
        options.insert(DhcpOption::DomainName(domain.clone()));
        // Some clients look nothing up in the domain that is said to be their own (option 15), but in these (RFC 3397).
        if let Ok(name) = Name::from_ascii(domain) {
            options.insert(DhcpOption::DomainSearch(vec![name]));
        }
    }
    options.insert(DhcpOption::Hostname(binding.vm.to_string()));
    if let Some(mtu) = binding.mtu {
        options.insert(DhcpOption::InterfaceMtu(mtu));
    }
}

/// The routes of a client whose mask leaves its router out: the router itself is on the link, and all else beyond it. A
/// client that follows these takes no notice of the router option (RFC 3442).
fn routes_by_way_of(router: Ipv4Addr) -> DhcpOption {
    let everything = Default::default();
    DhcpOption::ClasslessStaticRoute(vec![(router.into(), Ipv4Addr::UNSPECIFIED), (everything, router)])
}

fn add_lease_options(options: &mut dhcproto::v4::DhcpOptions) {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).expect("a month fits");
    options.insert(DhcpOption::AddressLeaseTime(seconds(LEASE_TIME)));
    options.insert(DhcpOption::Renewal(seconds(RENEWAL_TIME)));
    options.insert(DhcpOption::Rebinding(seconds(LEASE_TIME) / 8 * 7));
}

#[cfg(test)]
mod tests;
