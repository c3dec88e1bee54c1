//! The network card as its transport sees it.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_bindings::bindings::virtio_net::VIRTIO_NET_F_GUEST_ANNOUNCE;
use vmm_sys_util::eventfd::EventFd;

use vm_model::LinkState;

use super::active::{Active, Role};
use super::configuration::Configuration;
use super::counters::NetCounters;
use super::frame_limit::FrameLimit;
use super::frame_path::{FramePath, ProcessPath};
use super::handle::NetHandle;
use super::kernel_path::KernelPath;
use super::offloads::{Offloads, offered_features};
use super::parts::{KernelBackends, NetDeviceConfig, NetDeviceError, QUEUE_PAIRS_MAX};
use super::tap_queues::TapQueues;
use crate::virtio::token_bucket::TokenBucket;
use crate::virtio::{
    ActivateError, Activation, BucketLimits, DeviceEvent, RateLimits, VirtioDevice, VirtioDeviceType,
};
use crate::wake::WakeEvent;

/// Descriptors of the control queue: a driver waits for each answer.
const CONTROL_QUEUE_SIZE: u16 = 64;
/// How many ports may be attached or detached, or have their offloads changed, in [`CHANGES_TIME`] at a driver's request:
/// the kernel does it under a lock that all of the host's interfaces share, and for a use waits until no processor handles
/// frames of the port.
const CHANGES: u64 = 2 * QUEUE_PAIRS_MAX as u64;
const CHANGES_TIME: Duration = Duration::from_secs(1);

/// Token: a turn ended before its work did.
const GO_ON: u16 = 0;
/// Token: the rate limit lets frames in again.
const RECEIVE_TIMER: u16 = 1;
/// Token: the rate limit lets frames out again.
const TRANSMIT_TIMER: u16 = 2;
/// Token: the kernel's back end met a malformed queue.
const KERNEL_FAULT: u16 = 3;
/// Tokens from here on: the port of pair N has frames (even), or room again (odd).
const PORTS: u16 = 4;

/// A virtio network card. What it does at doorbells and events is in the module `handlers`.
pub struct NetDevice {
    pub(super) tap_queues: TapQueues,
    configuration: Configuration,
    features: u64,
    queue_sizes: Vec<u16>,
    pub(super) counters: Arc<NetCounters>,
    pub(super) path: FramePath,
    /// What is left of [`CHANGES`].
    pub(super) changes: TokenBucket,
    pub(super) state: State,
    pub(super) go_on: WakeEvent,
    pub(super) handle: Arc<NetHandle>,
    /// The carrier that the ports were set to last.
    pub(super) carrier: LinkState,
}

/// What the driver has made of the card.
pub(super) enum State {
    Reset,
    Active(Box<Active>),
    /// The queues are ignored until reset (virtio 1.2 §2.1.2).
    Broken,
}

impl NetDevice {
    /// A card in reset, its link up.
    ///
    /// # Errors
    /// See [`NetDeviceError`].
    pub fn new(config: NetDeviceConfig) -> Result<Self, NetDeviceError> {
        let count = config.ports.len();
        let pairs = u16::try_from(count).ok().filter(|pairs| (1..=QUEUE_PAIRS_MAX).contains(pairs));
        let pairs = pairs.ok_or(NetDeviceError::Ports { count })?;
        let host = NetDeviceError::Host;
        let tap_queues = TapQueues::new(config.ports).map_err(host)?;
        let (path, statistics) = match config.kernel {
            Some(KernelBackends { backends, .. }) if backends.len() != count => {
                return Err(NetDeviceError::Backends { backends: backends.len(), ports: count });
            }
            Some(_) if config.rate_limits != RateLimits::default() => {
                return Err(NetDeviceError::LimitedBackends);
            }
            Some(KernelBackends { backends, statistics }) => {
                (FramePath::Kernel(KernelPath::new(backends).map_err(host)?), Some(statistics))
            }
            None => {
                let limit = || FrameLimit::new(&config.rate_limits).map_err(host);
                (FramePath::Process(ProcessPath { receive_limit: limit()?, transmit_limit: limit()? }), None)
            }
        };
        let configuration = Configuration { mac: config.mac, pairs, mtu: config.mtu };
        let mut queue_sizes = vec![config.queue_size.get(); 2 * count];
        queue_sizes.push(CONTROL_QUEUE_SIZE);
        let go_on = WakeEvent::new().map_err(host)?;
        let features =
            configuration.features() | offered_features(config.offloads, tap_queues.udp_segmentation());
        let changes = BucketLimits::new(CHANGES, 0, CHANGES_TIME).map_err(io::Error::other).map_err(host)?;
        Ok(Self {
            features: path.kernel().map_or(features, |kernel| kernel.limit(features)),
            tap_queues,
            configuration,
            queue_sizes,
            counters: Arc::new(NetCounters::of_interface(statistics)),
            changes: TokenBucket::new(&changes, Instant::now()),
            state: State::Reset,
            handle: Arc::new(NetHandle::new(&go_on).map_err(host)?),
            go_on,
            path,
            carrier: LinkState::Up,
        })
    }

