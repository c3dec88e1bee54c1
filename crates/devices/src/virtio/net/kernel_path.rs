//! Frames that the host's kernel moves between the queues and the ports (vhost-net), past this process.
//!
//! ```text
//! guest ──doorbell──→ kernel's back end ──→ TAP         │ control queue, link, pauses: the device, here
//! guest ←─interrupt── kernel's back end ←── TAP         │
//! ```
//!
//! This process decides only which pairs run: those in use, while the link is up and the machine is not paused.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::EventFd;

use super::active::{Active, Pair};
use super::tap_queues::TapQueues;
use super::vhost::{FrameBackend, Side};
use crate::memory::GuestMemory;
use crate::pci::InterruptSource;
use crate::virtio::queue::Queue;
use crate::wake::WakeEvent;

/// The features that a back end has a say in; the rest is between the driver, the TAP and this process.
const SERVED: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_NET_F_MRG_RXBUF
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_RING_F_INDIRECT_DESC;
/// The control queue of a driver that knows but one pair of several; with others it is the second pair's to receive.
const EARLY_CONTROL_QUEUE: u16 = 2;

/// The back ends of a card.
pub(super) struct KernelPath {
    /// The back ends, by pair.
    backends: Vec<Arc<dyn FrameBackend>>,
    /// The doorbells, by queue.
    bells: Vec<EventFd>,
    /// Readable once a back end met a malformed queue.
    fault: WakeEvent,
    /// How many pairs are served, from the first on.
    running: usize,
    /// Nothing is to run: the machine is paused.
    pub(super) is_held: bool,
}

impl KernelPath {
    /// A path of one back end a pair.
    pub(super) fn new(backends: Vec<Arc<dyn FrameBackend>>) -> io::Result<Self> {
        Ok(Self { backends, bells: Vec::new(), fault: WakeEvent::new()?, running: 0, is_held: false })
    }

    /// `features` without those that a back end cannot serve.
    pub(super) fn limit(&self, features: u64) -> u64 {
        let common = self.backends.iter().fold(u64::MAX, |common, backend| common & backend.features());
        features & (common | !SERVED)
    }

    /// Keeps the queues' doorbells.
    pub(super) fn connect(&mut self, bells: &[EventFd]) -> io::Result<()> {
        let served = bells.iter().take(2 * self.backends.len());
        self.bells = served.map(EventFd::try_clone).collect::<io::Result<_>>()?;
        Ok(())
    }

    /// Whether `queue` is served by a back end whenever it is served.
    pub(super) fn serves(&self, queue: u16) -> bool {
        let has_several = self.backends.len() > 1;
        usize::from(queue) < 2 * self.backends.len() && !(has_several && queue == EARLY_CONTROL_QUEUE)
    }

    /// Becomes readable when a back end met a malformed queue.
    pub(super) fn fault(&self) -> BorrowedFd<'_> {
        self.fault.as_fd()
    }

    /// Whether a back end met a malformed queue since the last call.
    pub(super) fn take_fault(&self) -> bool {
        self.fault.take()
    }

    /// Configures the back ends for a driver's queues; none runs yet.
    pub(super) fn begin(&mut self, memory: &Arc<GuestMemory>, active: &mut Active) -> io::Result<()> {
        let _of_the_driver_before = self.fault.take();
        for (index, backend) in self.backends.iter().enumerate() {
            let features = active.features & SERVED;
            let Some(pair) = active.pair(index) else { continue };
            backend.configure(features, memory, self.fault.as_fd())?;
            for side in Side::BOTH {
                let call = Call { backend: Arc::clone(backend), side };
                queue(pair, side).delegate_interrupt(Box::new(call))?;
            }
        }
        Ok(())
    }

    /// Runs vhost on exactly the first `count` queue pairs.
    ///
    /// # Errors
    /// The host refused, or a queue cannot be told to it.
    pub(super) fn run(
        &mut self,
        count: usize,
        active: &mut Active,
        tap_queues: &TapQueues,
    ) -> io::Result<()> {
        let count = if self.is_held { 0 } else { count.min(self.backends.len()) };
        while self.running < count {
            self.start(self.running, active, tap_queues)?;
            self.running += 1;
        }
        while self.running > count {
            self.running -= 1;
            self.stop(self.running, active)?;
        }
        Ok(())
    }

    /// Stops vhost on all queues. Failures are logged, as nothing more can be done about them.
    pub(super) fn end(&mut self) {
        self.is_held = false;
        for backend in &self.backends[..std::mem::take(&mut self.running)] {
            for side in Side::BOTH {
                if let Err(error) = backend.stop(side) {
                    // It keeps the memory mapped until it is closed. A guest may reset as often as it likes.
                    tracing::debug!(?side, %error, "the kernel does not leave a network card's queue alone");
                }
            }
        }
    }

    fn start(&self, index: usize, active: &mut Active, tap_queues: &TapQueues) -> io::Result<()> {
        let missing = || io::Error::other("the pair of queues is not enabled");
        let (Some(pair), Some(port)) = (active.pair(index), tap_queues.port(index)) else {
            return Err(missing());
        };
        for side in Side::BOTH {
            let rings = queue(pair, side).host_rings().map_err(io::Error::other)?;
            let bell = self.bells.get(2 * index + side as usize).ok_or_else(missing)?;
            if let Err(error) = self.backends[index].start(side, &rings, bell, port) {
                // Both sides run or none: the other may have begun.
                let _as_good_as_stopped = Side::BOTH.map(|side| self.backends[index].stop(side));
                return Err(error);
            }
        }
        Ok(())
    }

    fn stop(&self, index: usize, active: &mut Active) -> io::Result<()> {
        // A side that does not stop leaves the other no reason to go on.
        let stopped = Side::BOTH.map(|side| (side, self.backends[index].stop(side)));
        for (side, next) in stopped {
            let next = next?;
            if let Some(pair) = active.pair(index) {
                queue(pair, side).take_over(next);
            }
        }
        Ok(())
    }
}

impl Drop for KernelPath {
    fn drop(&mut self) {
        if self.running > 0 {
            self.end();
        }
    }
}

/// One queue of a back end as a source of interrupts.
struct Call {
    backend: Arc<dyn FrameBackend>,
    side: Side,
}

impl InterruptSource for Call {
    fn signal(&self, event: &EventFd) -> io::Result<()> {
        self.backend.interrupt(self.side, event)
    }
}

fn queue(pair: &mut Pair, side: Side) -> &mut Queue {
    match side {
        Side::Receive => &mut pair.receive_queue,
        Side::Transmit => &mut pair.transmit_queue,
    }
}
