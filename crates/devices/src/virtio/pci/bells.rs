//! The doorbell eventfds of a device, one for each queue. KVM signals one at the guest's write (ioeventfd); where the host
//! refuses that, the write exits to this process, which signals it.

use std::io;
use std::sync::Arc;

use tracing::warn;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::layout::{NOTIFY_MULTIPLIER, Part};
use crate::ports::Doorbells;

/// The bells of a device, by queue.
pub(super) struct Bells {
    events: Vec<EventFd>,
    /// The address at which each is attached.
    attached: Vec<Option<u64>>,
    port: Arc<dyn Doorbells>,
}

impl Bells {
    pub(super) fn new(queues: usize, port: Arc<dyn Doorbells>) -> io::Result<Self> {
        let events = (0..queues).map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC));
        Ok(Self { events: events.collect::<io::Result<_>>()?, attached: vec![None; queues], port })
    }

    pub(super) fn events(&self) -> &[EventFd] {
        &self.events
    }

    /// Attaches all bells for a BAR at `base`, or detaches them. A bell that the host refuses to attach is rung
    /// by [`Bells::ring`] then, as the guest's write arrives here.
    pub(super) fn place(&mut self, base: Option<u64>) {
        for (index, (event, attached)) in (0u64..).zip(self.events.iter().zip(&mut self.attached)) {
            let offset = u64::from(Part::Notify.offset()) + index * u64::from(NOTIFY_MULTIPLIER);
            let wanted = base.and_then(|base| base.checked_add(offset));
            if *attached == wanted {
                continue;
            }
            if let Some(address) = attached.take()
                && let Err(error) = self.port.detach(address, event)
            {
                warn!(address, error = &error as &dyn std::error::Error, "a doorbell was not detached");
            }
            let Some(address) = wanted else { continue };
            match self.port.attach(address, event) {
                Ok(()) => *attached = wanted,
                Err(error) => warn!(
                    address,
                    error = &error as &dyn std::error::Error,
                    "a doorbell was not attached, the queue is served by exits"
                ),
            }
        }
    }

    /// Rings the bell of `queue`; queues that do not exist have none.
    pub(super) fn ring(&self, queue: usize) {
        if let Some(event) = self.events.get(queue) {
            // Fails only when the counter is full: then it rings already.
            let _full = event.write(1);
        }
    }
}
