//! Address spaces of registers: which device answers a port or memory-mapped access.
//!
//! A [`Bus`] never changes once built, so vCPU threads share it without a lock. What a device serialises is its
//! own matter; [`Registers`] behind a `Mutex` is the usual way. PCI functions, which the guest may move, sit
//! behind one fixed window each (see [`crate::pci`]).

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

/// Something that answers accesses to its registers from several vCPU threads at once.
///
/// Accesses have any width from one byte on and any alignment; none may panic or block on I/O. Bytes that
/// mean nothing read as the device likes, writes to them are ignored.
pub trait BusDevice: Send + Sync {
    /// Fills `data` from the registers at `offset`, counted from the device's first address.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Writes `data` to the registers at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Registers that need exclusive access; a `Mutex` around them makes a [`BusDevice`].
pub trait Registers: Send {
    /// As [`BusDevice::read`]; reading may have effects.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// As [`BusDevice::write`].
    fn write(&mut self, offset: u64, data: &[u8]);
}

impl<T: Registers + ?Sized> BusDevice for Mutex<T> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        // A panic in a device fails its machine; until that is noticed the others go on with what is there.
        self.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
    }
}

/// A range that cannot be added to a bus.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BusError {
    /// The range is empty or reaches past the last address.
    #[error("{name} at {base:#x} cannot have a length of {length:#x}")]
    Range {
        /// The device.
        name: &'static str,
        /// Its first address.
        base: u64,
        /// Its length.
        length: u64,
    },
    /// Two devices claim an address.
    #[error("{name} at {base:#x} with length {length:#x} overlaps {other} at {other_base:#x}")]
    Overlap {
        /// The device.
        name: &'static str,
        /// Its first address.
        base: u64,
        /// Its length.
        length: u64,
        /// The device that is there already.
        other: &'static str,
        /// Its first address.
        other_base: u64,
    },
}

struct Slot {
    name: &'static str,
    base: u64,
    /// The last address: a range may end at the top of the address space.
    last: u64,
    device: Arc<dyn BusDevice>,
}

/// Collects the ranges of a [`Bus`].
#[derive(Default)]
pub struct BusBuilder {
    slots: Vec<Slot>,
}

impl BusBuilder {
    /// Gives `device`, called `name` in errors, the `length` addresses from `base` on.
    ///
    /// # Errors
    /// See [`BusError`].
    pub fn add(
        &mut self,
        name: &'static str,
        base: u64,
        length: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<&mut Self, BusError> {
        let last = length.checked_sub(1).and_then(|span| base.checked_add(span));
        let Some(last) = last else {
            return Err(BusError::Range { name, base, length });
        };
        let place = self.slots.partition_point(|slot| slot.last < base);
        if let Some(slot) = self.slots.get(place).filter(|slot| slot.base <= last) {
            return Err(BusError::Overlap { name, base, length, other: slot.name, other_base: slot.base });
        }
        self.slots.insert(place, Slot { name, base, last, device });
        Ok(self)
    }

    /// The finished bus.
    #[must_use]
    pub fn build(self) -> Bus {
        Bus { slots: self.slots.into_boxed_slice() }
    }
}

/// Fixed ranges of addresses and the devices behind them.
pub struct Bus {
    /// Sorted by address, disjoint.
    slots: Box<[Slot]>,
}

impl Bus {
    /// Starts an empty bus.
    #[must_use]
    pub fn builder() -> BusBuilder {
        BusBuilder::default()
    }

    /// Reads from `address`. Where nothing answers the whole access, all bits read as one, as on a PC.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some(slot) => slot.device.read(address - slot.base, data),
            None => data.fill(0xff),
        }
    }

    /// Writes to `address`. Where nothing answers the whole access, it is dropped.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some(slot) = self.find(address, data.len()) {
            slot.device.write(address - slot.base, data);
        }
    }

    fn find(&self, address: u64, length: usize) -> Option<&Slot> {
        let last = address.checked_add((length as u64).checked_sub(1)?)?;
        let place = self.slots.partition_point(|slot| slot.last < address);
        self.slots.get(place).filter(|slot| slot.base <= address && last <= slot.last)
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.slots.iter().map(|slot| (slot.name, slot.base..=slot.last));
        formatter.debug_map().entries(ranges).finish()
    }
}
