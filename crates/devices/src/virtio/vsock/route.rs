//! One connection and its stream: passes bytes between the two, and buffers them while the host program is slow.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::budget::Share;
use super::connection::{Connection, Receiving};
use super::host::{Received, receive, send};
use super::packet::Operation;

/// A connection and its stream.
pub(super) struct Route {
    pub(super) connection: Connection,
    pub(super) stream: UnixStream,
    /// What it has of the device's budget.
    pub(super) share: Share,
    /// From the guest, not yet taken by the host; at most what was promised.
    kept: VecDeque<u8>,
    /// Whether the stream may have something to read, as far as was seen.
    pub(super) readable: bool,
    /// Whether the host closed both directions; something may still wait to be read.
    pub(super) hung_up: bool,
    /// Whether the host was told that the guest will send no more.
    end_passed_on: bool,
    /// Whether it is queued to send to the guest.
    pub(super) waiting: bool,
}

/// A packet for the guest, its data in the piece that it was read into.
#[derive(Clone, Copy)]
pub(super) struct Produced {
    pub(super) operation: Operation,
    pub(super) flags: u32,
    pub(super) length: u32,
}

impl Route {
    pub(super) fn new(connection: Connection, stream: UnixStream) -> Self {
        Self {
            connection,
            stream,
            share: Share::default(),
            kept: VecDeque::new(),
            readable: true,
            hung_up: false,
            end_passed_on: false,
            waiting: false,
        }
    }

    pub(super) fn has_to_read(&self) -> bool {
        self.readable && self.connection.wants_host_data()
    }

    /// What counts against the budget: memory that is used, and memory that the guest may still fill.
    pub(super) fn bytes(&self) -> u32 {
        let used = u32::try_from(self.capacity()).unwrap_or(u32::MAX);
        self.connection.promised().max(used)
    }

    /// Memory of what is kept.
    pub(super) fn capacity(&self) -> usize {
        self.kept.capacity()
    }

    /// Buffers `data` from the guest and writes to the host what it takes now.
    pub(super) fn take(&mut self, data: &[u8]) -> io::Result<()> {
        let mut rest = data;
        if self.kept.is_empty() {
            let sent = send(&self.stream, data)?;
            self.forwarded(sent);
            rest = &data[sent..];
        }
        // No more bytes than were promised.
        self.kept.reserve_exact(rest.len());
        self.kept.extend(rest);
        Ok(())
    }

    /// Writes buffered bytes to the host.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.kept.is_empty() {
            let (front, _) = self.kept.as_slices();
            let sent = send(&self.stream, front)?;
            if sent == 0 {
                return Ok(());
            }
            self.kept.drain(..sent);
            self.forwarded(sent);
        }
        // Others may need the memory, and most hosts are never slow again.
        self.kept = VecDeque::new();
        self.pass_on_end()
    }

    fn forwarded(&mut self, bytes: usize) {
        self.connection.forward(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Tells the host that the guest will send no more, once it has everything. Once: each shutdown of a socket wakes
    /// whoever watches it, this device too.
    pub(super) fn pass_on_end(&mut self) -> io::Result<()> {
        if self.connection.guest_ended() && !std::mem::replace(&mut self.end_passed_on, true) {
            match self.stream.shutdown(Shutdown::Write) {
                Err(error) if error.kind() != io::ErrorKind::NotConnected => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The next packet for the guest: a notice, or what can be read for it.
    pub(super) fn produce(&mut self, piece: &mut [u8], room: usize) -> io::Result<Option<Produced>> {
        loop {
            // The host's last bytes come before the shutdown.
            if let Some(notice) = self.connection.next_notice() {
                return Ok(Some(Produced { operation: notice.operation, flags: notice.flags, length: 0 }));
            }
            let credit = usize::try_from(self.connection.room()).unwrap_or(usize::MAX);
            let most = room.min(credit).min(piece.len());
            if !self.has_to_read() || most == 0 {
                return Ok(None);
            }
            match receive(&self.stream, &mut piece[..most])? {
                Received::Nothing => {
                    self.readable = false;
                    return Ok(None);
                }
                Received::End if self.hung_up => self.connection.host_ended(Receiving::Ended),
                Received::End => self.connection.host_ended(Receiving::GoesOn),
                Received::Bytes(count) => {
                    let length = u32::try_from(count).unwrap_or(u32::MAX);
                    self.connection.send(length);
                    return Ok(Some(Produced { operation: Operation::Data, flags: 0, length }));
                }
            }
        }
    }
}
