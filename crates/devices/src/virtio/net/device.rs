//! The network card as its transport sees it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{Timespec, epoll};
use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::counters::NetCounters;
use super::gate::Gate;
use super::offloads::{OffloadOffers, Offloads};
use super::port::FramePort;
use super::receive::{Buffers, Receiver};
use super::transmit::Transmitter;
use super::{Turn, Way};
use crate::virtio::configuration::read_configuration;
use crate::virtio::queue::{Queue, QueueFault};
use crate::virtio::{
    ActivateError, Activation, DeviceEvent, QueueSize, RateLimits, VirtioDevice, VirtioDeviceType,
};
use crate::wake::WakeEvent;

const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;

/// Token: the port has frames.
const PORT_READABLE: u16 = 0;
/// Token: the port has room again.
const PORT_WRITABLE: u16 = 1;
/// Token: a turn ended before its work did.
const GO_ON: u16 = 2;
/// Token: the rate limit lets frames in again.
const RECEIVE_TIMER: u16 = 3;
/// Token: the rate limit lets frames out again.
const TRANSMIT_TIMER: u16 = 4;

/// The MTU of a link where none is told.
const DEFAULT_MTU: u16 = 1500;
/// Up to and including the MTU (virtio 1.2 §5.1.4).
const CONFIGURATION_BYTES: usize = 12;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

/// What a network card is made of.
pub struct NetDeviceConfig {
    /// Where frames go to and come from.
    pub port: Box<dyn FramePort>,
    /// The card's address.
    pub mac: MacAddress,
    /// The link's MTU, if the guest is to be told (at least 68).
    pub mtu: Option<u16>,
    /// The largest size of either queue.
    pub queue_size: QueueSize,
    /// How much may be sent in a time, and how much received.
    pub rate_limits: RateLimits,
    /// What guest and host may leave to each other.
    pub offloads: OffloadOffers,
}

/// A virtio network card with one pair of queues.
pub struct NetDevice {
    port: Box<dyn FramePort>,
    mtu: Option<u16>,
    features: u64,
    queue_sizes: [u16; 2],
    configuration: [u8; CONFIGURATION_BYTES],
    counters: Arc<NetCounters>,
    inward: Gate,
    outward: Gate,
    state: State,
    go_on: WakeEvent,
    /// An epoll that watches the port for room while the transmitter is blocked, and is readable when there is.
    room: OwnedFd,
}

enum State {
    Reset,
    Active(Box<Active>),
    /// The queues are ignored until reset (virtio 1.2 §2.1.2).
    Broken,
}

struct Active {
    receive_queue: Queue,
    transmit_queue: Queue,
    receiver: Receiver,
    transmitter: Transmitter,
}

impl NetDevice {
    /// A card in reset, its link up.
    ///
    /// # Errors
    /// The process or the host has no file descriptor left, or the port cannot be watched.
    pub fn new(config: NetDeviceConfig) -> io::Result<Self> {
        let room = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(0);
        epoll::add(&room, config.port.fd(), data, epoll::EventFlags::empty())?;
        let mut configuration = [0; CONFIGURATION_BYTES];
        configuration[..6].copy_from_slice(&config.mac.0);
        configuration[6..8].copy_from_slice(&link_status().to_le_bytes());
        configuration[8..10].copy_from_slice(&1u16.to_le_bytes());
        configuration[10..].copy_from_slice(&config.mtu.unwrap_or(0).to_le_bytes());
        let features = config.offloads.features(config.port.udp_segmentation()) | features(config.mtu);
        Ok(Self {
            port: config.port,
            features,
            mtu: config.mtu,
            queue_sizes: [config.queue_size.get(); 2],
            configuration,
            counters: Arc::default(),
            inward: Gate::new(&config.rate_limits)?,
            outward: Gate::new(&config.rate_limits)?,
            state: State::Reset,
            go_on: WakeEvent::new()?,
            room,
        })
    }

    /// What the card has done so far, to be read from any thread.
    #[must_use]
    pub fn counters(&self) -> Arc<NetCounters> {
        Arc::clone(&self.counters)
    }

    fn receive(&mut self) {
        let State::Active(active) = &mut self.state else { return };
        if active.receiver.is_starved() || self.inward.is_shut() {
            return;
        }
        let mut way = Way { port: self.port.fd(), gate: &mut self.inward, counters: &self.counters };
        let turn = active.receiver.turn(&mut active.receive_queue, &mut way);
        self.note(turn);
    }

    fn transmit(&mut self) {
        let State::Active(active) = &mut self.state else { return };
        if active.transmitter.is_blocked() || self.outward.is_shut() {
            return;
        }
        let mut way = Way { port: self.port.fd(), gate: &mut self.outward, counters: &self.counters };
        let turn = active.transmitter.turn(&mut active.transmit_queue, &mut way);
        if active.transmitter.is_blocked() {
            self.watch_for_room();
        }
        self.note(turn);
    }

