//! A virtio device as a PCI function: the public face of the transport.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;
use tracing::warn;
use vmm_sys_util::eventfd::EventFd;

use super::bells::Bells;
use super::capabilities::{WritableCapabilities, configuration_space};
use super::common_config::{CommonConfig, CommonEffect};
use super::interrupts::{Interrupts, QueueVector};
use super::layout::{BAR_BYTES, QUEUES_MAX};
use super::status::Stage;
use crate::memory::GuestMemory;
use crate::pci::{CapabilityError, Msix, MsixError, PciConfig};
use crate::ports::{Doorbells, MessageInterrupts};
use crate::virtio::queue::{Queue, QueueInterrupt, QueueSetupError};
use crate::virtio::{Activation, DeviceEvent, VirtioDevice, VirtioDeviceType};

/// How many of a guest's mistakes are logged a device; the rest are only counted.
const LOGGED_BREAKAGES: u64 = 4;

/// A device that cannot be put behind the transport.
#[derive(Debug, Error)]
pub enum VirtioPciError {
    /// The BAR's place is no multiple of its size or not below 4 GiB.
    #[error("bar at {base:#x}, expected a multiple of {BAR_BYTES:#x} below 4 GiB")]
    BarBase {
        /// The address that was given.
        base: u64,
    },
    /// There is no room for the notification addresses of all queues.
    #[error("{count} queues, expected 1 to {QUEUES_MAX}")]
    QueueCount {
        /// The number of the device's queues.
        count: usize,
    },
    /// A queue's largest size is impossible.
    #[error("queue {queue} has a largest size of {size}, expected a power of two from 1 to 32768")]
    QueueSize {
        /// The queue.
        queue: usize,
        /// Its size.
        size: u16,
    },
    /// The interrupt port has none or too many vectors.
    #[error("the interrupt vectors do not fit the device")]
    Vectors(#[source] MsixError),
    /// The capabilities do not fit.
    #[error("the configuration space does not hold the device")]
    Configuration(#[source] CapabilityError),
    /// No eventfd could be made or passed on.
    #[error("an eventfd for a queue could not be created")]
    Bell(#[source] io::Error),
}

/// A virtio device behind PCI, to be shared as `Arc<Mutex<VirtioPciDevice>>`: [`PciFunction`] for vCPU threads, the
/// methods here for the machine's event loop.
///
/// The event loop watches [`VirtioPciDevice::queue_bells`] and [`VirtioPciDevice::events`] from build to end (both
/// keep their descriptors across resets) and calls [`VirtioPciDevice::handle_doorbell`] and
/// [`VirtioPciDevice::handle_event`] for what became readable. Dropping leaves doorbells attached: the machine they
/// belong to ends with its devices, and detaching one after another would only take time.
///
/// [`PciFunction`]: crate::pci::PciFunction
pub struct VirtioPciDevice {
    pub(super) device: Box<dyn VirtioDevice>,
    memory: Arc<GuestMemory>,
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) bells: Bells,
    pub(super) config: PciConfig,
    pub(super) capabilities: WritableCapabilities,
    pub(super) common: CommonConfig,
    breakages: u64,
}

impl VirtioPciDevice {
    /// Puts `device` behind a BAR of [`BAR_BYTES`] at `bar_base`, which the guest may move. It has as many interrupt
    /// vectors as `messages`: one a queue and one for configuration changes are best.
    ///
    /// # Errors
    /// See [`VirtioPciError`].
    pub fn new(
        mut device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        messages: Arc<dyn MessageInterrupts>,
        doorbells: Arc<dyn Doorbells>,
        bar_base: u64,
    ) -> Result<Self, VirtioPciError> {
        if !bar_base.is_multiple_of(BAR_BYTES) || u32::try_from(bar_base).is_err() {
            return Err(VirtioPciError::BarBase { base: bar_base });
        }
        let sizes = device.queue_sizes();
        let count = sizes.len();
        let queues = u16::try_from(count).ok().filter(|queues| (1..=QUEUES_MAX).contains(queues));
        let queues = queues.ok_or(VirtioPciError::QueueCount { count })?;
        if let Some((queue, size)) = sizes.iter().enumerate().find(|(_, size)| !size.is_power_of_two()) {
            return Err(VirtioPciError::QueueSize { queue, size: *size });
        }
        let msix = Msix::new(messages).map_err(VirtioPciError::Vectors)?;
        let (config, capabilities) =
            configuration_space(device.device_type(), queues, msix.count(), bar_base)
                .map_err(VirtioPciError::Configuration)?;
        let common = CommonConfig::new(device.offered_features(), sizes, msix.count());
        let bells = Bells::new(count, doorbells).map_err(VirtioPciError::Bell)?;
        device.connect(bells.events()).map_err(VirtioPciError::Bell)?;
        let interrupts = Arc::new(Interrupts::new(msix, count));
        Ok(Self { device, memory, interrupts, bells, config, capabilities, common, breakages: 0 })
    }

    /// What kind of device it is.
    #[must_use]
    pub fn device_type(&self) -> VirtioDeviceType {
        self.device.device_type()
    }

    /// The doorbell eventfd of each queue, to be watched edge-triggered; non-blocking. Queues that are served outside this
    /// process are left out.
    pub fn queue_bells(&self) -> impl Iterator<Item = (u16, &EventFd)> {
        (0..).zip(self.bells.events()).filter(|(queue, _)| !self.device.is_served_elsewhere(*queue))
    }

    /// The device's own descriptors to watch, edge-triggered.
    #[must_use]
    pub fn events(&self) -> Vec<DeviceEvent<'_>> {
        self.device.events()
    }

    /// The common configuration as the driver has set it up.
    #[must_use]
    pub fn common_config(&self) -> &CommonConfig {
        &self.common
    }

    /// Whether a driver runs the device and it is not broken.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let status = self.common.status;
        status.stage == Stage::Running && !status.needs_reset && !status.resetting
    }

