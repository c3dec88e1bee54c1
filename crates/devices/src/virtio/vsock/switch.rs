//! All connections of a device: which stream belongs to which pair of ports, which of them have packets for the guest,
//! and how they share the device's buffer memory. Deals with sockets and packets, not with queues.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use vm_model::SYSTEMD_NOTIFY_PORT;

use super::budget::{Budget, CONNECTIONS_MAX};
use super::connection::{BUFFER_BYTES, Connection, Incoming, Reaction};
use super::host::{Call, Caller, HostSockets, send};
use super::packet::{HOST_CID, Header, Operation};
use super::route::Route;

/// The most host programs that have connected and not sent their `CONNECT` line yet; one more closes the oldest.
const CALLERS_MAX: usize = 64;
/// Resets that wait for room in the guest's queue. No more of the guest's packets are taken beyond that.
const RESETS_MAX: usize = 256;
/// Events taken from the host at a time.
const EVENTS: usize = 64;
/// Ports of the host's ends of connections that the host asked for.
const FIRST_LOCAL_PORT: u32 = 1 << 30;
/// Ports of the guest below this one are its privileged programs' alone.
const PRIVILEGED_PORTS: u32 = 1024;
/// In an event's number, the port that no connection has: the rest is a caller's number, or this one again for the
/// listening socket.
const NO_PORT: u32 = u32::MAX;

/// A connection's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ports {
    host: u32,
    guest: u32,
}

impl Ports {
    fn number(self) -> u64 {
        u64::from(self.host) << 32 | u64::from(self.guest)
    }

    /// Where the guest's systemd reports, only it may: programs without privileges have no port below 1024.
    fn may_be_opened_by_guest(self) -> bool {
        self.host != SYSTEMD_NOTIFY_PORT || self.guest < PRIVILEGED_PORTS
    }
}

/// The connections.
pub(super) struct Switch {
    guest_cid: u64,
    host: HostSockets,
    epoll: OwnedFd,
    routes: HashMap<Ports, Route>,
    budget: Budget,
    callers: VecDeque<(u32, Caller)>,
    next_caller: u32,
    next_local_port: u32,
    /// Connections that have a packet for the guest, each once.
    ready: VecDeque<Ports>,
    resets: VecDeque<Ports>,
    piece: Box<[u8]>,
}

