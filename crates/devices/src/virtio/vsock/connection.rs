//! One connection's state between guest and host: phase, credit in both directions, half-closes. Pure: packets and
//! counts in, packets and counts out; sockets are elsewhere.
//!
//! ```text
//!           host connects: Requested ──response──→ Established ──both directions ended, reset──→ gone
//!           guest's request, host listens ─────────────↑
//! ```
//!
//! Credit (virtio 1.2 §5.10.6.3): each side says how much it can keep and how much it has passed on, so that the other
//! never sends what would not fit. A guest that sends more is cut off.
//!
//! How much the host keeps may change from one packet to the next. What the guest was once allowed to send it may send:
//! a smaller buffer means that passing bytes on allows no new ones, until less than that is promised.

use super::packet::{NO_MORE_RECEIVED, NO_MORE_SENT, Operation};

/// The most bytes from the guest that are buffered for the host.
pub(super) const BUFFER_BYTES: u32 = 64 << 10;
/// The guest gets a credit update as soon as the credit it does not know of is this part of the buffer.
const UPDATE_PART: u32 = 4;

/// The part of a guest's packet that concerns a connection's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Incoming {
    pub(super) operation: Operation,
    pub(super) flags: u32,
    pub(super) length: u32,
    pub(super) buffer: u32,
    pub(super) forwarded: u32,
}

/// What a guest's packet means for its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Reaction {
    /// The state changed; nothing else is to be done.
    Noted,
    /// The guest accepted what the host asked for.
    Opened,
    /// The packet's data is for the host.
    Data,
    /// The guest closed a direction.
    Shut,
    /// The guest reset the connection.
    Gone,
    /// The guest broke a rule: it gets a reset, and the connection is gone.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Requested,
    Established,
}

/// Whether a host that sends no more still receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    GoesOn,
    Ended,
}

/// A packet without data that the guest is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) operation: Operation,
    pub(super) flags: u32,
}

/// Notices that are due; each at most once, however often it is caused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Due {
    request: bool,
    response: bool,
    shutdown: bool,
    credit_update: bool,
    credit_request: bool,
}

/// Byte counts, all modulo 2³².
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Credit {
    /// From the guest: received, passed on, and passed on as far as the guest knows, with the buffer that it was
    /// told of along with that.
    received: u32,
    forwarded: u32,
    announced: u32,
    buffer: u32,
    /// To the guest: sent, and what it says of its side.
    sent: u32,
    guest_buffer: u32,
    guest_forwarded: u32,
}

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    phase: Phase,
    due: Due,
    credit: Credit,
    guest_sends: bool,
    guest_receives: bool,
    host_sends: bool,
    host_receives: bool,
    /// Whether a credit request was sent since the guest last reported its credit.
    asked_for_room: bool,
}

impl Connection {
    /// A connection that the host asks for.
    pub(super) fn requested() -> Self {
        Self::new(Phase::Requested, Due { request: true, ..Due::default() })
    }

    /// A connection that the guest asked for by `request` and that the host accepted.
    pub(super) fn accepted(request: &Incoming) -> Self {
        let mut connection = Self::new(Phase::Established, Due { response: true, ..Due::default() });
        connection.learn(request);
        connection
    }

    fn new(phase: Phase, due: Due) -> Self {
        Self {
            phase,
            due,
            credit: Credit::default(),
            guest_sends: true,
            guest_receives: true,
            host_sends: true,
            host_receives: true,
            asked_for_room: false,
        }
    }

    fn learn(&mut self, packet: &Incoming) {
        self.credit.guest_buffer = packet.buffer;
        self.credit.guest_forwarded = packet.forwarded;
        // A guest without room says so as often as it is asked.
        self.asked_for_room &= self.room() == 0;
    }

    /// Takes a packet from the guest. Of [`Reaction::Data`] the bytes count as received from now on.
    pub(super) fn receive(&mut self, packet: &Incoming) -> Reaction {
        self.learn(packet);
        match (self.phase, packet.operation) {
            (_, Operation::Reset) => Reaction::Gone,
            (Phase::Requested, Operation::Response) => {
                self.phase = Phase::Established;
                Reaction::Opened
            }
            (Phase::Established, Operation::Data) => self.receive_data(packet.length),
            (Phase::Established, Operation::Shutdown) => {
                // What was closed stays closed, whatever later packets say (§5.10.6.5).
                self.guest_receives &= packet.flags & NO_MORE_RECEIVED == 0;
                self.guest_sends &= packet.flags & NO_MORE_SENT == 0;
                Reaction::Shut
            }
            (Phase::Established, Operation::CreditUpdate) => Reaction::Noted,
            (Phase::Established, Operation::CreditRequest) => {
                self.due.credit_update = true;
                Reaction::Noted
            }
            (
                Phase::Requested,
                Operation::Request
                | Operation::Shutdown
                | Operation::Data
                | Operation::CreditUpdate
                | Operation::CreditRequest
                | Operation::Unknown,
            )
            | (Phase::Established, Operation::Request | Operation::Response | Operation::Unknown) => {
                Reaction::Broken
            }
        }
    }

