//! The watchdog's registers as a value, and what a write to them asks for.

use std::time::Duration;

use super::stages::Lengths;

/// Offsets in configuration space.
const CONFIGURATION: usize = 0x60;
const LOCK: usize = 0x68;
/// Offsets in the BAR.
const PRELOAD: [u64; 2] = [0x0, 0x4];
const INTERRUPT: u64 = 0x8;
const RELOAD: u64 = 0xc;

/// Configuration: the interrupt of the first stage, 0 for a wired one.
const INTERRUPT_TYPE: u16 = 0b11;
/// Configuration: counts in microseconds, about, instead of milliseconds.
const FAST: u16 = 1 << 2;
/// Configuration: an expiry resets nothing.
const OUTPUT_OFF: u16 = 1 << 5;
const CONFIGURATION_BITS: u16 = INTERRUPT_TYPE | FAST | OUTPUT_OFF;

/// Lock: this register keeps its value.
const LOCKED: u8 = 1 << 0;
/// Lock: the timer runs.
const ENABLED: u8 = 1 << 1;
/// Lock: the timer runs for itself and resets nothing.
const FREE_RUNNING: u8 = 1 << 2;
const LOCK_BITS: u8 = LOCKED | ENABLED | FREE_RUNNING;

/// Reload: what unlocks the next write, in this order.
const UNLOCK: [u16; 2] = [0x80, 0x86];
/// Reload: begin with the first stage again.
const RELOAD_TIMER: u16 = 1 << 8;
/// Reload: the second stage was over; writing it clears it.
const TIMED_OUT: u16 = 1 << 9;

/// Bits of a preload value.
const PRELOAD_BITS: u32 = 0xf_ffff;
/// Preload values after a reset.
const PRELOAD_RESET: u32 = 0xf_ffff;
/// A tick is so many periods of PCI's clock, each of 30 ns.
const SLOW_TICK: Duration = Duration::from_nanos(30 << 15);
const FAST_TICK: Duration = Duration::from_nanos(30 << 5);

/// How far the guest is with unlocking the next write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unlocking {
    Locked,
    Begun,
    Unlocked,
}

/// What a write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    Start,
    Stop,
    Reload,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registers {
    configuration: u16,
    lock: u8,
    preload: [u32; 2],
    unlocking: Unlocking,
    interrupt_active: bool,
    timed_out: bool,
}

impl Default for Registers {
    fn default() -> Self {
        Self {
            configuration: 0,
            lock: 0,
            preload: [PRELOAD_RESET; 2],
            unlocking: Unlocking::Locked,
            interrupt_active: false,
            timed_out: false,
        }
    }
}

impl Registers {
    /// How long each stage takes now.
    pub(super) fn lengths(&self) -> Lengths {
        let tick = if self.configuration & FAST == 0 { SLOW_TICK } else { FAST_TICK };
        // At most 2^20 ticks of a millisecond.
        self.preload.map(|preload| tick * (preload + 1))
    }

    /// Whether an expiry resets the machine.
    pub(super) fn resets(&self) -> bool {
        self.configuration & OUTPUT_OFF == 0
    }

    pub(super) fn first_stage_over(&mut self) {
        self.interrupt_active |= self.configuration & INTERRUPT_TYPE == 0;
    }

    pub(super) fn second_stage_over(&mut self) {
        self.timed_out = true;
    }

    /// Puts the function's own registers over `data`, which is configuration space from `offset` on.
    pub(super) fn read_config(&self, offset: usize, data: &mut [u8]) {
        let [low, high] = self.configuration.to_le_bytes();
        for (place, value) in [(CONFIGURATION, low), (CONFIGURATION + 1, high), (LOCK, self.lock)] {
            if let Some(byte) = place.checked_sub(offset).and_then(|position| data.get_mut(position)) {
                *byte = value;
            }
        }
    }

    pub(super) fn write_config(&mut self, offset: usize, data: &[u8]) -> Effect {
        let written =
            |place: usize| place.checked_sub(offset).and_then(|position| data.get(position)).copied();
        let [low, high] = self.configuration.to_le_bytes();
        let configuration =
            [written(CONFIGURATION).unwrap_or(low), written(CONFIGURATION + 1).unwrap_or(high)];
        self.configuration = u16::from_le_bytes(configuration) & CONFIGURATION_BITS;
        match written(LOCK) {
            Some(value) if self.lock & LOCKED == 0 => self.set_lock(value & LOCK_BITS),
            _ => Effect::Nothing,
        }
    }

    /// Running freely, the timer has no effect that a guest could see: it counts as stopped.
    fn set_lock(&mut self, value: u8) -> Effect {
        let runs = |lock: u8| lock & (ENABLED | FREE_RUNNING) == ENABLED;
        let ran = runs(std::mem::replace(&mut self.lock, value));
        match (ran, runs(value)) {
            (false, true) => Effect::Start,
            (true, false) => Effect::Stop,
            (false, false) | (true, true) => Effect::Nothing,
        }
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let mut space = [0; 16];
        let reload = if self.timed_out { TIMED_OUT } else { 0 };
        let words = [self.preload[0], self.preload[1], self.interrupt_active.into(), reload.into()];
        for (bytes, word) in space.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let start = usize::try_from(offset).unwrap_or(space.len());
        for (position, byte) in data.iter_mut().enumerate() {
            *byte = start.checked_add(position).and_then(|at| space.get(at)).copied().unwrap_or(0);
        }
    }

    /// Takes whole registers: four bytes of a preload value, the first bytes of the others.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let mut bytes = [0; 4];
        for (place, byte) in bytes.iter_mut().zip(data) {
            *place = *byte;
        }
        let value = u32::from_le_bytes(bytes);
        let [low, high, ..] = bytes;
        let unlocked = self.unlocking == Unlocking::Unlocked;
        match offset {
            RELOAD => return self.write_reload(u16::from_le_bytes([low, high])),
            INTERRUPT => self.interrupt_active &= low & 1 == 0,
            _ if data.len() == 4 && unlocked => {
                for (place, preload) in PRELOAD.into_iter().zip(&mut self.preload) {
                    if offset == place {
                        *preload = value & PRELOAD_BITS;
                    }
                }
                self.unlocking = Unlocking::Locked;
            }
            _ => {}
        }
        Effect::Nothing
    }

    fn write_reload(&mut self, value: u16) -> Effect {
        let [first, second] = UNLOCK;
        match (self.unlocking, value) {
            // Also where the last unlocking was not used: drivers unlock before they read.
            (_, value) if value == first => self.unlocking = Unlocking::Begun,
            (Unlocking::Begun, value) if value == second => self.unlocking = Unlocking::Unlocked,
            (Unlocking::Locked | Unlocking::Begun, _) => self.unlocking = Unlocking::Locked,
            (Unlocking::Unlocked, _) => {
                self.unlocking = Unlocking::Locked;
                self.timed_out &= value & TIMED_OUT == 0;
                if value & RELOAD_TIMER != 0 {
                    return Effect::Reload;
                }
            }
        }
        Effect::Nothing
    }
}
