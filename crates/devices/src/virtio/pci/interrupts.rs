//! Interrupts of one device: which vector each event has, and the ISR status for drivers that poll.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use super::common_config::NO_VECTOR;
use crate::pci::{InterruptSource, Msix};
use crate::virtio::queue::QueueInterrupt;

/// ISR status (virtio 1.2 §4.1.4.5): a queue was used.
const ISR_QUEUE: u8 = 1;
/// ISR status: the configuration changed.
const ISR_CONFIG: u8 = 2;

/// Shared by the transport, which changes vectors, and the queues, which raise them.
pub(super) struct Interrupts {
    pub(super) msix: Msix,
    isr: AtomicU8,
    config_vector: AtomicU16,
    queue_vectors: Box<[AtomicU16]>,
}

impl Interrupts {
    pub(super) fn new(msix: Msix, queues: usize) -> Self {
        Self {
            msix,
            isr: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
        }
    }

    /// Nothing pending in the ISR, no vectors assigned. MSI-X itself is PCI's and stays.
    pub(super) fn reset(&self) {
        self.msix.end_delegations();
        self.isr.store(0, Ordering::SeqCst);
        self.set_config_vector(NO_VECTOR);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::SeqCst);
        }
    }

    pub(super) fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(vector, Ordering::SeqCst);
    }

    pub(super) fn set_queue_vector(&self, queue: usize, vector: u16) {
        if let Some(place) = self.queue_vectors.get(queue) {
            place.store(vector, Ordering::SeqCst);
            self.msix.assign(queue, vector);
        }
    }

    /// Tells the driver that the configuration or the status changed (§4.1.5.3): the bit is set first, always
    /// (§4.1.4.5.1).
    pub(super) fn raise_config(&self) {
        self.isr.fetch_or(ISR_CONFIG, Ordering::SeqCst);
        self.msix.raise(self.config_vector.load(Ordering::SeqCst));
    }

    fn raise_queue(&self, queue: usize) {
        let vector = self.queue_vectors[queue].load(Ordering::Relaxed);
        // The bit is for drivers without MSI-X only (§4.1.4.5.1); ours then poll it, as there is no pin.
        if !self.msix.raise(vector) {
            self.isr.fetch_or(ISR_QUEUE, Ordering::SeqCst);
        }
    }

    /// Reads the ISR status, which clears it.
    pub(super) fn take_isr(&self) -> u8 {
        self.note_missed();
        self.isr.swap(0, Ordering::SeqCst)
    }

    /// As [`Interrupts::raise_queue`], for a source outside this process.
    fn note_missed(&self) {
        if self.msix.take_missed() {
            self.isr.fetch_or(ISR_QUEUE, Ordering::SeqCst);
        }
    }

    /// Whether a wired interrupt would be asserted (§4.1.4.5.1: mirrored in the PCI status).
    pub(super) fn is_asserted(&self) -> bool {
        self.note_missed();
        self.isr.load(Ordering::SeqCst) != 0 && !self.msix.is_enabled()
    }
}

/// The interrupt of one queue.
pub(super) struct QueueVector {
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) queue: usize,
}

impl QueueInterrupt for QueueVector {
    fn trigger(&self) {
        self.interrupts.raise_queue(self.queue);
    }

    fn delegate(&self, source: Box<dyn InterruptSource>) -> io::Result<()> {
        let Interrupts { msix, queue_vectors, .. } = &*self.interrupts;
        msix.delegate(self.queue, queue_vectors[self.queue].load(Ordering::SeqCst), source)
    }
}
