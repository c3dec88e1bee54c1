//! The machine's PCI bus and the virtio devices on it: made from the description, connected to interrupts and
//! doorbells, and served when the event loop says that one of their descriptors became readable.
//!
//! Slots are handed out in a fixed order (disks, interfaces, entropy, balloon, sockets), so that a guest finds a device in the same
//! place at each start.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use devices::bus::{BusBuilder, BusError};
use devices::memory::GuestMemory;
use devices::pci::{ConfigurationPorts, EcamWindow, MemoryWindow, PciRoot};
use devices::virtio::VirtioDevice;
use devices::virtio::balloon::{BalloonDevice, BalloonDeviceConfig, BalloonHandle};
use devices::virtio::pci::VirtioPciDevice;
use devices::virtio::rng::RngDevice;
use devices::virtio::vsock::{VsockDevice, VsockDeviceConfig};
use hypervisor::Vm;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vm_model::{BalloonSpec, Bytes, DiskSpec, GuestServices, LinkState, NicSpec, VsockSpec};

use super::counters::DeviceCounters;
use super::disks::block_device;
use super::nics::{Links, net_device};
use super::{BalloonChangeError, BuildError, LinkChangeError};
use crate::interrupts::{InterruptRouter, KvmDoorbells};
use crate::layout;
use crate::poller::{Poller, Token, Trigger};

/// How long to wait before a lock that is held is tried again.
const LOCK_AGAIN: Duration = Duration::from_millis(1);

/// What a device is connected to.
pub(super) struct Parts<'a> {
    pub(super) vm: &'a Arc<Vm>,
    pub(super) router: &'a Arc<InterruptRouter>,
    pub(super) memory: &'a Arc<GuestMemory>,
}

/// The bus and everything on it.
pub(super) struct VirtioDevices {
    root: Arc<PciRoot>,
    functions: Vec<Function>,
    counters: Vec<DeviceCounters>,
    balloon: Option<Balloon>,
    links: Links,
}

/// The balloon among the functions.
struct Balloon {
    function: usize,
    handle: Arc<BalloonHandle>,
}

/// One device and its slot.
struct Function {
    name: String,
    /// Held by vCPU threads for register accesses and by the event loop while it serves a queue.
    transport: Arc<Mutex<VirtioPciDevice>>,
}

