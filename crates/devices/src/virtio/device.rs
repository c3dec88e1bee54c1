//! The contract between a virtio transport and a device behind it.
//!
//! ```text
//! reset ──activate(frozen features, validated queues)──→ active ──reset()──→ reset
//!                                                        │  ↑ doorbell(), event()
//!                                                        └──┘
//! ```
//!
//! One lock a device serialises everything: the transport holds it for register accesses from vCPU threads, the
//! machine's event loop for doorbells and events. No method may block on I/O, or one guest's slow disk would hold up
//! whoever wants to end that guest; [`VirtioDevice::drain`] alone waits for I/O in flight, until its deadline.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use super::queue::Queue;
use crate::memory::GuestMemory;

/// Device types by their virtio device id (virtio 1.2 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum VirtioDeviceType {
    /// Network card.
    Net = 1,
    /// Block device.
    Block = 2,
    /// Console.
    Console = 3,
    /// Entropy source.
    Entropy = 4,
    /// Memory balloon.
    Balloon = 5,
    /// Socket device.
    Socket = 19,
}

/// What a device gets when the driver sets `DRIVER_OK` (virtio 1.2 §3.1.1).
pub struct Activation {
    /// Guest memory, alive for as long as any I/O holds it.
    pub memory: Arc<GuestMemory>,
    /// The features both sides agreed on; frozen until reset.
    pub features: u64,
    /// One queue per entry of [`VirtioDevice::queue_sizes`]; `None` where the driver enabled none.
    pub queues: Vec<Option<Queue>>,
}

/// A file descriptor of a device's own that the event loop watches, edge-triggered, from build to end.
pub struct DeviceEvent<'a> {
    /// What to watch for readability.
    pub fd: BorrowedFd<'a>,
    /// What [`VirtioDevice::event`] is called with.
    pub token: u16,
}

/// Why a device refused to start. The transport answers with `DEVICE_NEEDS_RESET`.
#[derive(Debug, Error)]
pub enum ActivateError {
    /// The driver left a queue disabled without which the device cannot work.
    #[error("queue {index} is not enabled")]
    QueueDisabled {
        /// The queue.
        index: u16,
    },
    /// The host refused something the device needs to start.
    #[error("the device's back end did not start")]
    Backend(#[source] std::io::Error),
}

/// A device behind a virtio transport.
pub trait VirtioDevice: Send {
    /// Its type.
    fn device_type(&self) -> VirtioDeviceType;

    /// The largest size of each queue, powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Device-specific features it offers, and ring features (`EVENT_IDX`, `INDIRECT_DESC`) if it handles them.
    /// The transport adds `VERSION_1`.
    fn offered_features(&self) -> u64;

    /// Reads its configuration space (virtio 1.2 §2.5). Bytes past its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes its configuration space. Writes to read-only fields are ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// Receives each queue's doorbell eventfd, by queue. Called once, before any other method, so that a device can hand
    /// its queues to vhost.
    ///
    /// # Errors
    /// The process or the host has no file descriptor left.
    fn connect(&mut self, bells: &[EventFd]) -> std::io::Result<()> {
        let _rung_by_the_event_loop = bells;
        Ok(())
    }

    /// Whether the doorbell of `queue` is handled outside this process, so that [`VirtioDevice::doorbell`] need not be
    /// called for it. Fixed from construction on.
    fn is_served_elsewhere(&self, queue: u16) -> bool {
        let _none = queue;
        false
    }

    /// Starts serving queues. The transport rings every enabled queue's bell right after, so that buffers which
    /// are there already get served.
    ///
    /// # Errors
    /// See [`ActivateError`]; the device stays in reset.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Descriptors of its own to watch (a TAP, completions). Fixed from construction on.
    fn events(&self) -> Vec<DeviceEvent<'_>>;

    /// The driver rang queue `index`, or may have. Spurious calls are harmless, also while in reset.
    fn doorbell(&mut self, index: u16);

    /// The descriptor with `token` became readable. Spurious calls are harmless, also while in reset.
    fn event(&mut self, token: u16);

    /// Tries again what the host could not carry out and the device kept, if it is one that keeps requests. Its owner calls
    /// it now and then while there are any. Spurious calls are harmless, also while in reset.
    fn retry(&mut self) {}

    /// Waits until no I/O is in flight, without taking new buffers. Used before a pause; `false` when `deadline` passed first.
    fn drain(&mut self, deadline: Instant) -> bool;

    /// Returns to the state before [`VirtioDevice::activate`]: gives up its queues and the requests whose I/O is in
    /// flight. That I/O itself goes on until [`VirtioDevice::is_settled`]. Idempotent.
    fn reset(&mut self);

    /// Whether nothing from before the last reset can touch guest memory any more. Until then the driver is not told
    /// that the reset is over (virtio 1.2 §2.4.1), and the device is not activated.
    fn is_settled(&mut self) -> bool {
        true
    }

    /// Whether a malformed queue broke the device. The transport then sets `DEVICE_NEEDS_RESET` and notifies the
    /// driver; until reset the device ignores its queues (virtio 1.2 §2.1.2).
    ///
    /// The transport logs it as a warning, a few times for each device, so that a guest cannot fill the log. The device
    /// logs which rule was broken, at the debug level.
    fn is_broken(&self) -> bool;
}
