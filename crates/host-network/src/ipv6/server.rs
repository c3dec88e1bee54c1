//! The task that hears what guests ask of their router and of DHCPv6, and advertises the router from time to time. It ends
//! when its owner says so or goes away.

use std::io;
use std::net::Ipv6Addr;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};
use vm_model::{Ipv6Subnet, MacAddress, link_local};

use super::advertisement::advertisement;
use super::dhcp::respond;
use super::packet::{self, ALL_NODES, Asked};
use crate::dhcp::{Heard, PacketSocket, SharedBindings};
use crate::dns::Domain;
use crate::{DhcpError, Egress};

/// The longest packet looked at; a question fits an Ethernet frame.
const PACKET_BYTES: usize = 1500;
/// How often everybody is told of the router: often enough that a guest that missed what it asked for is not long without.
const ADVERTISEMENT_PAUSE: Duration = Duration::from_secs(300);
/// How long to leave a failing socket alone; it fails while the bridge is down.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How long the task may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(2);
/// The Ethernet address of [`ALL_NODES`] (RFC 2464 §7).
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// What a server calls itself that goes by its hardware address: type 3, Ethernet (RFC 8415 §11.4).
const BY_LINK_LAYER: [u8; 4] = [0, 3, 0, 1];

/// What guests are told of their network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ipv6Facts {
    pub(crate) subnet: Ipv6Subnet,
    /// The bridge's hardware address, which its link-local address is made of.
    pub(crate) router: MacAddress,
    /// The MTU of the network.
    pub(crate) mtu: u16,
    /// Whether the router leads anywhere.
    pub(crate) egress: Egress,
    /// The domain that names are looked up in, where our name server answers.
    pub(crate) domain: Option<Domain>,
}

impl Ipv6Facts {
    /// What the DHCPv6 server calls itself.
    pub(super) fn server_id(&self) -> [u8; 10] {
        let ([a, b, c, d], [e, f, g, h, i, j]) = (BY_LINK_LAYER, self.router.octets());
        [a, b, c, d, e, f, g, h, i, j]
    }

    /// Where our name server answers.
    pub(super) fn name_server(&self) -> Option<Ipv6Addr> {
        self.domain.as_ref().map(|_| self.subnet.gateway())
    }
}

/// The running server.
#[derive(Debug)]
pub(crate) struct Ipv6Server {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Ipv6Server {
    /// Starts to answer on the bridge with the index `link`.
    ///
    /// # Errors
    /// If the packet socket cannot be had.
    pub(crate) fn start(link: u32, facts: Ipv6Facts, bindings: SharedBindings) -> Result<Self, DhcpError> {
        let socket = PacketSocket::open(link, Heard::Ipv6Questions).map_err(DhcpError::Socket)?;
        let socket = socket.register().map_err(DhcpError::Register)?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            tokio::select! {
                // Cancel-safe: a packet is received and answered without waiting in between.
                () = serve(&socket, &facts, &bindings) => {}
                () = advertise(&socket, &facts) => {}
                // Also when the owner is gone.
                _ = stopped => {}
            }
        });
        Ok(Self { task, stop })
    }

    /// Stops the task and waits for its end.
    pub(crate) async fn stop(mut self) {
        // The task may have ended by itself; then nobody listens.
        let _ = self.stop.send(());
        match timeout(STOP_DEADLINE, &mut self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the server of IPv6 addresses had failed"),
            Err(_elapsed) => {
                warn!("the server of IPv6 addresses did not stop in time");
                self.task.abort();
            }
        }
    }
}

async fn advertise(socket: &AsyncFd<PacketSocket>, facts: &Ipv6Facts) {
    let mut turns = interval(ADVERTISEMENT_PAUSE);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        if let Err(error) = send_advertisement(socket.get_ref(), facts, ALL_NODES, ALL_NODES_MAC) {
            // The bridge is down as long as no guest is there.
            debug!(%error, "the router was not advertised");
        }
    }
}

async fn serve(socket: &AsyncFd<PacketSocket>, facts: &Ipv6Facts, bindings: &SharedBindings) {
    let mut buffer = [0; PACKET_BYTES];
    loop {
        let Ok(mut ready) = socket.readable().await else {
            return;
        };
        match ready.try_io(|socket| socket.get_ref().receive(&mut buffer)) {
            Ok(Ok((length, sender))) => {
                let packet = buffer.get(..length).unwrap_or_default();
                // Only those are answered that are attached.
                if bindings.look(|bindings| bindings.get(sender).is_some())
                    && let Some(asked) = packet::read(packet, sender)
                    && let Err(error) = answer(socket.get_ref(), facts, sender, asked)
                {
                    debug!(%error, %sender, "an answer was not sent; the guest will ask again");
                }
            }
            Ok(Err(error)) => {
                debug!(%error, "the socket for questions of IPv6 failed");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(_would_block) => {}
        }
        // Whoever sends without a pause keeps no other task from its turn.
        tokio::task::coop::consume_budget().await;
    }
}

/// Answers the guest with the hardware address `sender`, and nobody else.
fn answer(socket: &PacketSocket, facts: &Ipv6Facts, sender: MacAddress, asked: Asked<'_>) -> io::Result<()> {
    match asked {
        Asked::Router { source } => {
            // One without an address hears what is for all, in a frame to it alone (RFC 6085).
            let to = if source.is_unspecified() { ALL_NODES } else { source };
            send_advertisement(socket, facts, to, sender.octets())
        }
        Asked::Dhcp(message) => {
            let Some(reply) = respond(facts, sender, message) else { return Ok(()) };
            let packet = packet::dhcp(link_local(facts.router), link_local(sender), &reply);
            send(socket, packet, sender.octets())
        }
    }
}

fn send_advertisement(
    socket: &PacketSocket,
    facts: &Ipv6Facts,
    to: Ipv6Addr,
    mac: [u8; 6],
) -> io::Result<()> {
    send(socket, packet::icmpv6(link_local(facts.router), to, advertisement(facts)), mac)
}

fn send(socket: &PacketSocket, packet: Option<Vec<u8>>, mac: [u8; 6]) -> io::Result<()> {
    let packet = packet.ok_or_else(|| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
    socket.send(&packet, mac)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn facts() -> Ipv6Facts {
        Ipv6Facts {
            subnet: "fd12:3456:789a::/64".parse().unwrap(),
            router: MacAddress::new([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            egress: Egress::Masquerade,
            domain: Some("vm.internal".parse().unwrap()),
        }
    }
}
