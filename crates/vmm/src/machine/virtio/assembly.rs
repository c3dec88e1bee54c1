//! Making the devices on a machine's PCI bus, one function a kind, each into the next slot.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use devices::pci::PciRoot;
use devices::serial::ConsoleSink;
use devices::virtio::VirtioDevice;
use devices::virtio::balloon::{BalloonDevice, BalloonDeviceConfig};
use devices::virtio::console::{ConsoleDevice, ConsoleDeviceConfig, ConsoleSize};
use devices::virtio::pci::VirtioPciDevice;
use devices::virtio::rng::RngDevice;
use devices::virtio::vsock::{VsockDevice, VsockDeviceConfig};
use devices::watchdog::WatchdogDevice;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vm_model::{BalloonSpec, DiskSpec, NicSpec, VsockSpec};

use super::super::counters::DeviceCounters;
use super::super::disks::{Disks, block_device};
use super::super::nics::{Links, net_device};
use super::{Balloon, BuildError, Console, Function, Parts, VirtioDevices, Watchdog};
use crate::interrupts::KvmDoorbells;
use crate::layout;

/// The bus while devices are added.
pub(super) struct Assembly<'a> {
    parts: &'a Parts<'a>,
    root: PciRoot,
    functions: Vec<Function>,
    disks: Disks,
    counters: Vec<DeviceCounters>,
    balloon: Option<Balloon>,
    console: Option<Console>,
    watchdog: Option<Watchdog>,
    links: Links,
}

impl<'a> Assembly<'a> {
    /// A bus without devices.
    pub(super) fn new(parts: &'a Parts<'a>) -> Self {
        Self {
            parts,
            root: PciRoot::new(layout::PCI_WINDOW),
            functions: Vec::new(),
            disks: Disks::default(),
            counters: Vec::new(),
            balloon: None,
            console: None,
            watchdog: None,
            links: Links::default(),
        }
    }

    /// The bus with everything that was added.
    pub(super) fn finish(self) -> VirtioDevices {
        VirtioDevices {
            root: Arc::new(self.root),
            functions: self.functions,
            disks: self.disks,
            counters: self.counters,
            balloon: self.balloon,
            console: self.console,
            watchdog: self.watchdog,
            links: self.links,
        }
    }

    pub(super) fn add_disk(&mut self, disk: DiskSpec<OwnedFd>) -> Result<(), BuildError> {
        let id = disk.id.clone();
        let device = block_device(disk)?;
        self.disks.add(id.clone(), self.functions.len(), device.counters());
        self.counters.push(DeviceCounters::Disk { id: id.clone(), counters: device.counters() });
        self.add(id, Box::new(device))
    }

    pub(super) fn add_nic(&mut self, nic: NicSpec<OwnedFd>) -> Result<(), BuildError> {
        let id = nic.id.clone();
        let device = net_device(nic)?;
        self.counters.push(DeviceCounters::Nic { id: id.clone(), counters: device.counters() });
        self.links.add(id.clone(), self.functions.len(), device.handle());
        self.add(id, Box::new(device))
    }

    pub(super) fn add_balloon(&mut self, balloon: BalloonSpec) -> Result<(), BuildError> {
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

    pub(super) fn add_vsock(&mut self, vsock: VsockSpec<OwnedFd>) -> Result<(), BuildError> {
        let config = VsockDeviceConfig { cid: vsock.cid, directory: vsock.directory };
        let device = VsockDevice::new(config).map_err(|error| failed("vsock", error))?;
        self.add("vsock".to_owned(), Box::new(device))
    }

    pub(super) fn add_rng(&mut self) -> Result<(), BuildError> {
        let device = RngDevice::new().map_err(|error| failed("rng", error))?;
        self.add("rng".to_owned(), Box::new(device))
    }

    pub(super) fn add_console(&mut self, sink: Box<dyn ConsoleSink>) -> Result<(), BuildError> {
        let config = ConsoleDeviceConfig { sink, size: ConsoleSize::default() };
        let device = ConsoleDevice::new(config).map_err(|error| failed("console", error))?;
        self.console = Some(Console { function: self.functions.len(), handle: device.handle() });
        self.add("console".to_owned(), Box::new(device))
    }

    /// Comes after every virtio device: slots are counted by those.
    pub(super) fn add_watchdog(&mut self) -> Result<(), BuildError> {
        let slot = self.next_slot();
        let device = WatchdogDevice::new(layout::pci_bar_address(slot), self.parts.outcome.clone())
            .map_err(|error| failed("watchdog", error))?;
        let device = Arc::new(Mutex::new(device));
        self.root.add(slot, device.clone()).map_err(|error| failed("watchdog", error))?;
        self.watchdog = Some(Watchdog(device));
        Ok(())
    }

    fn next_slot(&self) -> u8 {
        u8::try_from(self.functions.len() + 1).expect("there are 32 slots, counted before")
    }

    /// Puts `device` into the next slot, with a vector a queue and one for configuration changes.
    fn add(&mut self, name: String, device: Box<dyn VirtioDevice>) -> Result<(), BuildError> {
        let slot = self.next_slot();
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
