//! The panic device: one I/O port to which a guest's kernel writes that it has panicked (QEMU's
//! `docs/specs/pvpanic`, the ISA form, found by Linux through the ACPI id `QEMU0001`).
//!
//! What becomes of a guest that panicked is decided elsewhere.

use std::sync::Arc;

use vm_model::GuestPanic;

use crate::bus::BusDevice;

/// Bytes of its register.
pub const PVPANIC_LENGTH: u64 = 1;
/// The guest panicked and leaves it to its host what happens now.
const PANICKED: u8 = 1 << 0;
/// The guest panicked and starts a crash kernel that was loaded before.
const CRASH_LOADED: u8 = 1 << 1;

/// Where reports go.
///
/// Called on a vCPU thread in the middle of the guest's register write, as often as the guest likes.
pub trait PanicReports: Send + Sync {
    /// The guest reports.
    fn guest_panicked(&self, report: GuestPanic);
}

/// The panic device's register.
pub struct PanicDevice {
    reports: Arc<dyn PanicReports>,
}

impl PanicDevice {
    /// A device whose reports go to `reports`.
    #[must_use]
    pub fn new(reports: Arc<dyn PanicReports>) -> Self {
        Self { reports }
    }
}

impl BusDevice for PanicDevice {
    /// Reads as the events that may be written.
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let (0, Some(first)) = (offset, data.first_mut()) {
            *first = PANICKED | CRASH_LOADED;
        }
    }

    /// Takes the first byte. Of both events at once the panic counts; others, which are not offered, are ignored.
    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data.first()) {
            (0, Some(events)) if events & PANICKED != 0 => self.reports.guest_panicked(GuestPanic::Panicked),
            (0, Some(events)) if events & CRASH_LOADED != 0 => {
                self.reports.guest_panicked(GuestPanic::CrashKernelLoaded);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    #[derive(Default)]
    struct Recorded(Mutex<Vec<GuestPanic>>);

    impl PanicReports for Recorded {
        fn guest_panicked(&self, report: GuestPanic) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(report);
        }
    }

    #[test]
    fn offered_events_are_reported_and_others_are_not() {
        let recorded = Arc::new(Recorded::default());
        let device = PanicDevice::new(recorded.clone());
        let mut offered = [0xff; 2];
        device.read(0, &mut offered);
        assert_eq!(offered, [0b11, 0]);
        for event in 0..=u8::MAX {
            device.write(0, &[event, 0]);
            let expected = match event & 0b11 {
                0 => None,
                0b10 => Some(GuestPanic::CrashKernelLoaded),
                _ => Some(GuestPanic::Panicked),
            };
            assert_eq!(recorded.0.lock().unwrap().pop(), expected, "event {event:#x}");
        }
        device.write(1, &[1]);
        device.write(0, &[]);
        assert_eq!(*recorded.0.lock().unwrap(), []);
    }
}
