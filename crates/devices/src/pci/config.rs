//! The 256 bytes of a function's configuration space (PCI 3.0 §6.1) as a value: registers, and which of their bits the guest may change.
//!
//! There are no side effects here. Sizing a BAR works by itself: the bits below its size cannot be written. What
//! follows from a write, such as a BAR that moved, the function finds by looking at the value afterwards.

#[cfg(test)]
mod tests;

use thiserror::Error;

use super::bar::Bar;

/// Bytes of a conventional configuration space.
const CONFIG_BYTES: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
/// Where capabilities start: the end of the predefined header.
const CAPABILITIES_START: usize = 0x40;

/// Command: the function answers at its memory BARs.
const COMMAND_MEMORY: u16 = 1 << 1;
/// Command bits that a guest may change: memory space, bus master, parity response, SERR#, interrupt disable.
const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | 1 << 2 | 1 << 6 | 1 << 8 | 1 << 10;
/// Status: a wired interrupt is asserted, or would be.
const STATUS_INTERRUPT: u8 = 1 << 3;
/// Status: there is a list of capabilities.
const STATUS_CAPABILITIES: u8 = 1 << 4;
/// BAR type: memory, 64 bits, not prefetchable.
const BAR_MEMORY_64: u32 = 0b100;
/// The type bits of a memory BAR.
const BAR_TYPE_MASK: u64 = 0xf;
/// Byte-wide registers that are scratch space for the guest: cache line size, latency timer, interrupt line.
const SCRATCH: [usize; 3] = [0x0c, 0x0d, 0x3c];

/// Base class, subclass and programming interface (PCI 3.0 appendix D).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassCode {
    /// Base class.
    pub class: u8,
    /// Subclass.
    pub subclass: u8,
    /// Programming interface.
    pub interface: u8,
}

/// What a function says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciIdentity {
    /// Vendor.
    pub vendor: u16,
    /// Device, assigned by the vendor.
    pub device: u16,
    /// Revision, assigned by the vendor.
    pub revision: u8,
    /// What kind of device.
    pub class: ClassCode,
    /// Subsystem vendor.
    pub subsystem_vendor: u16,
    /// Subsystem, assigned by its vendor.
    pub subsystem: u16,
}

/// A capability that does not fit.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "capability {id:#04x} of {length} bytes does not fit in the {free} bytes left of the configuration space"
)]
pub struct CapabilityError {
    /// Its id.
    pub id: u8,
    /// Its length with header.
    pub length: usize,
    /// What is left.
    pub free: usize,
}

/// A conventional, type 0 configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciConfig {
    registers: [u8; CONFIG_BYTES],
    writable: [u8; CONFIG_BYTES],
    /// Size of the BAR in registers 0 and 1, zero without one.
    bar_size: u64,
    /// Where the pointer to the next capability goes.
    last_link: usize,
    /// Where the next capability goes.
    next_capability: usize,
}

impl PciConfig {
    /// A space with an identity, no BAR, no capabilities and no interrupt pin.
    #[must_use]
    pub fn new(identity: &PciIdentity) -> Self {
        let mut config = Self {
            registers: [0; CONFIG_BYTES],
            writable: [0; CONFIG_BYTES],
            bar_size: 0,
            last_link: CAPABILITIES,
            next_capability: CAPABILITIES_START,
        };
        config.set(0x00, &identity.vendor.to_le_bytes());
        config.set(0x02, &identity.device.to_le_bytes());
        let class = identity.class;
        config.set(0x08, &[identity.revision, class.interface, class.subclass, class.class]);
        config.set(0x2c, &identity.subsystem_vendor.to_le_bytes());
        config.set(0x2e, &identity.subsystem.to_le_bytes());
        config.writable[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_WRITABLE.to_le_bytes());
        for offset in SCRATCH {
            config.writable[offset] = 0xff;
        }
        config
    }

