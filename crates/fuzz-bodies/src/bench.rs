//! A virtio device behind PCI with a driver that can do it all properly, so that a body's attack starts deep inside.

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use devices::bus::BusDevice;
use devices::memory::GuestMemory;
use devices::pci::{EcamWindow, MemoryWindow, PciRoot};
use devices::virtio::VirtioDevice;
use devices::virtio::pci::VirtioPciDevice;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::driver::{Driver, memory};
use crate::ports::{Bells, Messages};

/// The 32-bit window of the bus.
const WINDOW: std::ops::Range<u64> = 0xc000_0000..0xe000_0000;
/// Where the device's BAR is placed in the window.
pub(crate) const BAR: u64 = 0x4000;
const SLOT: u64 = 1;
/// Descriptors of each queue.
const QUEUE_SIZE: u16 = 16;
/// Turns after which a device that still asks for more is taken to ask for ever.
const TURNS_MAX: u32 = 2000;
/// How long I/O on a file in memory may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Offsets of the common configuration (virtio 1.2 §4.1.4.3), which lies at the BAR's start.
const DRIVER_FEATURE_SELECT: u64 = 8;
const DRIVER_FEATURE: u64 = 12;
const STATUS: u64 = 20;
const QUEUE_SELECT: u64 = 22;
const QUEUE_SIZE_FIELD: u64 = 24;
const QUEUE_VECTOR: u64 = 26;
const QUEUE_ENABLE: u64 = 28;
const QUEUE_ADDRESSES: u64 = 32;
/// `VIRTIO_F_VERSION_1`.
const VERSION_1: u64 = 1 << 32;

/// The device, its bus and its driver's queues.
pub(crate) struct Bench {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) drivers: Vec<Driver>,
    ecam: EcamWindow,
    window: MemoryWindow,
    device: Arc<Mutex<VirtioPciDevice>>,
    /// Watches edges, as the machine's event loop does.
    poller: Epoll,
}

impl Bench {
    /// `device` with memory space on, in reset.
    pub(crate) fn new(device: Box<dyn VirtioDevice>) -> Self {
        let memory = memory();
        let queues = device.queue_sizes().len();
        let vectors = u16::try_from(queues + 1).expect("few queues");
        let bells = Arc::new(Bells::new(64));
        let device = VirtioPciDevice::new(
            device,
            Arc::clone(&memory),
            Arc::new(Messages::new(vectors)),
            bells,
            WINDOW.start + BAR,
        )
        .expect("a place, few queues and vectors");
        let device = Arc::new(Mutex::new(device));
        let mut root = PciRoot::new(WINDOW);
        root.add(1, device.clone()).expect("slot 1 is free");
        let root = Arc::new(root);
        let drivers = (0..queues as u64)
            .map(|queue| Driver::new(Arc::clone(&memory), 0x1000 + queue * 0x1000, QUEUE_SIZE));
        let drivers = drivers.collect();
        let (ecam, window) = (EcamWindow(root.clone()), MemoryWindow(root));
        let poller = watch(&device.lock().unwrap_or_else(PoisonError::into_inner));
        let bench = Self { memory, drivers, ecam, window, device, poller };
        bench.write_config(4, &[6, 0]);
        bench
    }

    pub(crate) fn device(&self) -> MutexGuard<'_, VirtioPciDevice> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read_config(&self, register: u64, data: &mut [u8]) {
        self.ecam.read((SLOT << 15) + register, data);
    }

    pub(crate) fn write_config(&self, register: u64, data: &[u8]) {
        self.ecam.write((SLOT << 15) + register, data);
    }

    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        self.window.read(BAR + offset, data);
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        self.window.write(BAR + offset, data);
    }

    /// All that a driver does up to `DRIVER_OK` (§3.1.1), with `features` as far as they are offered.
    pub(crate) fn start(&self, features: u64) {
        let features = features & self.device().common_config().offered_features | VERSION_1;
        self.write(STATUS, &[0]);
        self.write(STATUS, &[3]);
        for (select, half) in [(0u32, features), (1, features >> 32)] {
            self.write(DRIVER_FEATURE_SELECT, &select.to_le_bytes());
            self.write(DRIVER_FEATURE, &half.to_le_bytes()[..4]);
        }
        self.write(STATUS, &[11]);
        for (queue, driver) in (0u16..).zip(&self.drivers) {
            let layout = driver.layout();
            self.write(QUEUE_SELECT, &queue.to_le_bytes());
            self.write(QUEUE_SIZE_FIELD, &layout.size.to_le_bytes());
            self.write(QUEUE_VECTOR, &(queue + 1).to_le_bytes());
            let parts = [layout.descriptor_table, layout.available_ring, layout.used_ring];
            for (register, address) in (QUEUE_ADDRESSES..).step_by(8).zip(parts) {
                self.write(register, &address.0.to_le_bytes()[..4]);
                self.write(register + 4, &address.0.to_le_bytes()[4..]);
            }
            self.write(QUEUE_ENABLE, &[1, 0]);
        }
        self.write(STATUS, &[15]);
    }

    /// Whether the driver's set-up led anywhere.
    pub(crate) fn is_running(&self) -> bool {
        self.device().is_running()
    }

    /// Serves bells and events, as the machine's event loop would, until nothing is left to do.
    pub(crate) fn settle(&self) {
        for _turn in 0..TURNS_MAX {
            if !self.turn() {
                let drained = self.device().drain(Instant::now() + PATIENCE);
                assert!(drained || !self.is_running(), "I/O on memory did not end");
                if !self.turn() {
                    return;
                }
            }
        }
        panic!("a device asks for turns without end");
    }

    /// One round over everything that became readable; whether anything did.
    fn turn(&self) -> bool {
        let mut ready = [EpollEvent::default(); 16];
        // Interrupted or not, what is not seen now is seen the next time.
        let count = self.poller.wait(0, &mut ready).unwrap_or(0);
        let mut device = self.device();
        for event in &ready[..count] {
            let [low, high, is_event, ..] = event.data().to_le_bytes();
            let number = u16::from_le_bytes([low, high]);
            if is_event == 0 { device.handle_doorbell(number) } else { device.handle_event(number) }
        }
        count > 0
    }
}

/// A poller of the device's bells and its own descriptors, told apart by the third byte of their data.
fn watch(device: &VirtioPciDevice) -> Epoll {
    let poller = Epoll::new().expect("a descriptor");
    let add = |fd: &dyn AsRawFd, number: u16, is_event: u64| {
        let event =
            EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, u64::from(number) | is_event << 16);
        poller.ctl(ControlOperation::Add, fd.as_raw_fd(), event).expect("it can be watched");
    };
    for (queue, bell) in device.queue_bells() {
        add(bell, queue, 0);
    }
    for event in device.events() {
        add(&event.fd, event.token, 1);
    }
    poller
}
