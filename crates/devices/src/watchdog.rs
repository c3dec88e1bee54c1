//! A watchdog that guests have a driver for: the timer of Intel's 6300ESB I/O controller hub (its data sheet, chapter 16;
//! `i6300esb` in Linux), a PCI function with four registers in its BAR.
//!
//! ```text
//! vCPU threads ──registers──→ WatchdogDevice ──WatchdogReports──→ whoever resets the machine
//! event loop ──timer_event──→       ↑ freeze, thaw ←── event loop, around a pause
//! ```
//!
//! Of what the hardware does when the first stage is over, nothing is delivered: drivers turn its interrupts off. What
//! becomes of a machine whose second stage is over is decided elsewhere.

mod registers;
mod stages;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use crate::pci::{Bar, ClassCode, PciConfig, PciFunction, PciIdentity};
use crate::timer::OneShotTimer;
use registers::{Effect, Registers};
use stages::{Countdown, Outcome};

/// Bytes of its BAR.
pub const WATCHDOG_BAR_BYTES: u64 = 16;

const IDENTITY: PciIdentity = PciIdentity {
    vendor: 0x8086,
    device: 0x25ab,
    revision: 0,
    class: ClassCode { class: 0x08, subclass: 0x80, interface: 0x00 },
    subsystem_vendor: 0,
    subsystem: 0,
};

/// Where it is told that the guest let its watchdog expire.
///
/// Called on the event loop's thread, at most once each time the guest sets the watchdog going.
pub trait WatchdogReports: Send + Sync {
    /// The guest did not reload its watchdog in time.
    fn watchdog_expired(&self);
}

/// The watchdog: a PCI function for vCPU threads, a timer for the event loop.
pub struct WatchdogDevice {
    config: PciConfig,
    registers: Registers,
    countdown: Countdown,
    timer: OneShotTimer,
    reports: Arc<dyn WatchdogReports>,
}

impl WatchdogDevice {
    /// A watchdog that does not run, with its BAR at `bar_base`, a multiple of [`WATCHDOG_BAR_BYTES`].
    ///
    /// # Errors
    /// The process or the host has no file descriptor left.
    ///
    /// # Panics
    /// The base is no such multiple: layouts are chosen by us.
    pub fn new(bar_base: u64, reports: Arc<dyn WatchdogReports>) -> io::Result<Self> {
        Ok(Self {
            config: PciConfig::new(&IDENTITY).with_bar(Bar { base: bar_base, size: WATCHDOG_BAR_BYTES }),
            registers: Registers::default(),
            countdown: Countdown::default(),
            timer: OneShotTimer::new()?,
            reports,
        })
    }

    /// Readable, to be watched edge-triggered, when [`WatchdogDevice::handle_timer`] is to be called.
    #[must_use]
    pub fn timer_event(&self) -> BorrowedFd<'_> {
        self.timer.fd()
    }

    /// The timer is over, or may be.
    pub fn handle_timer(&mut self, now: Instant) {
        match self.countdown.advance(now, &self.registers.lengths()) {
            Outcome::Nothing => {}
            Outcome::FirstStage => self.registers.first_stage_over(),
            Outcome::Expired => {
                self.registers.first_stage_over();
                self.registers.second_stage_over();
                if self.registers.resets() {
                    self.reports.watchdog_expired();
                }
            }
        }
        self.arm(now);
    }

    /// Stops its time: the guest cannot reload it while its vCPUs are parked. Idempotent.
    pub fn freeze(&mut self, now: Instant) {
        self.countdown.freeze(now);
        self.arm(now);
    }

    /// Lets its time go on. Idempotent.
    pub fn thaw(&mut self, now: Instant) {
        self.countdown.thaw(now);
        self.arm(now);
    }

    fn follow(&mut self, effect: Effect, now: Instant) {
        match effect {
            Effect::Nothing => return,
            Effect::Stop => self.countdown.stop(),
            Effect::Start => self.countdown.start(now, &self.registers.lengths()),
            Effect::Reload => self.countdown.reload(now, &self.registers.lengths()),
        }
        self.arm(now);
    }

    fn arm(&self, now: Instant) {
        self.timer.arm(self.countdown.ends().map(|ends| ends.saturating_duration_since(now)));
    }
}

impl PciFunction for WatchdogDevice {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.config.read(offset, data);
        self.registers.read_config(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        let effect = self.registers.write_config(offset, data);
        self.follow(effect, Instant::now());
    }

    fn decoded_bar(&self) -> Option<Bar> {
        self.config.bar().filter(|_| self.config.memory_enabled())
    }

    fn place_bar(&mut self, _base: Option<u64>) {}

    fn read_bar(&mut self, offset: u64, data: &mut [u8]) {
        self.registers.read(offset, data);
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) {
        let effect = self.registers.write(offset, data);
        self.follow(effect, Instant::now());
    }
}

#[cfg(test)]
mod tests;
