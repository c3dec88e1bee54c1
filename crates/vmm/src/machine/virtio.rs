//! The machine's PCI bus and the virtio devices on it: made from the description, connected to interrupts and
//! doorbells, and served when the event loop says that one of their descriptors became readable.
//!
//! Slots are handed out in a fixed order (disks, interfaces, entropy, balloon, sockets, console, watchdog), so that a
//! guest finds a device in the same place at each start.

mod assembly;
mod function;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use assembly::Assembly;
use devices::bus::{BusBuilder, BusError};
use devices::memory::GuestMemory;
use devices::pci::{ConfigurationPorts, EcamWindow, MemoryWindow, PciRoot};
use devices::serial::ConsoleSink;
use devices::virtio::balloon::BalloonHandle;
use devices::virtio::console::{ConsoleHandle, ConsoleSize};
use devices::watchdog::WatchdogDevice;
use function::Function;
use hypervisor::Vm;
use vm_model::{Bytes, DiskSpec, DiskTrouble, GuestServices, LinkState, NicSpec, PCI_DEVICES_MAX};

use super::counters::DeviceCounters;
use super::disks::Disks;
use super::nics::Links;
use super::{BalloonChangeError, BuildError, LinkChangeError, NoConsole};
use crate::interrupts::InterruptRouter;
use crate::layout;
use crate::outcome::Outcome;
use crate::poller::{Poller, Token, Trigger};

/// What a device is connected to.
pub(super) struct Parts<'a> {
    pub(super) vm: &'a Arc<Vm>,
    pub(super) router: &'a Arc<InterruptRouter>,
    pub(super) memory: &'a Arc<GuestMemory>,
    pub(super) outcome: &'a Arc<Outcome>,
}

/// The bus and everything on it.
pub(super) struct VirtioDevices {
    root: Arc<PciRoot>,
    functions: Vec<Function>,
    disks: Disks,
    counters: Vec<DeviceCounters>,
    balloon: Option<Balloon>,
    console: Option<Console>,
    watchdog: Option<Watchdog>,
    links: Links,
}

/// The part of a machine's description that is on the bus.
pub(super) struct BusSpec {
    pub(super) disks: Vec<DiskSpec<OwnedFd>>,
    pub(super) nics: Vec<NicSpec<OwnedFd>>,
    pub(super) rng: bool,
    pub(super) services: GuestServices<OwnedFd>,
}

/// The console among the functions.
struct Console {
    function: usize,
    handle: Arc<ConsoleHandle>,
}

/// The balloon among the functions.
struct Balloon {
    function: usize,
    handle: Arc<BalloonHandle>,
}

/// The watchdog, which is on the bus and no virtio device.
struct Watchdog(Arc<Mutex<WatchdogDevice>>);

impl Watchdog {
    fn lock(&self) -> MutexGuard<'_, WatchdogDevice> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VirtioDevices {
    /// Makes the bus and the devices; what the guest writes to a virtio console goes to `console`.
    pub(super) fn build(
        parts: &Parts<'_>,
        spec: BusSpec,
        console: impl FnOnce() -> Box<dyn ConsoleSink>,
    ) -> Result<Self, BuildError> {
        let BusSpec { disks, nics, rng, services } = spec;
        let GuestServices { panic_device: _, balloon, vsock, console: has_console, watchdog, oem_strings: _ } =
            services;
        let singles = [rng, balloon.is_some(), vsock.is_some(), has_console, watchdog];
        let devices = disks.len() + nics.len() + singles.iter().filter(|present| **present).count();
        if devices > PCI_DEVICES_MAX {
            return Err(BuildError::TooManyDevices { devices, most: PCI_DEVICES_MAX });
        }
        let mut assembly = Assembly::new(parts);
        for disk in disks {
            assembly.add_disk(disk)?;
        }
        for nic in nics {
            assembly.add_nic(nic)?;
        }
        if rng {
            assembly.add_rng()?;
        }
        if let Some(balloon) = balloon {
            assembly.add_balloon(balloon)?;
        }
        if let Some(vsock) = vsock {
            assembly.add_vsock(vsock)?;
        }
        if has_console {
            assembly.add_console(console())?;
        }
        if watchdog {
            assembly.add_watchdog()?;
        }
        Ok(assembly.finish())
    }

