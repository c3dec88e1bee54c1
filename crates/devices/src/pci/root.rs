//! The root of the one PCI bus: finds the function that an access is for.
//!
//! A guest reaches functions through three windows: the configuration ports (PCI 3.0 §3.2.2.3.2), the memory-mapped
//! configuration space of PCI Express (ECAM), and the memory window in which BARs are placed.
//!
//! Lock order: `address` alone; `routes`, then one function. A function may take locks of its own below that and
//! must not call back.

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use super::bar::Bar;
use super::host_bridge::HostBridge;
use crate::bus::BusDevice;

/// Slots of the bus, numbered from zero.
pub const PCI_SLOTS: u8 = 32;

/// Bytes of ECAM a function (PCI Express 5.0 §7.2.2).
const ECAM_FUNCTION_BYTES: u64 = 4096;
/// Functions a slot in ECAM's numbering.
const FUNCTIONS_PER_SLOT: u64 = 8;
/// Configuration address: the data port reaches configuration space.
const ADDRESS_ENABLE: u32 = 1 << 31;
/// Bytes of the address port; the data port follows.
const ADDRESS_BYTES: u64 = 4;

/// A function behind the root. Methods are called with exclusive access, from vCPU threads.
pub trait PciFunction: Send {
    /// Reads configuration space; `offset` is below 4096, any width.
    fn read_config(&mut self, offset: usize, data: &mut [u8]);

    /// Writes configuration space; `offset` is below 4096, any width. The root then looks at
    /// [`PciFunction::decoded_bar`] and calls [`PciFunction::place_bar`] if that changed anything.
    fn write_config(&mut self, offset: usize, data: &[u8]);

    /// The BAR that the function answers at by its registers: `None` while memory space is disabled.
    fn decoded_bar(&self) -> Option<Bar>;

    /// The BAR is reachable at `base` from now on, or no longer. Idempotent.
    fn place_bar(&mut self, base: Option<u64>);

    /// Reads `data.len()` bytes at `offset` of the BAR, wholly within it.
    fn read_bar(&mut self, offset: u64, data: &mut [u8]);

    /// Writes to the BAR, as [`PciFunction::read_bar`].
    fn write_bar(&mut self, offset: u64, data: &[u8]);
}

/// A function that cannot be added.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PciRootError {
    /// There is no such slot.
    #[error("pci slot {slot} does not exist, slots are 0 to 31")]
    NoSuchSlot {
        /// The slot.
        slot: u8,
    },
    /// The slot has a function already.
    #[error("pci slot {slot} is taken")]
    SlotTaken {
        /// The slot.
        slot: u8,
    },
}

type Function = Arc<Mutex<dyn PciFunction>>;

/// The bus and its functions. Functions are added while the machine is built; from then on it is shared.
pub struct PciRoot {
    window: Range<u64>,
    functions: [Option<Function>; PCI_SLOTS as usize],
    /// Where each function's BAR can be reached: within the window and free of others. Held across a whole
    /// configuration write, so that two vCPUs cannot leave a stale route.
    routes: Mutex<[Option<Bar>; PCI_SLOTS as usize]>,
    /// What the guest wrote to the configuration address port.
    address: Mutex<u32>,
}

impl PciRoot {
    /// A bus with a host bridge in slot 0, whose functions may be reached at addresses within `window`.
    #[must_use]
    pub fn new(window: Range<u64>) -> Self {
        let mut functions = [const { None }; PCI_SLOTS as usize];
        let bridge: Function = Arc::new(Mutex::new(HostBridge::default()));
        functions[0] = Some(bridge);
        Self { window, functions, routes: Mutex::new([None; PCI_SLOTS as usize]), address: Mutex::new(0) }
    }

    /// Puts `function` into `slot`.
    ///
    /// # Errors
    /// See [`PciRootError`].
    pub fn add(&mut self, slot: u8, function: Arc<Mutex<dyn PciFunction>>) -> Result<(), PciRootError> {
        let place = self.functions.get_mut(usize::from(slot)).ok_or(PciRootError::NoSuchSlot { slot })?;
        if place.is_some() {
            return Err(PciRootError::SlotTaken { slot });
        }
        *place = Some(function);
        // It may come with memory space enabled already.
        self.route(usize::from(slot), &mut lock(&self.routes));
        Ok(())
    }

