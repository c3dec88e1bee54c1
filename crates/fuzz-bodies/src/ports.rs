//! The machine around a device, as far as a body needs one: ports that hold the device to their contracts.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use devices::acpi::PowerButtonReports;
use devices::ports::{Doorbells, LineInterrupt, MessageInterrupts, MsiMessage};
use devices::power::PowerRequests;
use devices::pvpanic::PanicReports;
use devices::serial::ConsoleSink;
use devices::virtio::queue::QueueInterrupt;
use devices::watchdog::WatchdogReports;
use vm_model::{GuestPanic, ResetSource};
use vmm_sys_util::eventfd::EventFd;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An interrupt that the host delivers, or refuses now and then.
pub(crate) struct Line {
    refuses: bool,
    edges: AtomicU32,
}

impl Line {
    /// A line whose every second edge is refused, if `refuses`.
    pub(crate) fn new(refuses: bool) -> Self {
        Self { refuses, edges: AtomicU32::new(0) }
    }
}

impl LineInterrupt for Line {
    fn trigger(&self) -> io::Result<()> {
        if self.edges.fetch_add(1, Ordering::Relaxed) % 2 == 1 && self.refuses {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(())
    }
}

impl QueueInterrupt for Line {
    fn trigger(&self) {
        self.edges.fetch_add(1, Ordering::Relaxed);
    }
}

/// Vectors of one function. A vector that does not exist must never get here.
pub(crate) struct Messages {
    programmed: Mutex<Vec<Option<MsiMessage>>>,
}

impl Messages {
    pub(crate) fn new(count: u16) -> Self {
        Self { programmed: Mutex::new(vec![None; usize::from(count)]) }
    }
}

impl MessageInterrupts for Messages {
    fn count(&self) -> u16 {
        u16::try_from(lock(&self.programmed).len()).expect("made from 16 bits")
    }

    fn program(&self, vector: u16, message: MsiMessage) -> io::Result<()> {
        lock(&self.programmed)[usize::from(vector)] = Some(message);
        Ok(())
    }

    fn trigger(&self, vector: u16) -> io::Result<()> {
        let programmed = lock(&self.programmed)[usize::from(vector)];
        assert!(programmed.is_some(), "vector {vector} was never programmed");
        Ok(())
    }

    fn event(&self, _vector: u16) -> io::Result<&EventFd> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Doorbells as KVM has them: an address has one at most, and their number is limited.
pub(crate) struct Bells {
    attached: Mutex<BTreeSet<u64>>,
    most: usize,
}

impl Bells {
    /// Room for `most` doorbells.
    pub(crate) fn new(most: usize) -> Self {
        Self { attached: Mutex::default(), most }
    }

    pub(crate) fn addresses(&self) -> Vec<u64> {
        lock(&self.attached).iter().copied().collect()
    }
}

impl Doorbells for Bells {
    fn attach(&self, address: u64, _bell: &EventFd) -> io::Result<()> {
        let mut attached = lock(&self.attached);
        if attached.len() >= self.most {
            return Err(io::ErrorKind::StorageFull.into());
        }
        assert!(attached.insert(address), "two doorbells at {address:#x}");
        Ok(())
    }

    fn detach(&self, address: u64, _bell: &EventFd) -> io::Result<()> {
        assert!(lock(&self.attached).remove(&address), "no doorbell at {address:#x}");
        Ok(())
    }
}

/// Forgets what the guest writes and asks for.
pub(crate) struct Nowhere;

impl ConsoleSink for Nowhere {
    fn write(&mut self, _bytes: &[u8]) {}
}

impl PowerButtonReports for Nowhere {
    fn power_button_seen(&self) {}
}

impl WatchdogReports for Nowhere {
    fn watchdog_expired(&self) {}
}

impl PanicReports for Nowhere {
    fn guest_panicked(&self, _report: GuestPanic) {}
}

impl PowerRequests for Nowhere {
    fn power_off(&self) {}

    fn reset(&self, _source: ResetSource) {}
}