    /// Puts the bus's windows where the layout has them.
    pub(super) fn attach(&self, ports: &mut BusBuilder, memory: &mut BusBuilder) -> Result<(), BusError> {
        let root = || self.root.clone();
        let (config, ecam, window) = (layout::PCI_CONFIG_PORTS, layout::PCI_ECAM, layout::PCI_WINDOW);
        let device = Arc::new(ConfigurationPorts(root()));
        ports.add("PCI configuration ports", config.start, config.end - config.start, device)?;
        let device = Arc::new(EcamWindow(root()));
        memory.add("PCI configuration space", ecam.start, ecam.end - ecam.start, device)?;
        let device = Arc::new(MemoryWindow(root()));
        memory.add("PCI window", window.start, window.end - window.start, device)?;
        Ok(())
    }

    /// Registers every descriptor of every device with `poller`.
    pub(super) fn watch(&self, poller: &Poller) -> io::Result<()> {
        for (device, function) in (0_u16..).zip(&self.functions) {
            let transport = function.lock();
            for (queue, bell) in transport.queue_bells() {
                poller.watch(bell, Token::Doorbell { device, queue }, Trigger::Edge)?;
            }
            for event in transport.events() {
                let token = event.token;
                poller.watch(&event.fd.as_raw_fd(), Token::Device { device, token }, Trigger::Edge)?;
            }
        }
        if let Some(watchdog) = &self.watchdog {
            poller.watch(&watchdog.lock().timer_event(), Token::Watchdog, Trigger::Edge)?;
        }
        if let Some(console) = &self.console {
            poller.watch(&console.handle.room_event(), Token::ConsoleRoom, Trigger::Edge)?;
        }
        Ok(())
    }

    /// The sources of the devices' counters.
    pub(super) fn take_counters(&mut self) -> Vec<DeviceCounters> {
        std::mem::take(&mut self.counters)
    }

    /// Asks the guest to give up `size` of its memory.
    pub(super) fn set_balloon(&self, size: Bytes) -> Result<(), BalloonChangeError> {
        let balloon = self.balloon.as_ref().ok_or(BalloonChangeError::Missing)?;
        balloon.handle.set_target(size.get()).map_err(BalloonChangeError::Target)?;
        self.announce_change(balloon.function);
        Ok(())
    }

    /// Handles the watchdog's timer, which may have expired.
    pub(super) fn watchdog_event(&self) {
        if let Some(watchdog) = &self.watchdog {
            watchdog.lock().handle_timer(Instant::now());
        }
    }

    /// Stops the watchdog's timer, which the guest cannot reload while its vCPUs are parked. Idempotent.
    pub(super) fn freeze_watchdog(&self) {
        if let Some(watchdog) = &self.watchdog {
            watchdog.lock().freeze(Instant::now());
        }
    }

    /// Lets the watchdog's time go on. Idempotent.
    pub(super) fn thaw_watchdog(&self) {
        if let Some(watchdog) = &self.watchdog {
            watchdog.lock().thaw(Instant::now());
        }
    }

    /// Whether there is a virtio console.
    pub(super) fn has_console(&self) -> bool {
        self.console.is_some()
    }

    /// Queues `bytes` as input of the virtio console and returns the number taken: 0 where there is no console.
    pub(super) fn write_console(&self, bytes: &[u8]) -> usize {
        self.console.as_ref().map_or(0, |console| console.handle.enqueue(bytes))
    }

    /// Changes the size of the virtio console and notifies the guest.
    pub(super) fn resize_console(&self, size: ConsoleSize) -> Result<(), NoConsole> {
        let console = self.console.as_ref().ok_or(NoConsole)?;
        console.handle.set_size(size);
        self.announce_change(console.function);
        Ok(())
    }