    fn receive_data(&mut self, length: u32) -> Reaction {
        let fits = self.unforwarded().checked_add(length).is_some_and(|kept| kept <= self.promised());
        if !self.guest_sends || !fits {
            return Reaction::Broken;
        }
        self.credit.received = self.credit.received.wrapping_add(length);
        Reaction::Data
    }

    /// Bytes from the guest that the host has not got yet.
    pub(super) fn unforwarded(&self) -> u32 {
        self.credit.received.wrapping_sub(self.credit.forwarded)
    }

    /// Bytes that are kept or that the guest may send, as far as it knows. Only [`Connection::announce`] makes it more.
    pub(super) fn promised(&self) -> u32 {
        if !self.guest_sends {
            return self.unforwarded();
        }
        let unannounced = self.credit.forwarded.wrapping_sub(self.credit.announced);
        // Nothing is received beyond the buffer, so no more can have been passed on.
        self.credit.buffer.saturating_sub(unannounced)
    }

    /// `bytes` more were passed on to the host; not more than were received.
    pub(super) fn forward(&mut self, bytes: u32) {
        self.credit.forwarded = self.credit.forwarded.wrapping_add(bytes.min(self.unforwarded()));
        let unannounced = self.credit.forwarded.wrapping_sub(self.credit.announced);
        self.due.credit_update |= self.guest_sends && unannounced >= self.credit.buffer / UPDATE_PART;
    }

    /// How many bytes the guest has credit for; none before it accepted or after either side closed this direction.
    pub(super) fn room(&self) -> u32 {
        if self.phase != Phase::Established || !self.guest_receives || !self.host_sends {
            return 0;
        }
        let under_way = self.credit.sent.wrapping_sub(self.credit.guest_forwarded);
        // A guest that says it passed on more than it got, or shrank its buffer, has no room.
        self.credit.guest_buffer.saturating_sub(under_way)
    }

    /// Whether the guest accepted the connection.
    pub(super) fn is_established(&self) -> bool {
        self.phase == Phase::Established
    }

    /// Whether the guest takes bytes from the host, now or later.
    pub(super) fn wants_host_data(&self) -> bool {
        self.guest_receives && self.host_sends
    }

    /// The host has more bytes than [`Connection::room`]: a credit request becomes due, once.
    pub(super) fn ask_for_room(&mut self) {
        if self.phase == Phase::Established && self.wants_host_data() && !self.asked_for_room {
            self.asked_for_room = true;
            self.due.credit_request = true;
        }
    }

    /// `bytes` were sent to the guest; at most [`Connection::room`].
    pub(super) fn send(&mut self, bytes: u32) {
        self.credit.sent = self.credit.sent.wrapping_add(bytes);
    }

    /// The host will send no more, and receive no more if `receiving` says so.
    pub(super) fn host_ended(&mut self, receiving: Receiving) {
        self.due.shutdown |= self.host_sends;
        self.host_sends = false;
        self.host_receives &= receiving == Receiving::GoesOn;
    }

    /// Whether the guest will send no more and the host got all of it, so that the host can be told.
    pub(super) fn guest_ended(&self) -> bool {
        !self.guest_sends && self.unforwarded() == 0
    }

    /// Whether nothing can be exchanged any more: the guest gets a reset (§5.10.6.5).
    pub(super) fn is_over(&self) -> bool {
        let to_guest_ended = !self.guest_receives || (!self.host_sends && !self.due.shutdown);
        self.phase == Phase::Established && self.guest_ended() && to_guest_ended
    }

    /// Whether [`Connection::next_notice`] has something.
    pub(super) fn has_notice(&self) -> bool {
        self.due != Due::default()
    }

    /// The next notice for the guest, in the order that a connection's life has; it counts as sent.
    pub(super) fn next_notice(&mut self) -> Option<Notice> {
        let due = &mut self.due;
        let (mark, operation, flags) = if due.request {
            (&mut due.request, Operation::Request, 0)
        } else if due.response {
            (&mut due.response, Operation::Response, 0)
        } else if self.phase == Phase::Requested {
            return None;
        } else if due.credit_update {
            (&mut due.credit_update, Operation::CreditUpdate, 0)
        } else if due.credit_request {
            (&mut due.credit_request, Operation::CreditRequest, 0)
        } else if due.shutdown {
            let received = if self.host_receives { 0 } else { NO_MORE_RECEIVED };
            (&mut due.shutdown, Operation::Shutdown, NO_MORE_SENT | received)
        } else {
            return None;
        };
        *mark = false;
        Some(Notice { operation, flags })
    }

    /// What a packet to the guest says of the host's side, which the guest knows from then on: that `window` bytes can
    /// be kept, or as many as are promised if that is more, and how many were passed on.
    pub(super) fn announce(&mut self, window: u32) -> (u32, u32) {
        self.credit.buffer = window.max(self.promised());
        self.credit.announced = self.credit.forwarded;
        self.due.credit_update = false;
        (self.credit.buffer, self.credit.forwarded)
    }
}

#[cfg(test)]
mod tests;
