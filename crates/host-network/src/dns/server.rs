//! The tasks that hear questions on the bridge's addresses and answer them, by datagrams and by TCP. They end when their owner
//! says so or goes away.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::select_all;
use rustix::net::sockopt;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, warn};
use vm_model::Transport;

use super::budget::{Budget, Place};
use super::message::{Unanswerable, failure, parse};
use super::upstream::{PORT, Servers, ask_by_datagram, ask_by_stream, write_message};
use super::{NameServerError, Zone};
use crate::DnsServers;
use crate::dhcp::SharedBindings;

/// The longest question that is read.
const QUESTION_BYTES: usize = 1232;
/// What the socket holds of questions that were not read yet.
const RECEIVE_BYTES: usize = 4 << 20;
/// Questions that wait for others' answers: in all, and of one guest.
const OUTSTANDING: (usize, usize) = (512, 32);
/// Connections: in all, and of one guest.
const CONNECTIONS: (usize, usize) = (128, 8);
/// Questions on one connection, and how long it may be silent.
const QUESTIONS_A_CONNECTION: usize = 64;
const SILENCE: Duration = Duration::from_secs(5);
/// How long to leave a failing socket alone.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How long the task may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// The running server.
#[derive(Debug)]
pub(crate) struct NameServer {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

/// What every answer is made from.
#[derive(Debug)]
struct Answers {
    zone: Zone,
    bindings: SharedBindings,
    /// Held while a small file is read.
    servers: Mutex<Servers>,
    outstanding: Budget,
    connections: Budget,
}

/// Where an answer comes from.
enum Source {
    /// It is known here.
    Known(Vec<u8>),
    /// Others are to be asked. The place is held until they have answered.
    Others(Vec<IpAddr>, Place),
    /// Whoever asked hears nothing.
    Nobody,
}

impl NameServer {
    /// Starts to answer on the addresses of `zone`, which the host has.
    ///
    /// # Errors
    /// If its port cannot be had.
    pub(crate) async fn start(
        zone: Zone,
        bindings: SharedBindings,
        servers: &DnsServers,
    ) -> Result<Self, NameServerError> {
        let ipv6 = zone.ipv6.map(|subnet| IpAddr::V6(subnet.gateway()));
        let mut sockets = Vec::new();
        for address in [IpAddr::V4(zone.gateway)].into_iter().chain(ipv6) {
            sockets.push(listen(address).await?);
        }
        let servers = match servers {
            DnsServers::Host => Servers::Host { own: zone.gateway, known: Vec::new(), read_at: None },
            DnsServers::List(servers) => Servers::Fixed(
                servers.iter().copied().map(IpAddr::V4).filter(|server| *server != zone.gateway).collect(),
            ),
        };
        let answers = Arc::new(Answers {
            zone,
            bindings,
            servers: Mutex::new(servers),
            outstanding: Budget::new(OUTSTANDING.0, OUTSTANDING.1),
            connections: Budget::new(CONNECTIONS.0, CONNECTIONS.1),
        });
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let serving = sockets.into_iter().map(|(datagrams, listener)| {
                let answers = Arc::clone(&answers);
                Box::pin(async move {
                    tokio::select! {
                        // Cancelled only when nothing is to be answered any more; what they began ends with them.
                        () = serve_datagrams(Arc::new(datagrams), Arc::clone(&answers)) => {}
                        () = serve_streams(&listener, Arc::clone(&answers)) => {}
                    }
                })
            });
            tokio::select! {
                // As above.
                _ = select_all(serving) => {}
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
            Ok(Err(error)) => warn!(%error, "the name server had failed"),
            Err(_elapsed) => {
                warn!("the name server did not stop in time");
                self.task.abort();
            }
        }
    }
}

/// The sockets on one of our addresses.
async fn listen(address: IpAddr) -> Result<(UdpSocket, TcpListener), NameServerError> {
    let refused = |transport| move |cause| NameServerError::Listen { transport, cause };
    let datagrams = UdpSocket::bind((address, PORT)).await.map_err(refused(Transport::Udp))?;
    // Room for what all ports may send at once. It is more than the kernel gives to everybody; without it neighbours of a
    // flooding guest would have to ask twice.
    if let Err(error) = sockopt::set_socket_recv_buffer_size_force(&datagrams, RECEIVE_BYTES) {
        debug!(%error, "the name server's socket has the usual room only");
    }
    let listener = TcpListener::bind((address, PORT)).await.map_err(refused(Transport::Tcp))?;
    Ok((datagrams, listener))
}

impl Answers {
    /// The guest that asks from `address`, or this host, by its IPv4 address; nobody else is answered.
    fn asker(&self, address: IpAddr) -> Option<Ipv4Addr> {
        self.bindings.look(|bindings| self.zone.asker(address, bindings))
    }