    /// Takes the link of `nic` up or down.
    pub(super) fn set_link(&self, nic: &str, link: LinkState) -> Result<(), LinkChangeError> {
        self.links.set(nic, link).map(|function| self.announce_change(function))
    }

    /// Asks the guest to announce itself on the network of `nic`.
    pub(super) fn announce(&self, nic: &str) -> Result<(), LinkChangeError> {
        self.links.announce(nic).map(|function| self.announce_change(function))
    }

    /// Notifies the driver of `function` of a change of configuration.
    fn announce_change(&self, function: usize) {
        if let Some(function) = self.functions.get(function) {
            function.lock().announce_config_change();
        }
    }

    /// The name of a device, for messages.
    pub(super) fn name_of(&self, device: u16) -> &str {
        self.functions.get(usize::from(device)).map_or("no device", |function| &function.name)
    }

    /// Serves a queue whose doorbell was signalled.
    pub(super) fn doorbell(&self, device: u16, queue: u16) {
        if let Some(function) = self.functions.get(usize::from(device)) {
            function.lock().handle_doorbell(queue);
        }
    }

    /// Serves a device whose own descriptor became readable.
    pub(super) fn event(&self, device: u16, token: u16) {
        if let Some(function) = self.functions.get(usize::from(device)) {
            function.lock().handle_event(token);
        }
    }

    /// The first disk that keeps requests which the host cannot carry out, and what the host said last.
    pub(super) fn disk_trouble(&self) -> Option<DiskTrouble> {
        self.disks.trouble()
    }

    /// Whether `device` is such a disk.
    pub(super) fn is_in_trouble(&self, device: u16) -> bool {
        self.disks.in_trouble().any(|disk| disk.function == usize::from(device))
    }

    /// Has every such disk try again.
    pub(super) fn retry_disks(&self) {
        for disk in self.disks.in_trouble() {
            if let Some(function) = self.functions.get(disk.function) {
                function.lock().retry();
            }
        }
    }

    /// Waits until no device has I/O in flight.
    ///
    /// # Errors
    /// The name of the first device that still had I/O in flight at `deadline`.
    pub(super) fn drain(&self, deadline: Instant) -> Result<(), String> {
        for function in &self.functions {
            if !function.lock().drain(deadline) {
                return Err(function.name.clone());
            }
        }
        Ok(())
    }

    /// Serves everything that may have become readable while the devices were not served.
    pub(super) fn catch_up(&self) {
        for function in &self.functions {
            let mut transport = function.lock();
            transport.kick_all();
            let tokens: Vec<u16> = transport.events().iter().map(|event| event.token).collect();
            for token in tokens {
                transport.handle_event(token);
            }
        }
    }

    /// Waits until no device has I/O in flight, after [`VirtioDevices::end`].
    ///
    /// # Errors
    /// The name of the first that still had some at `deadline`.
    pub(super) fn settle(&self, deadline: Instant) -> Result<(), String> {
        match self.functions.iter().find(|function| !function.settles(deadline)) {
            None => Ok(()),
            Some(function) => Err(function.name.clone()),
        }
    }

    /// Takes the queues from every device and waits until no I/O is in flight, or until `deadline`: what is still
    /// in flight then keeps the memory that it touches mapped. Returns whether every device was reset.
    ///
    /// Comes after anything, a panic in a device included, and so tolerates everything: each device that panics again
    /// or whose lock is not to be had is left as it is.
    pub(super) fn end(&self, deadline: Instant) -> bool {
        let mut all_done = true;
        for function in &self.functions {
            all_done &= function.contain("resetting", deadline, |transport| {
                transport.reset();
                true
            });
        }
        for function in &self.functions {
            all_done &= function.contain("draining", deadline, |transport| transport.drain(deadline));
        }
        all_done
    }
}

#[cfg(test)]
mod tests;
