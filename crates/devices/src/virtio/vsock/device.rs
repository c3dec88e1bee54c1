//! The socket device itself: packets between its queues and the [`Switch`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use thiserror::Error;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::host::HostSockets;
use super::packet::{HEADER_BYTES, Header};
use super::switch::Switch;
use crate::virtio::configuration::read_configuration;
use crate::virtio::queue::{Queue, QueueFault};
use crate::virtio::{ActivateError, Activation, DeviceEvent, VirtioDevice, VirtioDeviceType};
use crate::wake::WakeEvent;

/// Numbers of queues (virtio 1.2 §5.10.2). The third, for events, only ever tells of a move to another host.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const QUEUE_SIZE: u16 = 128;

/// Tokens.
const GO_ON: u16 = 0;
const HOST: u16 = 1;

/// Packets of each direction after which a turn ends.
const TURN_PACKETS: u32 = 128;
/// Addresses below are reserved (§5.10.4).
const FIRST_GUEST_CID: u32 = 3;

/// What a socket device is made of.
#[derive(Debug)]
pub struct VsockDeviceConfig {
    /// The guest's address, from 3 on.
    pub cid: u32,
    /// The directory of the host's sockets.
    pub directory: OwnedFd,
}

/// Why there is no socket device.
#[derive(Debug, Error)]
pub enum VsockError {
    /// The address is reserved.
    #[error("{cid} cannot be a guest's socket address: {FIRST_GUEST_CID} to 4294967294 is accepted")]
    Cid {
        /// The address that was requested.
        cid: u32,
    },
    /// The host's socket cannot be had.
    #[error("the socket for host programs could not be made in the machine's directory of sockets")]
    Listen(#[source] io::Error),
    /// The process or the host has no file descriptor left.
    #[error("a descriptor could not be created")]
    Descriptor(#[source] io::Error),
}

/// A socket device.
pub struct VsockDevice {
    cid: u32,
    switch: Switch,
    state: State,
    go_on: WakeEvent,
}

enum State {
    Reset,
    Active(Box<Queues>),
    /// The queues are ignored until reset (virtio 1.2 §2.1.2).
    Broken,
}

struct Queues {
    receive: Queue,
    transmit: Queue,
    /// Nothing is ever sent by it; kept for the buffers that the driver put there.
    _event: Option<Queue>,
}

impl VsockDevice {
    /// A device in reset. Host programs can connect to its socket already, but reach no guest.
    ///
    /// # Errors
    /// See [`VsockError`].
    pub fn new(config: VsockDeviceConfig) -> Result<Self, VsockError> {
        let VsockDeviceConfig { cid, directory } = config;
        if !(FIRST_GUEST_CID..u32::MAX).contains(&cid) {
            return Err(VsockError::Cid { cid });
        }
        let host = HostSockets::listen(directory).map_err(VsockError::Listen)?;
        Ok(Self {
            cid,
            switch: Switch::new(cid.into(), host).map_err(VsockError::Descriptor)?,
            state: State::Reset,
            go_on: WakeEvent::new().map_err(VsockError::Descriptor)?,
        })
    }

    /// Serves both queues and all sockets for one turn, whatever happened: a packet from the guest may leave a stream
    /// readable, and a stream's bytes need buffers of the guest.
    fn turn(&mut self) {
        let was_full = !self.switch.takes_packets();
        let host_has_more = self.switch.serve_host();
        let State::Active(queues) = &mut self.state else {
            // There is no driver.
            return self.switch.clear();
        };
        let served = queues.take_packets(&mut self.switch).and_then(|guest_has_more| {
            let more_to_give = queues.give_packets(&mut self.switch)?;
            Ok(guest_has_more || more_to_give)
        });
        match served {
            // What was left alone for want of room is looked at once there is some.
            Ok(more) if more || host_has_more || (was_full && self.switch.takes_packets()) => {
                self.go_on.ring()
            }
            Ok(_) => {}
            Err(fault) => {
                tracing::debug!(error = %fault, "a socket device's queue is broken");
                self.switch.clear();
                self.state = State::Broken;
            }
        }
    }
}

impl Queues {
    /// Takes the guest's packets, as long as their answers have room: whether there are more than fit one turn.
    fn take_packets(&mut self, switch: &mut Switch) -> Result<bool, QueueFault> {
        let mut packets = 0;
        let more = loop {
            self.transmit.suppress_doorbells();
            while packets < TURN_PACKETS
                && switch.takes_packets()
                && let Some(chain) = self.transmit.pop()?
            {
                let mut bytes = [0; HEADER_BYTES];
                let memory = self.transmit.memory();
                // What is too short for a header is no packet.
                if chain.read_at(memory, 0, &mut bytes).is_ok() {
                    let header = Header::parse(&bytes);
                    switch.receive(&header, |data| chain.read_at(memory, HEADER_BYTES as u64, data).is_ok());
                }
                self.transmit.complete(chain.head(), 0)?;
                packets += 1;
            }
            if packets >= TURN_PACKETS {
                break true;
            }
            // Packets of a guest that takes no answers wait until it does: buffers for them come with a doorbell.
            if !self.transmit.enable_doorbells()? || !switch.takes_packets() {
                break false;
            }
        };
        self.transmit.notify()?;
        Ok(more)
    }

    /// Fills the guest's buffers: whether there are more packets than fit one turn.
    fn give_packets(&mut self, switch: &mut Switch) -> Result<bool, QueueFault> {
        let mut packets = 0;
        let more = loop {
            self.receive.suppress_doorbells();
            let mut starved = false;
            while packets < TURN_PACKETS && switch.has_packets() {
                let Some(chain) = self.receive.pop()? else {
                    starved = true;
                    break;
                };
                let room = usize::try_from(chain.writable_len()).unwrap_or(usize::MAX);
                let Some(room) = room.checked_sub(HEADER_BYTES).filter(|room| *room > 0) else {
                    // Too small for any byte of data.
                    self.receive.complete(chain.head(), 0)?;
                    packets += 1;
                    continue;
                };
                let Some((header, data)) = switch.next_packet(room) else {
                    self.receive.rewind(1);
                    break;
                };
                let memory = self.receive.memory();
                // The chain was checked when it was taken, and its room is kept to.
                let written = chain.write_at(memory, 0, &header.to_bytes()).is_ok()
                    && chain.write_at(memory, HEADER_BYTES as u64, data).is_ok();
                let length = if written { HEADER_BYTES + data.len() } else { 0 };
                self.receive.complete(chain.head(), u32::try_from(length).unwrap_or(u32::MAX))?;
                packets += 1;
            }
            if packets >= TURN_PACKETS {
                break true;
            }
            // With nothing to send, new buffers change nothing.
            if !starved || !self.receive.enable_doorbells()? {
                break false;
            }
        };
        self.receive.notify()?;
        Ok(more)
    }
}

impl VirtioDevice for VsockDevice {
    fn device_type(&self) -> VirtioDeviceType {
        VirtioDeviceType::Socket
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 3]
    }

    fn offered_features(&self) -> u64 {
        1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_configuration(&u64::from(self.cid).to_le_bytes(), offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut queues = activation.queues.into_iter();
        let mut next = || queues.next().flatten();
        let receive = next().ok_or(ActivateError::QueueDisabled { index: RECEIVE })?;
        let transmit = next().ok_or(ActivateError::QueueDisabled { index: TRANSMIT })?;
        self.state = State::Active(Box::new(Queues { receive, transmit, _event: next() }));
        Ok(())
    }

    fn events(&self) -> Vec<DeviceEvent<'_>> {
        vec![
            DeviceEvent { fd: self.go_on.as_fd(), token: GO_ON },
            DeviceEvent { fd: self.switch.wake_fd(), token: HOST },
        ]
    }

    fn doorbell(&mut self, _index: u16) {
        self.turn();
    }

    fn event(&mut self, _token: u16) {
        self.turn();
    }

    /// Nothing is ever in flight between calls.
    fn drain(&mut self, _deadline: Instant) -> bool {
        true
    }

    /// Closes all connections, so that no stream of an earlier driver reaches a later one.
    fn reset(&mut self) {
        self.switch.clear();
        self.state = State::Reset;
    }

    fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }
}

#[cfg(test)]
mod tests;
