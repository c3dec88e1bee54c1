//! The task that hears clients on the bridge and answers them. It owns its socket, keeps one packet at a time,
//! and ends when its owner says so or goes away.

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrV4, SocketFlags, SocketType, sockopt};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::datagram::{SERVER_PORT, packet_with, payload_of};
use super::packet_socket::{Heard, PacketSocket};
use super::{Bindings, Reply, ReplyTo, ServerFacts, respond};

/// The longest packet looked at; a client's message fits an Ethernet frame.
const PACKET_BYTES: usize = 1500;
/// How long to leave a failing socket alone; it fails while the bridge is down.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How long the task may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// Why there is no DHCP server.
#[derive(Debug, Error)]
pub enum DhcpError {
    /// No packet socket.
    #[error("cannot open a packet socket (CAP_NET_RAW is needed)")]
    Socket(#[source] io::Error),
    /// The socket cannot be waited for.
    #[error("cannot wait for the packet socket")]
    Register(#[source] io::Error),
}

/// The bindings as the server and its owner share them. The lock is held for one look-up or change, never while
/// waiting, and a panic elsewhere does not take it away.
#[derive(Clone, Debug)]
pub(crate) struct SharedBindings(Arc<RwLock<Bindings>>);

impl SharedBindings {
    pub(crate) fn new(bindings: Bindings) -> Self {
        Self(Arc::new(RwLock::new(bindings)))
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Bindings) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&Bindings) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The running server.
#[derive(Debug)]
pub(crate) struct DhcpServer {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl DhcpServer {
    /// Starts to answer on the link with this index.
    ///
    /// # Errors
    /// If the packet socket cannot be had.
    pub(crate) fn start(link: u32, facts: ServerFacts, bindings: SharedBindings) -> Result<Self, DhcpError> {
        let socket = PacketSocket::open(link, Heard::Dhcp).map_err(DhcpError::Socket)?;
        let socket = socket.register().map_err(DhcpError::Register)?;
        let silencer = silence_port(facts.address)
            .inspect_err(|error| debug!(%error, "port 67 is not ours; a renewing client may see it refused"))
            .ok();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            // Held as long as the task runs.
            let _silencer = silencer;
            tokio::select! {
                // Cancel-safe: a packet is received and answered without waiting in between.
                () = serve(&socket, &facts, &bindings) => {}
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
        match tokio::time::timeout(STOP_DEADLINE, &mut self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the DHCP server had failed"),
            Err(_elapsed) => {
                warn!("the DHCP server did not stop in time");
                self.task.abort();
            }
        }
    }
}

/// A bound UDP socket that nobody reads. Without one the kernel would answer a renewing client's unicast message
/// with "port unreachable", beside our reply.
fn silence_port(address: Ipv4Addr) -> io::Result<std::os::fd::OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // The least the kernel grants; what does not fit is dropped in silence.
    sockopt::set_socket_recv_buffer_size(&socket, 1)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(address, SERVER_PORT))?;
    Ok(socket)
}

async fn serve(socket: &AsyncFd<PacketSocket>, facts: &ServerFacts, bindings: &SharedBindings) {
    let mut buffer = [0; PACKET_BYTES];
    loop {
        let Ok(mut ready) = socket.readable().await else {
            return;
        };
        match ready.try_io(|socket| socket.get_ref().receive(&mut buffer)) {
            Ok(Ok((length, sender))) => {
                let request = payload_of(&buffer[..length]);
                let reply =
                    request.and_then(|request| bindings.look(|known| respond(facts, known, sender, request)));
                if let Some(reply) = reply
                    && let Err(error) = send(socket.get_ref(), facts, &reply)
                {
                    debug!(%error, %sender, "a DHCP reply was not sent; the client will ask again");
                }
            }
            Ok(Err(error)) => {
                debug!(%error, "the DHCP socket failed");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(_would_block) => {}
        }
        // Whoever sends without a pause keeps no other task from its turn.
        tokio::task::coop::consume_budget().await;
    }
}

fn send(socket: &PacketSocket, facts: &ServerFacts, reply: &Reply) -> io::Result<()> {
    let (mac, address) = match reply.to {
        ReplyTo::Client { mac, address } => (mac.octets(), address),
        ReplyTo::Broadcast => ([0xff; 6], Ipv4Addr::BROADCAST),
    };
    let packet = packet_with(facts.address, address, &reply.message)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
    socket.send(&packet, mac)
}