    /// Gives the function a 64-bit memory BAR (registers 0 and 1) that starts out at `bar.base`. It answers
    /// once the guest enables memory space.
    ///
    /// # Panics
    /// The size is no power of two from 16 to 2³¹ or the base no multiple of it: layouts are chosen by us.
    #[must_use]
    pub fn with_bar(mut self, bar: Bar) -> Self {
        assert!(bar.size.is_power_of_two() && (16..=1 << 31).contains(&bar.size), "size of {bar:?}");
        assert!(bar.base.is_multiple_of(bar.size), "base of {bar:?}");
        self.bar_size = bar.size;
        self.set(BAR0, &(bar.base | u64::from(BAR_MEMORY_64)).to_le_bytes());
        self.writable[BAR0..BAR0 + 8].copy_from_slice(&(!(bar.size - 1)).to_le_bytes());
        self
    }

    /// Appends a capability: `body` follows the id and the link; a set bit in `writable`, as long as `body`,
    /// is one the guest may change. Returns where the capability (its id) is.
    ///
    /// # Errors
    /// The space is full.
    ///
    /// # Panics
    /// `writable` is not as long as `body`.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<u8, CapabilityError> {
        assert_eq!(body.len(), writable.len(), "a mask for each byte");
        let offset = self.next_capability;
        let length = body.len() + 2;
        let free = CONFIG_BYTES.saturating_sub(offset);
        let place = u8::try_from(offset).ok().filter(|_| length <= free);
        let place = place.ok_or(CapabilityError { id, length, free })?;
        self.registers[self.last_link] = place;
        self.set(offset, &[id, 0]);
        self.set(offset + 2, body);
        self.writable[offset + 2..offset + length].copy_from_slice(writable);
        self.registers[STATUS] |= STATUS_CAPABILITIES;
        self.last_link = offset + 1;
        // Capabilities are aligned to four bytes (§6.7).
        self.next_capability = offset + length.next_multiple_of(4);
        Ok(place)
    }

    /// Reads any width at any offset. Past the end all bits are ones, as for a conventional device behind ECAM.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (position, byte) in data.iter_mut().enumerate() {
            let at = offset.checked_add(position).and_then(|at| self.registers.get(at));
            *byte = at.copied().unwrap_or(0xff);
        }
    }

    /// Writes any width at any offset; only bits that the guest may change do change.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (position, value) in data.iter().enumerate() {
            let Some(at) = offset.checked_add(position).filter(|at| *at < CONFIG_BYTES) else {
                return;
            };
            let mask = self.writable[at];
            self.registers[at] = self.registers[at] & !mask | value & mask;
        }
    }

    /// Whether the function answers at its memory BAR.
    #[must_use]
    pub fn memory_enabled(&self) -> bool {
        u16::from_le_bytes([self.registers[COMMAND], self.registers[COMMAND + 1]]) & COMMAND_MEMORY != 0
    }

    /// Where the memory BAR is, whether it is enabled or not; `None` without one.
    #[must_use]
    pub fn bar(&self) -> Option<Bar> {
        let base = u64::from_le_bytes(self.array(BAR0)) & !BAR_TYPE_MASK;
        (self.bar_size > 0).then_some(Bar { base, size: self.bar_size })
    }

    /// A little-endian word, for functions that look at their own capabilities.
    #[must_use]
    pub fn u16_at(&self, offset: u8) -> u16 {
        u16::from_le_bytes(self.array(offset.into()))
    }

    /// A little-endian double word, as [`PciConfig::u16_at`].
    #[must_use]
    pub fn u32_at(&self, offset: u8) -> u32 {
        u32::from_le_bytes(self.array(offset.into()))
    }

    /// Changes what the guest reads at `offset`, writable or not. Bytes past the end are dropped.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) {
        for (register, byte) in self.registers.iter_mut().skip(offset).zip(bytes) {
            *register = *byte;
        }
    }

    /// Sets or clears the status bit of a wired interrupt (§6.2.3), which also exists without a pin.
    pub fn set_interrupt_status(&mut self, asserted: bool) {
        let status = &mut self.registers[STATUS];
        *status = if asserted { *status | STATUS_INTERRUPT } else { *status & !STATUS_INTERRUPT };
    }

    /// Some bytes; those past the end are zero.
    fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        std::array::from_fn(|position| self.registers.get(offset + position).copied().unwrap_or(0))
    }
}