    /// How many times the driver broke the device: a malformed queue, impossible settings.
    #[must_use]
    pub fn breakages(&self) -> u64 {
        self.breakages
    }

    /// The bell of `queue` rang, or may have: serves the queue. The bell stays readable, which costs a system call less
    /// each time: watched for edges, it tells of every ring.
    pub fn handle_doorbell(&mut self, queue: u16) {
        if self.is_running() {
            self.device.doorbell(queue);
            self.notice_breakage();
        }
    }

    /// The device's own descriptor with `token` became readable.
    pub fn handle_event(&mut self, token: u16) {
        self.device.event(token);
        self.notice_breakage();
        self.finish_reset();
    }

    /// Has the device try again what the host could not carry out.
    pub fn retry(&mut self) {
        self.device.retry();
        self.notice_breakage();
        self.finish_reset();
    }

    /// Signals the doorbell of every enabled queue of a running device. Called after a pause, so that no buffer made
    /// available meanwhile is overlooked.
    pub fn kick_all(&self) {
        if self.is_running() {
            self.ring_enabled();
        }
    }

    /// Waits until no I/O is in flight; `false` when `deadline` passed first. New doorbells must be held back by
    /// the caller.
    #[must_use]
    pub fn drain(&mut self, deadline: Instant) -> bool {
        let drained = self.device.drain(deadline);
        self.notice_breakage();
        self.finish_reset();
        drained
    }

    /// Resets the virtio device (virtio 1.2 §2.4), as the driver does by a status of zero. PCI state (BAR, MSI-X
    /// table) stays. Does not wait: where I/O is in flight, the reset is over only after [`VirtioPciDevice::drain`] or
    /// when a later event finds it ended.
    pub fn reset(&mut self) {
        self.device.reset();
        self.common.status.resetting = true;
        self.finish_reset();
    }

    /// Ends a reset once nothing from before it can touch guest memory any more.
    pub(super) fn finish_reset(&mut self) {
        if self.common.status.resetting && self.device.is_settled() {
            self.common.reset();
            self.interrupts.reset();
        }
    }

    /// Tells the driver that the device's configuration changed (§2.5.1, §4.1.5.3).
    pub fn announce_config_change(&mut self) {
        self.common.config_generation = self.common.config_generation.wrapping_add(1);
        let status = self.common.status;
        if status.stage == Stage::Running && !status.resetting {
            self.interrupts.raise_config();
        }
    }

    fn ring_enabled(&self) {
        for (index, queue) in self.common.queues.iter().enumerate() {
            if queue.enabled {
                self.bells.ring(index);
            }
        }
    }

    fn activate(&mut self) {
        let activation = match self.queues() {
            Ok(queues) => {
                let features = self.common.driver_features;
                Activation { memory: Arc::clone(&self.memory), features, queues }
            }
            Err(error) => return self.mark_broken(&error),
        };
        match self.device.activate(activation) {
            Ok(()) => self.ring_enabled(),
            Err(error) => self.mark_broken(&error),
        }
    }

    fn queues(&self) -> Result<Vec<Option<Queue>>, QueueSetupError> {
        let features = self.common.ring_features();
        let build = |(index, settings): (usize, &super::QueueSettings)| {
            let Some(layout) = settings.layout() else {
                return Ok(None);
            };
            let interrupts = Arc::clone(&self.interrupts);
            let interrupt: Arc<dyn QueueInterrupt> = Arc::new(QueueVector { interrupts, queue: index });
            Queue::new(&layout, features, Arc::clone(&self.memory), interrupt).map(Some)
        };
        self.common.queues.iter().enumerate().map(build).collect()
    }

    fn notice_breakage(&mut self) {
        if self.is_running() && self.device.is_broken() {
            self.mark_broken(&MalformedQueue);
        }
    }

    /// Asks the driver to reset the device (§2.1.2).
    fn mark_broken(&mut self, cause: &(dyn std::error::Error + 'static)) {
        self.common.status.needs_reset = true;
        self.breakages += 1;
        if self.breakages <= LOGGED_BREAKAGES {
            let device = self.device.device_type();
            warn!(
                ?device,
                breakages = self.breakages,
                cause,
                "the driver broke a virtio device, it needs a reset"
            );
        }
        self.interrupts.raise_config();
    }

    /// Does what a write to the common configuration asked for.
    pub(super) fn apply(&mut self, effect: CommonEffect) {
        match effect {
            CommonEffect::Nothing => {}
            CommonEffect::Reset => self.reset(),
            CommonEffect::Activate => self.activate(),
            CommonEffect::ConfigVector(vector) => self.interrupts.set_config_vector(vector),
            CommonEffect::QueueVector { queue, vector } => self.interrupts.set_queue_vector(queue, vector),
        }
    }
}

/// A device says only that a queue is malformed; it has logged how.
#[derive(Debug, Error)]
#[error("a queue is malformed")]
struct MalformedQueue;