impl Switch {
    pub(super) fn new(guest_cid: u64, host: HostSockets) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let number = Ports { host: NO_PORT, guest: NO_PORT }.number();
        epoll::add(&epoll, host.listener(), EventData::new_u64(number), EventFlags::IN)?;
        Ok(Self {
            guest_cid,
            host,
            epoll,
            routes: HashMap::new(),
            budget: Budget::new(),
            callers: VecDeque::new(),
            next_caller: 0,
            next_local_port: FIRST_LOCAL_PORT,
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            piece: vec![0; BUFFER_BYTES as usize].into_boxed_slice(),
        })
    }

    /// Readable when [`Switch::serve_host`] has something to do.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Closes all connections. Host programs may still connect.
    pub(super) fn clear(&mut self) {
        self.routes.clear();
        self.budget = Budget::new();
        self.callers.clear();
        self.ready.clear();
        self.resets.clear();
    }

    /// Whether another packet of the guest can be taken.
    pub(super) fn takes_packets(&self) -> bool {
        self.resets.len() < RESETS_MAX
    }

    /// Whether there is a packet for the guest.
    pub(super) fn has_packets(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// Handles a bounded number of socket events; returns whether there may be more.
    pub(super) fn serve_host(&mut self) -> bool {
        if !self.takes_packets() {
            return false;
        }
        let mut buffer = [MaybeUninit::<Event>::uninit(); EVENTS];
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut buffer, Some(&Timespec::default())) else {
            return false;
        };
        let mut more = events.len() == EVENTS;
        for event in events {
            let number = event.data.u64().to_be_bytes();
            let [h0, h1, h2, h3, g0, g1, g2, g3] = number;
            let ports = Ports {
                host: u32::from_be_bytes([h0, h1, h2, h3]),
                guest: u32::from_be_bytes([g0, g1, g2, g3]),
            };
            match ports {
                Ports { host: NO_PORT, guest: NO_PORT } => more |= self.accept_callers(),
                Ports { host: NO_PORT, guest: caller } => self.hear(caller),
                ports => self.stream_event(ports, event.flags),
            }
        }
        more
    }

    /// Accepts a bounded number of host programs; returns whether there may be more.
    fn accept_callers(&mut self) -> bool {
        for _ in 0..EVENTS {
            let Some(stream) = self.host.accept() else { return false };
            self.add_caller(stream);
        }
        true
    }

    /// Whether the limit of connections is reached. A host program counts from when it connects.
    fn is_full(&self) -> bool {
        self.routes.len() + self.callers.len() >= CONNECTIONS_MAX
    }

    fn add_caller(&mut self, stream: UnixStream) {
        if self.is_full() {
            return;
        }
        if self.callers.len() >= CALLERS_MAX {
            self.callers.pop_front();
        }
        self.next_caller = self.next_caller.checked_add(1).filter(|next| *next != NO_PORT).unwrap_or(0);
        let ports = Ports { host: NO_PORT, guest: self.next_caller };
        let interest = EventFlags::IN | EventFlags::RDHUP;
        if epoll::add(&self.epoll, &stream, EventData::new_u64(ports.number()), interest).is_ok() {
            self.callers.push_back((self.next_caller, Caller::new(stream)));
        }
    }

    fn hear(&mut self, number: u32) {
        let Some(place) = self.callers.iter().position(|(caller, _)| *caller == number) else { return };
        let Some((_, caller)) = self.callers.remove(place) else { return };
        match caller.listen() {
            Call::Waiting(caller) => self.callers.push_back((number, caller)),
            Call::Nonsense => {}
            Call::For(port, stream) => {
                let host = self.free_local_port(port);
                // Watched again, under its ports.
                let _ = epoll::delete(&self.epoll, &stream);
                self.add(Ports { host, guest: port }, Connection::requested(), stream);
            }
        }
    }

    fn free_local_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_local_port;
            let next = host.wrapping_add(1);
            self.next_local_port = if next == NO_PORT { FIRST_LOCAL_PORT } else { next };
            // There are far fewer connections than ports.
            if !self.routes.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    /// Adds a connection; returns whether it could be watched.
    fn add(&mut self, ports: Ports, connection: Connection, stream: UnixStream) -> bool {
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if epoll::add(&self.epoll, &stream, EventData::new_u64(ports.number()), interest).is_err() {
            return false;
        }
        self.routes.insert(ports, Route::new(connection, stream));
        self.reconsider(ports);
        true
    }

    fn stream_event(&mut self, ports: Ports, flags: EventFlags) {
        let Some(route) = self.routes.get_mut(&ports) else { return };
        route.hung_up |= flags.intersects(EventFlags::HUP | EventFlags::ERR);
        route.readable |= route.hung_up || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        if route.hung_up && !(route.connection.is_established() && route.connection.wants_host_data()) {
            // Nobody waits for what may be left to read.
            return self.reset(ports);
        }
        if flags.contains(EventFlags::OUT) && route.flush().is_err() {
            return self.reset(ports);
        }
        self.reconsider(ports);
    }

    /// Takes a packet of the guest. `data` copies its bytes from `offset` on, and fails where they are missing.
    pub(super) fn receive(&mut self, header: &Header, data: impl FnOnce(&mut [u8]) -> bool) {
        let ports = Ports { host: header.destination_port, guest: header.source_port };
        if header.source_cid != self.guest_cid {
            return;
        }
        if header.destination_cid != HOST_CID || ports.host == NO_PORT || ports.guest == NO_PORT {
            return self.refuse(header, ports);
        }
        let incoming = Incoming {
            operation: header.operation,
            flags: header.flags,
            length: header.length,
            buffer: header.buffer,
            forwarded: header.forwarded,
        };
        let Some(route) = self.routes.get_mut(&ports) else {
            return match header.operation {
                Operation::Request => self.guest_connects(ports, &incoming),
                _ => self.refuse(header, ports),
            };
        };
        match route.connection.receive(&incoming) {
            Reaction::Noted | Reaction::Shut => {}
            Reaction::Opened => {
                let line = format!("OK {}\n", ports.host);
                // A socket that is new takes so little at once.
                if send(&route.stream, line.as_bytes()).ok() != Some(line.len()) {
                    return self.reset(ports);
                }
            }
            Reaction::Data => {
                let length = usize::try_from(header.length).unwrap_or(usize::MAX);
                // A connection takes no more than the piece is long.
                let Some(piece) = self.piece.get_mut(..length) else { return self.reset(ports) };
                if !data(&mut *piece) || route.take(piece).is_err() {
                    return self.reset(ports);
                }
            }
            Reaction::Gone => {
                self.remove(ports);
                return;
            }
            Reaction::Broken => return self.reset(ports),
        }
        if let Some(route) = self.routes.get_mut(&ports)
            && route.pass_on_end().is_err()
        {
            return self.reset(ports);
        }
        self.reconsider(ports);
    }

    fn guest_connects(&mut self, ports: Ports, request: &Incoming) {
        let is_refused = self.is_full() || !ports.may_be_opened_by_guest();
        let connected = if is_refused { None } else { self.host.connect(ports.host).ok() };
        let added = connected.is_some_and(|stream| self.add(ports, Connection::accepted(request), stream));
        if !added {
            self.resets.push_back(ports);
        }
    }

    /// Answers a packet that belongs to no connection with a reset.
    fn refuse(&mut self, header: &Header, ports: Ports) {
        if header.operation != Operation::Reset && header.destination_cid == HOST_CID {
            self.resets.push_back(ports);
        }
    }

    /// Ends a connection and sends the guest a reset.
    fn reset(&mut self, ports: Ports) {
        if self.remove(ports) {
            self.resets.push_back(ports);
        }
    }

    /// Removes a connection; returns whether there was one. Its place among those that are ready goes with it: a guest that
    /// connects and hangs up for ever, and takes no packet, makes nothing grow.
    fn remove(&mut self, ports: Ports) -> bool {
        let Some(mut route) = self.routes.remove(&ports) else { return false };
        self.budget.recount(&mut route.share, 0);
        if route.waiting {
            self.ready.retain(|waiting| *waiting != ports);
        }
        true
    }

    /// Ends a connection that is over, queues one that has something for the guest, and counts what it keeps.
    fn reconsider(&mut self, ports: Ports) {
        let Some(route) = self.routes.get_mut(&ports) else { return };
        let bytes = route.bytes();
        self.budget.recount(&mut route.share, bytes);
        if route.connection.is_over() {
            return self.reset(ports);
        }
        if route.has_to_read() && route.connection.room() == 0 {
            route.connection.ask_for_room();
        }
        let something = route.connection.has_notice() || (route.has_to_read() && route.connection.room() > 0);
        if something && !std::mem::replace(&mut route.waiting, true) {
            self.ready.push_back(ports);
        }
    }

    /// The next packet for the guest, whose data may have `room` bytes.
    pub(super) fn next_packet(&mut self, room: usize) -> Option<(Header, &[u8])> {
        if let Some(ports) = self.resets.pop_front() {
            let header = self.header(ports, Operation::Reset, 0, (0, 0));
            return Some((header, &[]));
        }
        while let Some(ports) = self.ready.pop_front() {
            let Some(route) = self.routes.get_mut(&ports) else { continue };
            route.waiting = false;
            let produced = route.produce(&mut self.piece, room);
            let Ok(produced) = produced else {
                self.remove(ports);
                let header = self.header(ports, Operation::Reset, 0, (0, 0));
                return Some((header, &[]));
            };
            let window = self.budget.window(&route.share);
            let announced = produced.map(|packet| (packet, route.connection.announce(window)));
            self.reconsider(ports);
            if let Some((packet, announced)) = announced {
                let mut header = self.header(ports, packet.operation, packet.length, announced);
                header.flags = packet.flags;
                let data = self.piece.get(..packet.length as usize).unwrap_or(&[]);
                return Some((header, data));
            }
        }
        None
    }

    fn header(&self, ports: Ports, operation: Operation, length: u32, announced: (u32, u32)) -> Header {
        Header {
            source_cid: HOST_CID,
            destination_cid: self.guest_cid,
            source_port: ports.host,
            destination_port: ports.guest,
            length,
            operation,
            flags: 0,
            buffer: announced.0,
            forwarded: announced.1,
        }
    }
}

#[cfg(test)]
impl Switch {
    /// Bytes of memory that hold data for slow host programs.
    pub(super) fn kept_bytes(&self) -> usize {
        self.routes.values().map(Route::capacity).sum()
    }

    /// How many connections wait to send to the guest.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }
}