    /// Makes `room` readable once, when the port has room: also at once, if it has by now.
    fn watch_for_room(&self) {
        let flags = epoll::EventFlags::OUT | epoll::EventFlags::ONESHOT;
        let data = epoll::EventData::new_u64(0);
        if epoll::modify(&self.room, self.port.fd(), data, flags).is_err() {
            // Not with a port that could be added. The next turn tries again.
            self.go_on.ring();
        }
    }

    fn on_room(&mut self) {
        // Takes the event, so that the next one makes a new edge.
        let mut events = Vec::with_capacity(1);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spare = rustix::buffer::spare_capacity(&mut events);
        let _interrupted = epoll::wait(&self.room, spare, Some(&now));
        if let State::Active(active) = &mut self.state {
            active.transmitter.unblock();
        }
        self.transmit();
    }

    fn note(&mut self, turn: Result<Turn, QueueFault>) {
        match turn {
            Ok(Turn::Idle) => {}
            Ok(Turn::Again) => self.go_on.ring(),
            Err(fault) => {
                tracing::debug!(error = %fault, "a network card's queue is broken");
                self.state = State::Broken;
            }
        }
    }
}

/// What every card offers but for offloads (§5.1.3).
fn features(mtu: Option<u16>) -> u64 {
    let always = [
        VIRTIO_NET_F_MAC,
        VIRTIO_NET_F_STATUS,
        VIRTIO_NET_F_MRG_RXBUF,
        VIRTIO_RING_F_INDIRECT_DESC,
        VIRTIO_RING_F_EVENT_IDX,
    ];
    let mtu = mtu.map(|_| VIRTIO_NET_F_MTU);
    always.iter().chain(&mtu).fold(0, |bits, feature| bits | 1 << feature)
}

fn link_status() -> u16 {
    u16::try_from(VIRTIO_NET_S_LINK_UP).unwrap_or(1)
}

impl VirtioDevice for NetDevice {
    fn device_type(&self) -> VirtioDeviceType {
        VirtioDeviceType::Net
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn offered_features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_configuration(&self.configuration, offset, data);
    }

    /// The address is read-only for modern drivers (§5.1.4).
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut queues = activation.queues.into_iter();
        let mut queue = |index| {
            let queue = queues.next().flatten();
            queue.ok_or(ActivateError::QueueDisabled { index })
        };
        let receive_queue = queue(RECEIVE_QUEUE)?;
        let transmit_queue = queue(TRANSMIT_QUEUE)?;
        let offloads = Offloads::accepted_by(activation.features);
        self.port.set_offloads(offloads).map_err(ActivateError::Backend)?;
        let buffers = if activation.features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0 {
            Buffers::mergeable(offloads, self.mtu.unwrap_or(DEFAULT_MTU))
        } else {
            Buffers::Whole
        };
        self.state = State::Active(Box::new(Active {
            receive_queue,
            transmit_queue,
            receiver: Receiver::new(buffers),
            transmitter: Transmitter::default(),
        }));
        Ok(())
    }

    fn events(&self) -> Vec<DeviceEvent<'_>> {
        let mut events = vec![
            DeviceEvent { fd: self.port.fd(), token: PORT_READABLE },
            DeviceEvent { fd: self.room.as_fd(), token: PORT_WRITABLE },
            DeviceEvent { fd: self.go_on.as_fd(), token: GO_ON },
        ];
        events.extend(self.inward.timer().map(|fd| DeviceEvent { fd, token: RECEIVE_TIMER }));
        events.extend(self.outward.timer().map(|fd| DeviceEvent { fd, token: TRANSMIT_TIMER }));
        events
    }

    fn doorbell(&mut self, index: u16) {
        match index {
            RECEIVE_QUEUE => {
                if let State::Active(active) = &mut self.state
                    && active.receiver.on_doorbell()
                {
                    self.receive();
                }
            }
            TRANSMIT_QUEUE => self.transmit(),
            _ => {}
        }
    }

    fn event(&mut self, token: u16) {
        match token {
            PORT_READABLE => self.receive(),
            PORT_WRITABLE => self.on_room(),
            GO_ON => {
                self.receive();
                self.transmit();
            }
            RECEIVE_TIMER => {
                self.inward.open();
                self.receive();
            }
            TRANSMIT_TIMER => {
                self.outward.open();
                self.transmit();
            }
            _ => {}
        }
    }

    /// Nothing is ever in flight between calls; buffers that wait for a frame go back to their queue.
    fn drain(&mut self, _deadline: Instant) -> bool {
        if let State::Active(active) = &mut self.state {
            active.receiver.release(&mut active.receive_queue);
        }
        true
    }

    fn reset(&mut self) {
        self.state = State::Reset;
    }

    fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }
}

#[cfg(test)]
mod tests;