impl Function {
    fn lock(&self) -> MutexGuard<'_, VirtioPciDevice> {
        // A panic in a device fails its machine; what is done until then does not matter.
        self.transport.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Function::lock`], but `None` when whoever holds it did not let go until `deadline`: a thread that was left
    /// behind never does.
    fn lock_until(&self, deadline: Instant) -> Option<MutexGuard<'_, VirtioPciDevice>> {
        loop {
            match self.transport.try_lock() {
                Ok(transport) => return Some(transport),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return None,
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_AGAIN),
            }
        }
    }

    /// Does `what` by `step`, which says whether it was done in time. A panic goes no further: where another is on its
    /// way already, a second one would end the process and every machine in it.
    fn contain(&self, what: &str, deadline: Instant, step: impl FnOnce(&mut VirtioPciDevice) -> bool) {
        let device = self.name.as_str();
        let contained =
            catch_unwind(AssertUnwindSafe(|| self.lock_until(deadline).map(|mut held| step(&mut held))));
        match contained {
            Ok(Some(true)) => {}
            Ok(Some(false)) => tracing::warn!(device, what, "a device did not end in time"),
            Ok(None) => tracing::error!(device, what, "a device is held by a thread that was left behind"),
            Err(_told_by_the_hook) => {
                tracing::error!(device, what, "a device panicked while its machine ended")
            }
        }
    }
}

impl VirtioDevices {
    /// Makes the bus and the devices.
    pub(super) fn build(
        parts: &Parts<'_>,
        disks: Vec<DiskSpec<OwnedFd>>,
        nics: Vec<NicSpec<OwnedFd>>,
        rng: bool,
        services: GuestServices<OwnedFd>,
    ) -> Result<Self, BuildError> {
        let GuestServices { panic_device: _, balloon, vsock } = services;
        let services = usize::from(balloon.is_some()) + usize::from(vsock.is_some());
        let devices = disks.len() + nics.len() + usize::from(rng) + services;
        let most = usize::from(layout::PCI_SLOTS) - 1;
        if devices > most {
            return Err(BuildError::TooManyDevices { devices, most });
        }
        let mut assembly = Assembly {
            parts,
            root: PciRoot::new(layout::PCI_WINDOW),
            functions: Vec::with_capacity(devices),
            counters: Vec::with_capacity(devices),
            balloon: None,
            links: Links::default(),
        };
        for disk in disks {
            assembly.add_disk(disk)?;
        }
        for nic in nics {
            assembly.add_nic(nic)?;
        }
        if rng {
            let device = RngDevice::new().map_err(|error| failed("rng", error))?;
            assembly.add("rng".to_owned(), Box::new(device))?;
        }
        if let Some(balloon) = balloon {
            assembly.add_balloon(balloon)?;
        }
        if let Some(vsock) = vsock {
            assembly.add_vsock(vsock)?;
        }
        Ok(Self {
            root: Arc::new(assembly.root),
            functions: assembly.functions,
            counters: assembly.counters,
            balloon: assembly.balloon,
            links: assembly.links,
        })
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

    /// Has `poller` watch every descriptor of every device.
    pub(super) fn watch(&self, poller: &Poller) -> io::Result<()> {
        for (device, function) in (0_u16..).zip(&self.functions) {
            let transport = function.lock();
            for (queue, bell) in (0_u16..).zip(transport.queue_bells()) {
                poller.watch(bell, Token::Doorbell { device, queue }, Trigger::Edge)?;
            }
            for event in transport.events() {
                let token = event.token;
                poller.watch(&event.fd.as_raw_fd(), Token::Device { device, token }, Trigger::Edge)?;
            }
        }
        Ok(())
    }

    /// What the devices count.
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

    /// Takes the link of `nic` up or down.
    pub(super) fn set_link(&self, nic: &str, link: LinkState) -> Result<(), LinkChangeError> {
        self.links.set(nic, link).map(|function| self.announce_change(function))
    }

    /// Asks the guest to make itself known on the link of `nic`.
    pub(super) fn announce(&self, nic: &str) -> Result<(), LinkChangeError> {
        self.links.announce(nic).map(|function| self.announce_change(function))
    }

    /// Has the driver of `function` look at its configuration again.
    fn announce_change(&self, function: usize) {
        if let Some(function) = self.functions.get(function) {
            function.lock().announce_config_change();
        }
    }

    /// Serves a queue whose bell rang.
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

    /// Waits until no device has I/O in flight.
    ///
    /// # Errors
    /// The name of the first that still had some at `deadline`.
    pub(super) fn drain(&self, deadline: Instant) -> Result<(), String> {
        for function in &self.functions {
            if !function.lock().drain(deadline) {
                return Err(function.name.clone());
            }
        }
        Ok(())
    }

    /// Looks at everything that may have become readable while nobody served it.
    pub(super) fn resume(&self) {
        for function in &self.functions {
            let mut transport = function.lock();
            transport.kick_all();
            let tokens: Vec<u16> = transport.events().iter().map(|event| event.token).collect();
            for token in tokens {
                transport.handle_event(token);
            }
        }
    }

    /// Takes the queues from every device and waits until no I/O is in flight, or until `deadline`: what is still
    /// in flight then keeps the memory that it touches mapped.
    ///
    /// Comes after anything, a panic in a device included, and so tolerates everything: each device that panics again
    /// or whose lock is not to be had is left as it is.
    pub(super) fn end(&self, deadline: Instant) {
        for function in &self.functions {
            function.contain("resetting", deadline, |transport| {
                transport.reset();
                true
            });
        }
        for function in &self.functions {
            function.contain("draining", deadline, |transport| transport.drain(deadline));
        }
    }
}

/// The bus while devices are added.
struct Assembly<'a> {
    parts: &'a Parts<'a>,
    root: PciRoot,
    functions: Vec<Function>,
    counters: Vec<DeviceCounters>,
    balloon: Option<Balloon>,
    links: Links,
}

impl Assembly<'_> {
    fn add_disk(&mut self, disk: DiskSpec<OwnedFd>) -> Result<(), BuildError> {
        let id = disk.id.clone();
        let device = block_device(disk)?;
        self.counters.push(DeviceCounters::Disk { id: id.clone(), counters: device.counters() });
        self.add(id, Box::new(device))
    }

    fn add_nic(&mut self, nic: NicSpec<OwnedFd>) -> Result<(), BuildError> {
        let id = nic.id.clone();
        let device = net_device(nic)?;
        self.counters.push(DeviceCounters::Nic { id: id.clone(), counters: device.counters() });
        self.links.add(id.clone(), self.functions.len(), device.handle());
        self.add(id, Box::new(device))
    }

    fn add_balloon(&mut self, balloon: BalloonSpec) -> Result<(), BuildError> {
        let config = BalloonDeviceConfig {
            memory: self.parts.memory.iter().map(GuestMemoryRegion::len).sum(),
            target: balloon.size.get(),
            deflate_on_oom: balloon.deflate_on_oom,
            free_page_reporting: balloon.free_page_reporting,
        };
        let device = BalloonDevice::new(config).map_err(|error| failed("balloon", error))?;
        let handle = device.handle();
        self.counters.push(DeviceCounters::Balloon(handle.clone()));
        self.balloon = Some(Balloon { function: self.functions.len(), handle });
        self.add("balloon".to_owned(), Box::new(device))
    }

    fn add_vsock(&mut self, vsock: VsockSpec<OwnedFd>) -> Result<(), BuildError> {
        let config = VsockDeviceConfig { cid: vsock.cid, directory: vsock.directory };
        let device = VsockDevice::new(config).map_err(|error| failed("vsock", error))?;
        self.add("vsock".to_owned(), Box::new(device))
    }

    /// Puts `device` into the next slot, with a vector a queue and one for configuration changes.
    fn add(&mut self, name: String, device: Box<dyn VirtioDevice>) -> Result<(), BuildError> {
        let slot = u8::try_from(self.functions.len() + 1).expect("there are 32 slots, counted before");
        let queues = device.queue_sizes().len();
        let vectors = u16::try_from(queues + 1).map_err(|error| failed(&name, error))?;
        let transport = VirtioPciDevice::new(
            device,
            self.parts.memory.clone(),
            Arc::new(self.parts.router.reserve(vectors)),
            Arc::new(KvmDoorbells::new(self.parts.vm.clone())),
            layout::pci_bar_address(slot),
        )
        .map_err(|error| failed(&name, error))?;
        let transport = Arc::new(Mutex::new(transport));
        self.root.add(slot, transport.clone()).map_err(|error| failed(&name, error))?;
        self.functions.push(Function { name, transport });
        Ok(())
    }
}

fn failed(device: &str, error: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    BuildError::Device { device: device.to_owned(), source: Box::new(error) }
}

#[cfg(test)]
mod tests;
