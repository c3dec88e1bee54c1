//! The registers of a hardware-reduced ACPI platform (ACPI 6.4 §4.1, §4.8.3.7, §5.6.9): sleep and reset in one
//! byte, and the generic event device by which the machine presses the guest's power button and tells of a new generation.
//!
//! The tables that tell the guest where these registers are belong to the machine, as does what happens to a
//! guest that asks to be switched off.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vm_model::ResetSource;

use crate::bus::BusDevice;
use crate::ports::LineInterrupt;
use crate::power::PowerRequests;

/// Bytes of the sleep and reset register.
pub const SLEEP_REGISTER_LENGTH: u64 = 1;
/// What a guest writes to enter the sleep type [`S5_SLEEP_TYPE`]: the type in bits 2–4 and `SLP_EN`, bit 5.
pub const POWER_OFF_VALUE: u8 = (S5_SLEEP_TYPE << 2) | 1 << 5;
/// The sleep type of S5 that the machine's `_S5` object must name.
pub const S5_SLEEP_TYPE: u8 = 5;
/// What a guest writes to be reset, for the FADT's `RESET_VALUE`.
pub const RESET_VALUE: u8 = 1;

/// The sleep control, sleep status and reset registers, all in one byte.
pub struct SleepRegister {
    requests: Arc<dyn PowerRequests>,
}

impl SleepRegister {
    /// A register whose requests go to `requests`.
    #[must_use]
    pub fn new(requests: Arc<dyn PowerRequests>) -> Self {
        Self { requests }
    }
}

impl BusDevice for SleepRegister {
    /// Reads as a sleep status register of a machine that has not been woken: zero.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    /// Takes the first byte. Other sleep types than S5's, which no table offers, are ignored.
    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data.first()) {
            (0, Some(&POWER_OFF_VALUE)) => self.requests.power_off(),
            (0, Some(&RESET_VALUE)) => self.requests.reset(ResetSource::Acpi),
            _ => {}
        }
    }
}

/// Bytes of the event device's registers.
pub const EVENT_DEVICE_LENGTH: u64 = 4;
/// The event register's bit for a pressed power button.
pub const POWER_BUTTON_EVENT: u32 = 1 << 0;
/// The event register's bit for a changed generation identifier.
pub const GENERATION_EVENT: u32 = 1 << 1;

/// What an event device tells of its guest.
///
/// Called on a vCPU thread in the middle of the guest's register read: an implementation takes a note, wakes whoever is
/// interested, and returns.
pub trait PowerButtonReports: Send + Sync {
    /// The guest has read that its power button was pressed. Once for each press at most.
    fn power_button_seen(&self);
}

/// The generic event device: one little-endian 32-bit register of pending events, cleared by reading it.
///
/// Its method in the DSDT reads the register and notifies the objects that the set bits stand for.
pub struct EventDevice {
    pending: AtomicU32,
    interrupt: Arc<dyn LineInterrupt>,
    reports: Arc<dyn PowerButtonReports>,
}

impl EventDevice {
    /// An event device with nothing pending, which tells `reports` of events that the guest has read.
    #[must_use]
    pub fn new(interrupt: Arc<dyn LineInterrupt>, reports: Arc<dyn PowerButtonReports>) -> Self {
        Self { pending: AtomicU32::new(0), interrupt, reports }
    }

    /// Presses the power button. Pressing it again before the guest has read the event is the same press, but interrupts
    /// the guest again: an edge that came while its interrupt was masked is lost, the event is not.
    ///
    /// # Errors
    /// The host refused the interrupt; the event stays pending.
    pub fn press_power_button(&self) -> io::Result<()> {
        self.raise(POWER_BUTTON_EVENT)
    }

    /// Tells the guest that its generation identifier is another one now.
    ///
    /// # Errors
    /// As [`EventDevice::press_power_button`].
    pub fn announce_generation(&self) -> io::Result<()> {
        self.raise(GENERATION_EVENT)
    }

    /// Whether the guest has still to read that its power button was pressed.
    #[must_use]
    pub fn is_power_button_pending(&self) -> bool {
        self.pending.load(Ordering::SeqCst) & POWER_BUTTON_EVENT != 0
    }

    fn raise(&self, event: u32) -> io::Result<()> {
        self.pending.fetch_or(event, Ordering::SeqCst);
        self.interrupt.trigger()
    }

    /// Forgets events that the guest did not look at. For a machine's reset.
    pub fn reset(&self) {
        self.pending.store(0, Ordering::SeqCst);
    }

    /// Takes the pending events among the register's bytes `offset..offset + length`.
    fn take(&self, offset: u64, length: usize) -> [u8; 4] {
        let mut mask = [0; 4];
        for (position, byte) in (0u64..).zip(&mut mask) {
            if position >= offset && position - offset < length as u64 {
                *byte = 0xff;
            }
        }
        let mask = u32::from_le_bytes(mask);
        (self.pending.fetch_and(!mask, Ordering::SeqCst) & mask).to_le_bytes()
    }
}

impl BusDevice for EventDevice {
    /// Clears the events in the bytes that are read, and no others.
    fn read(&self, offset: u64, data: &mut [u8]) {
        let events = self.take(offset, data.len());
        if u32::from_le_bytes(events) & POWER_BUTTON_EVENT != 0 {
            self.reports.power_button_seen();
        }
        data.fill(0);
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        let register = events.get(skipped..).unwrap_or(&[]);
        for (byte, event) in data.iter_mut().zip(register) {
            *byte = *event;
        }
    }

    /// The register is read-only.
    fn write(&self, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests;