    /// What the card has done so far, to be read from any thread.
    #[must_use]
    pub fn counters(&self) -> Arc<NetCounters> {
        Arc::clone(&self.counters)
    }

    /// The card's link, to be changed from any thread.
    #[must_use]
    pub fn handle(&self) -> Arc<NetHandle> {
        Arc::clone(&self.handle)
    }

    fn pairs(&self) -> usize {
        self.configuration.pairs.into()
    }
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
        self.configuration.read(self.handle.status(), offset, data);
    }

    /// The address is read-only for modern drivers (§5.1.4).
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn connect(&mut self, bells: &[EventFd]) -> io::Result<()> {
        self.path.kernel_mut().map_or(Ok(()), |kernel| kernel.connect(bells))
    }

    fn is_served_elsewhere(&self, queue: u16) -> bool {
        self.path.kernel().is_some_and(|kernel| kernel.serves(queue))
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, features, queues } = activation;
        let mut active = Active::new(features, self.configuration.mtu, queues)?;
        let offloads = Offloads::accepted_by(features);
        let changes =
            self.tap_queues.attached().abs_diff(1) + usize::from(offloads != self.tap_queues.offloads());
        if !self.may_change(changes as u64) {
            return Err(ActivateError::Backend(io::Error::other("the driver restarts the device too often")));
        }
        // A driver starts with one pair (§5.1.6.5.5), whatever the one before it used.
        self.tap_queues.attach(1).map_err(ActivateError::Backend)?;
        self.tap_queues.set_offloads(offloads).map_err(ActivateError::Backend)?;
        if let Some(kernel) = self.path.kernel_mut() {
            kernel.begin(&memory, &mut active).map_err(ActivateError::Backend)?;
        }
        self.handle.begin(features & 1 << VIRTIO_NET_F_GUEST_ANNOUNCE != 0);
        self.state = State::Active(Box::new(active));
        self.settle();
        Ok(())
    }

    fn events(&self) -> Vec<DeviceEvent<'_>> {
        let mut events = vec![DeviceEvent { fd: self.go_on.as_fd(), token: GO_ON }];
        let path = match &self.path {
            FramePath::Process(path) => path,
            FramePath::Kernel(kernel) => {
                // The kernel reads the ports itself.
                events.push(DeviceEvent { fd: kernel.fault(), token: KERNEL_FAULT });
                return events;
            }
        };
        events.extend(path.receive_limit.timer().map(|fd| DeviceEvent { fd, token: RECEIVE_TIMER }));
        events.extend(path.transmit_limit.timer().map(|fd| DeviceEvent { fd, token: TRANSMIT_TIMER }));
        for (token, (port, room)) in (PORTS..).step_by(2).zip(self.tap_queues.descriptors()) {
            events.push(DeviceEvent { fd: port, token });
            events.push(DeviceEvent { fd: room, token: token + 1 });
        }
        events
    }

    fn doorbell(&mut self, index: u16) {
        let State::Active(active) = &mut self.state else { return };
        match active.role(index) {
            Some(Role::Receive(pair)) => {
                let rung = active.pair(pair).is_some_and(|pair| pair.receiver.on_doorbell());
                if rung {
                    self.receive(pair);
                }
            }
            Some(Role::Transmit(pair)) => self.transmit(pair),
            Some(Role::Control) => self.control(),
            None => {}
        }
    }

    fn event(&mut self, token: u16) {
        match token {
            GO_ON => {
                self.follow_link();
                self.control();
                self.settle();
                for pair in 0..self.pairs() {
                    self.receive(pair);
                    self.transmit(pair);
                }
            }
            RECEIVE_TIMER => {
                let FramePath::Process(path) = &mut self.path else { return };
                let first = path.receive_limit.replenish();
                (0..self.pairs()).for_each(|pair| self.receive((first + pair) % self.pairs()));
            }
            TRANSMIT_TIMER => {
                let FramePath::Process(path) = &mut self.path else { return };
                let first = path.transmit_limit.replenish();
                (0..self.pairs()).for_each(|pair| self.transmit((first + pair) % self.pairs()));
            }
            KERNEL_FAULT => self.on_kernel_fault(),
            PORTS.. => {
                let (pair, is_room) = (usize::from((token - PORTS) / 2), !token.is_multiple_of(2));
                if is_room { self.on_room(pair) } else { self.receive(pair) }
            }
        }
    }

    /// This process has no I/O in flight between calls; buffers that wait for a frame go back to their queue.
    /// The kernel stops serving its queues until the next event.
    fn drain(&mut self, _deadline: Instant) -> bool {
        self.hold();
        if let State::Active(active) = &mut self.state {
            active.pairs().for_each(|pair| pair.receiver.release(&mut pair.receive_queue));
        }
        true
    }

    fn reset(&mut self) {
        self.end_kernel();
        self.handle.begin(false);
        self.state = State::Reset;
    }

    fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }
}

#[cfg(test)]
mod tests;
