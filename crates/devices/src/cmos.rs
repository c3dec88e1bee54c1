//! The real-time clock and its battery-backed bytes at ports 0x70 and 0x71 (an MC146818 as PCs have it).
//!
//! The clock shows the host's UTC and cannot be set; there are no alarms and no interrupts. Kernels read it once
//! at boot. The ACPI century register is [`CENTURY_REGISTER`].

#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use vm_model::CalendarTime;

use crate::bus::BusDevice;

/// Ports: index and data.
pub const CMOS_LENGTH: u64 = 2;
/// Where the century is, for the FADT's `CENTURY` field.
pub const CENTURY_REGISTER: u8 = 0x32;

const INDEX_PORT: u64 = 0;
const DATA_PORT: u64 = 1;

/// The index port's upper bit masks NMIs and is not part of the index.
const INDEX_MASK: u8 = 0x7f;
const REGISTER_COUNT: usize = 128;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY_OF_WEEK: u8 = 0x06;
const DAY_OF_MONTH: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;

/// The 32,768 Hz time base with 1,024 Hz rate; "update in progress" is never set.
const STATUS_A_VALUE: u8 = 0x26;
const STATUS_B_24_HOURS: u8 = 1 << 1;
const STATUS_B_BINARY: u8 = 1 << 2;
/// The time and the bytes below are valid.
const STATUS_D_VALUE: u8 = 1 << 7;
const HOURS_AFTERNOON: u8 = 1 << 7;

/// Tells the time. A port, so that tests choose it.
pub type WallClock = Box<dyn Fn() -> SystemTime + Send + Sync>;

/// The clock chip.
pub struct Cmos {
    clock: WallClock,
    /// Leaf lock, held for single register accesses only.
    state: Mutex<State>,
}

struct State {
    index: u8,
    /// What the guest wrote; registers of the clock are never read from here, except status B.
    stored: [u8; REGISTER_COUNT],
}

impl Cmos {
    /// A chip that shows the host's time.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Box::new(SystemTime::now))
    }

    /// A chip that shows the time of `clock`, in 24-hour BCD until the guest chooses otherwise.
    #[must_use]
    pub fn with_clock(clock: WallClock) -> Self {
        let mut stored = [0; REGISTER_COUNT];
        stored[usize::from(STATUS_B)] = STATUS_B_24_HOURS;
        Self { clock, state: Mutex::new(State { index: 0, stored }) }
    }

    fn read_register(&self, state: &State) -> u8 {
        let format = Format(state.stored[usize::from(STATUS_B)]);
        let now = || CalendarTime::of((self.clock)());
        match state.index {
            SECONDS => format.number(now().second),
            MINUTES => format.number(now().minute),
            HOURS => format.hours(now().hour),
            DAY_OF_WEEK => format.number(now().day_of_week),
            DAY_OF_MONTH => format.number(now().day),
            MONTH => format.number(now().month),
            YEAR => format.number(now().year_of_century()),
            CENTURY_REGISTER => format.number(now().century()),
            STATUS_A => STATUS_A_VALUE,
            STATUS_C => 0,
            STATUS_D => STATUS_D_VALUE,
            index => state.stored[usize::from(index)],
        }
    }
}

impl Default for Cmos {
    fn default() -> Self {
        Self::new()
    }
}

impl BusDevice for Cmos {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (position, byte) in data.iter_mut().enumerate() {
            *byte = match offset.saturating_add(position as u64) {
                INDEX_PORT => state.index,
                DATA_PORT => self.read_register(&state),
                _ => 0xff,
            };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (position, byte) in data.iter().enumerate() {
            match offset.saturating_add(position as u64) {
                INDEX_PORT => state.index = byte & INDEX_MASK,
                DATA_PORT => {
                    let index = usize::from(state.index);
                    state.stored[index] = *byte;
                }
                _ => {}
            }
        }
    }
}

/// How the guest wants numbers: status register B.
#[derive(Clone, Copy)]
struct Format(u8);

impl Format {
    /// `value`, below 100, in binary or as two decimal digits.
    fn number(self, value: u8) -> u8 {
        if self.0 & STATUS_B_BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn hours(self, hour: u8) -> u8 {
        if self.0 & STATUS_B_24_HOURS != 0 {
            return self.number(hour);
        }
        let on_the_dial = match hour % 12 {
            0 => 12,
            other => other,
        };
        self.number(on_the_dial) | if hour >= 12 { HOURS_AFTERNOON } else { 0 }
    }
}