    /// Where the answer to `message` of `asker` comes from.
    fn source(&self, message: &[u8], asker: Ipv4Addr) -> Source {
        let query = match parse(message) {
            Ok(query) => query,
            Err(Unanswerable::Refused(reply)) => return Source::Known(reply),
            Err(Unanswerable::Nonsense) => return Source::Nobody,
        };
        if let Some(reply) = self.bindings.look(|bindings| self.zone.answer(&query, asker, bindings)) {
            return Source::Known(reply);
        }
        match self.outstanding.take(asker) {
            Some(place) => {
                Source::Others(self.servers.lock().unwrap_or_else(PoisonError::into_inner).now(), place)
            }
            None => Source::Known(failure(&query)),
        }
    }
}

async fn serve_datagrams(socket: Arc<UdpSocket>, answers: Arc<Answers>) {
    let mut asked = JoinSet::new();
    let mut buffer = [0; QUESTION_BYTES];
    loop {
        while asked.try_join_next().is_some() {}
        match socket.recv_from(&mut buffer).await {
            Ok((length, asker)) => {
                let message = buffer.get(..length).unwrap_or_default();
                let guest = answers.asker(asker.ip());
                match guest.map_or(Source::Nobody, |guest| answers.source(message, guest)) {
                    Source::Known(reply) => send(&socket, &reply, asker).await,
                    // As many as the budget has places.
                    Source::Others(servers, place) => {
                        let (message, socket) = (message.to_vec(), Arc::clone(&socket));
                        asked.spawn(async move { pass_on(&message, &servers, &socket, asker, place).await });
                    }
                    Source::Nobody => {}
                }
            }
            Err(error) => {
                debug!(%error, "the name server's socket failed");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
        // Whoever asks without a pause keeps no other task from its turn.
        tokio::task::coop::consume_budget().await;
    }
}

async fn pass_on(message: &[u8], servers: &[IpAddr], socket: &UdpSocket, asker: SocketAddr, _place: Place) {
    if let Ok(query) = parse(message) {
        let answer = ask_by_datagram(message, &query, servers).await;
        send(socket, &answer.unwrap_or_else(|| failure(&query)), asker).await;
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], asker: SocketAddr) {
    if let Err(error) = socket.send_to(reply, asker).await {
        debug!(%error, %asker, "an answer was not sent; whoever asked will ask again");
    }
}

async fn serve_streams(listener: &TcpListener, answers: Arc<Answers>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, asker)) => {
                let Some(address) = answers.asker(asker.ip()) else { continue };
                // Without a place it is closed at once.
                if let Some(place) = answers.connections.take(address) {
                    let answers = Arc::clone(&answers);
                    connections.spawn(async move {
                        let _place = place;
                        if let Err(error) = converse(stream, address, &answers).await {
                            debug!(%error, %asker, "a connection to the name server ended");
                        }
                    });
                }
            }
            Err(error) => {
                debug!(%error, "a connection to the name server was not taken");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Answers the questions on one connection, one after the other.
async fn converse(mut stream: TcpStream, asker: Ipv4Addr, answers: &Answers) -> io::Result<()> {
    for _ in 0..QUESTIONS_A_CONNECTION {
        let Some(message) = timeout(SILENCE, read_message(&mut stream)).await?? else {
            return Ok(());
        };
        let reply = match answers.source(&message, asker) {
            Source::Known(reply) => reply,
            Source::Others(servers, _place) => match parse(&message) {
                Ok(query) => {
                    let answer = ask_by_stream(&message, &query, &servers).await;
                    answer.unwrap_or_else(|| failure(&query))
                }
                Err(_) => return Ok(()),
            },
            Source::Nobody => return Ok(()),
        };
        timeout(SILENCE, write_message(&mut stream, &reply)).await??;
    }
    Ok(())
}

/// The next message; `None` where there is none, or one that is too long.
async fn read_message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > QUESTION_BYTES {
        return Ok(None);
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}
