//! What vCPU threads and devices tell the event loop: that the guest was entered, that it wrote its first byte, that
//! its kernel panicked, that it read a press of its power button, that the machine ended and how.
//!
//! Each is told once, the first teller winning, but for presses; the loop is woken by an eventfd and looks here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Instant;

use devices::acpi::PowerButtonReports;
use devices::power::PowerRequests;
use devices::pvpanic::PanicReports;
use devices::watchdog::WatchdogReports;
use rustix::event::{EventfdFlags, eventfd};
use vm_model::{GuestPanic, MachineExit, ResetSource};

/// The values of [`Outcome::panic`], by gravity.
const CRASH_KERNEL_LOADED: u8 = 1;
const PANICKED: u8 = 2;

/// One machine's news.
#[derive(Debug)]
pub(crate) struct Outcome {
    exit: OnceLock<MachineExit>,
    first_entry: OnceLock<Instant>,
    first_console_byte: OnceLock<Instant>,
    /// The gravest report: 0 for none, or one of the constants below.
    panic: AtomicU8,
    power_button_seen: AtomicBool,
    bell: OwnedFd,
}

impl Outcome {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            exit: OnceLock::new(),
            first_entry: OnceLock::new(),
            first_console_byte: OnceLock::new(),
            panic: AtomicU8::new(0),
            power_button_seen: AtomicBool::new(false),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// The machine ended. Later ends are consequences of the first and are dropped.
    pub(crate) fn conclude(&self, exit: MachineExit) {
        if self.exit.set(exit).is_ok() {
            self.ring();
        }
    }

    /// Whether the machine ended.
    pub(crate) fn is_concluded(&self) -> bool {
        self.exit.get().is_some()
    }

    /// How the machine ended, if it did.
    pub(crate) fn exit(&self) -> Option<&MachineExit> {
        self.exit.get()
    }

    /// The first vCPU is about to be entered for the first time.
    pub(crate) fn first_entry(&self) {
        if self.first_entry.set(Instant::now()).is_ok() {
            self.ring();
        }
    }

    /// When the first vCPU was entered.
    pub(crate) fn first_entry_at(&self) -> Option<Instant> {
        self.first_entry.get().copied()
    }

    /// The guest wrote to its console for the first time.
    pub(crate) fn first_console_byte(&self) {
        if self.first_console_byte.set(Instant::now()).is_ok() {
            self.ring();
        }
    }

    /// When the guest first wrote to its console.
    pub(crate) fn first_console_byte_at(&self) -> Option<Instant> {
        self.first_console_byte.get().copied()
    }

    /// What the guest's kernel told of its end; a report that a crash kernel takes over may be followed by a graver one.
    pub(crate) fn guest_panic(&self) -> Option<GuestPanic> {
        match self.panic.load(Ordering::SeqCst) {
            0 => None,
            CRASH_KERNEL_LOADED => Some(GuestPanic::CrashKernelLoaded),
            _ => Some(GuestPanic::Panicked),
        }
    }

    /// Whether the guest has read a press of its power button since this was asked last.
    pub(crate) fn take_power_button_seen(&self) -> bool {
        self.power_button_seen.swap(false, Ordering::SeqCst)
    }

    /// Readable, edge-triggered, when there is news.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn ring(&self) {
        // The counter cannot overflow: each piece of news comes once, or once for each press of a button.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

impl PanicReports for Outcome {
    fn guest_panicked(&self, report: GuestPanic) {
        let gravity = match report {
            GuestPanic::CrashKernelLoaded => CRASH_KERNEL_LOADED,
            GuestPanic::Panicked => PANICKED,
        };
        if self.panic.fetch_max(gravity, Ordering::SeqCst) < gravity {
            self.ring();
        }
    }
}

impl PowerButtonReports for Outcome {
    fn power_button_seen(&self) {
        self.power_button_seen.store(true, Ordering::SeqCst);
        self.ring();
    }
}

impl WatchdogReports for Outcome {
    fn watchdog_expired(&self) {
        self.conclude(MachineExit::Reset(ResetSource::Watchdog));
    }
}

impl PowerRequests for Outcome {
    fn power_off(&self) {
        self.conclude(MachineExit::PoweredOff);
    }

    fn reset(&self, source: ResetSource) {
        self.conclude(MachineExit::Reset(source));
    }
}