    fn read_config(&self, slot: u64, offset: usize, data: &mut [u8]) {
        match self.function(slot) {
            Some((_slot, function)) => lock(function).read_config(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write_config(&self, slot: u64, offset: usize, data: &[u8]) {
        if let Some((slot, function)) = self.function(slot) {
            let mut routes = lock(&self.routes);
            let before = routes[slot];
            lock(function).write_config(offset, data);
            self.route(slot, &mut routes);
            if routes[slot] != before {
                self.route_hidden(&mut routes);
            }
        }
    }

    fn function(&self, slot: u64) -> Option<(usize, &Function)> {
        let slot = usize::try_from(slot).ok()?;
        Some((slot, self.functions.get(slot)?.as_ref()?))
    }

    /// Brings the route to the function in `slot` in line with its BAR register.
    fn route(&self, slot: usize, routes: &mut [Option<Bar>; PCI_SLOTS as usize]) {
        let Some(function) = &self.functions[slot] else {
            return;
        };
        let mut function = lock(function);
        let others =
            routes.iter().enumerate().filter(|(other, _)| *other != slot).filter_map(|(_, bar)| *bar);
        let reachable = function.decoded_bar().filter(|bar| bar.lies_in(&self.window));
        // Of two that overlap the earlier one answers, until it moves away.
        let reachable = reachable.filter(|bar| !others.into_iter().any(|other| other.overlaps(bar)));
        if routes[slot] != reachable {
            function.place_bar(reachable.map(|bar| bar.base));
            routes[slot] = reachable;
        }
    }

    /// A BAR moved: another that it was in the way of may be reachable now.
    fn route_hidden(&self, routes: &mut [Option<Bar>; PCI_SLOTS as usize]) {
        for slot in 0..routes.len() {
            if routes[slot].is_none() {
                self.route(slot, routes);
            }
        }
    }

    /// The function whose BAR contains the access, and the offset in it.
    fn find(&self, address: u64, length: usize) -> Option<(&Function, u64)> {
        let routes = lock(&self.routes);
        let (slot, offset) = routes
            .iter()
            .enumerate()
            .find_map(|(slot, bar)| Some((slot, (*bar)?.offset_of(address, length)?)))?;
        Some((self.functions[slot].as_ref()?, offset))
    }

    fn read_memory(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((function, offset)) => lock(function).read_bar(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write_memory(&self, address: u64, data: &[u8]) {
        if let Some((function, offset)) = self.find(address, data.len()) {
            lock(function).write_bar(offset, data);
        }
    }
}

/// A panic while a function was locked fails its machine; until that is noticed, the others are served.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The eight configuration ports, at 0xCF8.
pub struct ConfigurationPorts(pub Arc<PciRoot>);

impl ConfigurationPorts {
    /// Slot and register that the data port reaches at `offset` from the first port, if any.
    fn target(&self, offset: u64) -> Option<(u64, usize)> {
        let address = *lock(&self.0.address);
        let byte = offset.checked_sub(ADDRESS_BYTES)?;
        let [register, devfn, bus, _reserved] = address.to_le_bytes();
        // One bus, one function a device.
        let enabled = address & ADDRESS_ENABLE != 0 && bus == 0 && devfn & 7 == 0;
        let register = usize::from(register & !3) + usize::try_from(byte).ok()?;
        enabled.then_some((u64::from(devfn >> 3), register))
    }
}

impl BusDevice for ConfigurationPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&lock(&self.0.address).to_le_bytes());
        } else if let Some((slot, register)) = self.target(offset) {
            self.0.read_config(slot, register, data);
        } else {
            data.fill(0xff);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == 0 {
            // Only a whole double word is the address register; narrower accesses are other devices' on a PC.
            if let Ok(address) = data.try_into() {
                *lock(&self.0.address) = u32::from_le_bytes(address) & !0x7f00_0003;
            }
        } else if let Some((slot, register)) = self.target(offset) {
            self.0.write_config(slot, register, data);
        }
    }
}

/// The memory-mapped configuration space of the bus: [`EcamWindow::BYTES`] long.
pub struct EcamWindow(pub Arc<PciRoot>);

impl EcamWindow {
    /// How many addresses one bus takes.
    pub const BYTES: u64 = ECAM_FUNCTION_BYTES * FUNCTIONS_PER_SLOT * PCI_SLOTS as u64;

    fn target(offset: u64) -> Option<(u64, usize)> {
        let function = offset / ECAM_FUNCTION_BYTES;
        let register = usize::try_from(offset % ECAM_FUNCTION_BYTES).ok()?;
        function.is_multiple_of(FUNCTIONS_PER_SLOT).then_some((function / FUNCTIONS_PER_SLOT, register))
    }
}

impl BusDevice for EcamWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match Self::target(offset) {
            Some((slot, register)) => self.0.read_config(slot, register, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((slot, register)) = Self::target(offset) {
            self.0.write_config(slot, register, data);
        }
    }
}

/// The memory window of the bus, at the addresses given to [`PciRoot::new`].
pub struct MemoryWindow(pub Arc<PciRoot>);

impl BusDevice for MemoryWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.read_memory(self.0.window.start.saturating_add(offset), data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.write_memory(self.0.window.start.saturating_add(offset), data);
    }
}
