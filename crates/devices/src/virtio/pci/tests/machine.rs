//! A small machine with one virtio device, and a driver's accesses to it by capability, as Linux makes them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use vm_memory::{Address, GuestAddress};

use crate::bus::BusDevice;
use crate::memory::GuestMemory;
use crate::pci::{EcamWindow, MemoryWindow, PciRoot};
use crate::ports::MsiMessage;
use crate::ports::testing::{MapDoorbells, RecordingMessages};
use crate::virtio::pci::{VirtioPciDevice, VirtioPciError};
use crate::virtio::queue::testing::{DriverQueue, small_memory};
use crate::virtio::queue::{Queue, QueueFault};
use crate::virtio::{ActivateError, Activation, DeviceEvent, VirtioDevice, VirtioDeviceType};

pub(super) const BAR_BASE: u64 = 0xc000_4000;
pub(super) const QUEUE_SIZE: u16 = 16;
pub(super) const TEST_FEATURE: u64 = 1;
/// `VIRTIO_F_RING_PACKED`: the device offers it by mistake.
pub(super) const REJECTED_FEATURE: u64 = 1 << 34;
const WINDOW: std::ops::Range<u64> = 0xc000_0000..0xe000_0000;
const SLOT: u64 = 3;
const VECTORS: u16 = 3;

/// Completes every chain at once and says what happened to it.
struct EchoDevice {
    sizes: &'static [u16],
    config: [u8; 4],
    queues: Vec<Option<Queue>>,
    broken: bool,
    log: Arc<Mutex<Vec<String>>>,
    /// It has I/O in flight, as the test says.
    busy: Arc<AtomicBool>,
}

impl EchoDevice {
    fn new(sizes: &'static [u16], log: Arc<Mutex<Vec<String>>>, busy: Arc<AtomicBool>) -> Self {
        Self { sizes, config: *b"cdef", queues: Vec::new(), broken: false, log, busy }
    }

    fn serve(queue: &mut Queue) -> Result<(), QueueFault> {
        while let Some(chain) = queue.pop()? {
            let written = u32::try_from(chain.writable_len()).expect("checked by the queue");
            queue.complete(chain.head(), written)?;
        }
        queue.enable_doorbells()?;
        queue.notify()
    }
}

impl VirtioDevice for EchoDevice {
    fn device_type(&self) -> VirtioDeviceType {
        VirtioDeviceType::Entropy
    }

    fn queue_sizes(&self) -> &[u16] {
        self.sizes
    }

    fn offered_features(&self) -> u64 {
        TEST_FEATURE | REJECTED_FEATURE
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (position, byte) in data.iter_mut().enumerate() {
            let at = usize::try_from(offset).unwrap() + position;
            *byte = self.config.get(at).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        for (position, value) in data.iter().enumerate() {
            if let Some(byte) = self.config.get_mut(usize::try_from(offset).unwrap() + position) {
                *byte = *value;
            }
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if activation.queues[0].is_none() {
            return Err(ActivateError::QueueDisabled { index: 0 });
        }
        let enabled: Vec<_> = activation.queues.iter().map(Option::is_some).collect();
        self.log.lock().unwrap().push(format!("activate {:#x} {enabled:?}", activation.features));
        self.queues = activation.queues;
        Ok(())
    }

    fn events(&self) -> Vec<DeviceEvent<'_>> {
        Vec::new()
    }

    fn doorbell(&mut self, index: u16) {
        if let Some(Some(queue)) = self.queues.get_mut(usize::from(index)) {
            self.broken |= Self::serve(queue).is_err();
        }
    }

    fn event(&mut self, _token: u16) {}

    fn drain(&mut self, _deadline: Instant) -> bool {
        true
    }

    fn reset(&mut self) {
        if !self.queues.is_empty() || self.broken || !self.log.lock().unwrap().is_empty() {
            self.log.lock().unwrap().push("reset".to_owned());
        }
        self.queues.clear();
        self.broken = false;
    }

    fn is_settled(&mut self) -> bool {
        !self.busy.load(Ordering::Relaxed)
    }

    fn is_broken(&self) -> bool {
        self.broken
    }
}

/// Puts an echo device behind a transport.
pub(super) fn build(
    sizes: &'static [u16],
    vectors: u16,
    base: u64,
) -> Result<VirtioPciDevice, VirtioPciError> {
    VirtioPciDevice::new(
        Box::new(EchoDevice::new(sizes, Arc::default(), Arc::default())),
        small_memory(0x1000),
        Arc::new(RecordingMessages::new(vectors)),
        Arc::new(MapDoorbells::default()),
        base,
    )
}

/// What a driver finds by its capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cap {
    Common = 1,
    Notify = 2,
    Isr = 3,
    Device = 4,
    Window = 5,
}

pub(super) struct Machine {
    pub(super) messages: Arc<RecordingMessages>,
    pub(super) doorbells: Arc<MapDoorbells>,
    pub(super) memory: Arc<GuestMemory>,
    pub(super) ecam: EcamWindow,
    pub(super) window: MemoryWindow,
    device: Arc<Mutex<VirtioPciDevice>>,
    log: Arc<Mutex<Vec<String>>>,
    pub(super) busy: Arc<AtomicBool>,
}

impl Machine {
    /// The device in its slot, memory space enabled.
    pub(super) fn new() -> Self {
        let memory = small_memory(0x10000);
        let messages = Arc::new(RecordingMessages::new(VECTORS));
        let doorbells = Arc::new(MapDoorbells::default());
        let log = Arc::<Mutex<Vec<String>>>::default();
        let busy = Arc::<AtomicBool>::default();
        let echo = Box::new(EchoDevice::new(&[QUEUE_SIZE, QUEUE_SIZE], log.clone(), busy.clone()));
        let device =
            VirtioPciDevice::new(echo, memory.clone(), messages.clone(), doorbells.clone(), BAR_BASE)
                .unwrap();
        let device = Arc::new(Mutex::new(device));
        let mut root = PciRoot::new(WINDOW);
        root.add(u8::try_from(SLOT).unwrap(), device.clone()).unwrap();
        let root = Arc::new(root);
        let (ecam, window) = (EcamWindow(root.clone()), MemoryWindow(root));
        let machine = Self { messages, doorbells, memory, ecam, window, device, log, busy };
        machine.write_config(0x04, &[6, 0]);
        machine
    }

    pub(super) fn device(&self) -> MutexGuard<'_, VirtioPciDevice> {
        self.device.lock().unwrap()
    }

    pub(super) fn device_log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub(super) fn write_config(&self, register: u64, data: &[u8]) {
        self.ecam.write((SLOT << 15) + register, data);
    }

    pub(super) fn config_dword(&self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.ecam.read((SLOT << 15) + register, &mut data);
        u32::from_le_bytes(data)
    }

    /// Where the capability of `kind` is.
    pub(super) fn capability(&self, kind: Cap) -> u64 {
        let mut at = u64::from(self.config_dword(0x34) & 0xff);
        while at != 0 {
            let [id, next, _length, found] = self.config_dword(at).to_le_bytes();
            if id == 9 && found == kind as u8 {
                return at;
            }
            at = next.into();
        }
        panic!("no capability for {kind:?}");
    }

    fn msix_capability(&self) -> u64 {
        let mut at = u64::from(self.config_dword(0x34) & 0xff);
        while self.config_dword(at) & 0xff != 0x11 {
            at = (self.config_dword(at) >> 8 & 0xff).into();
        }
        at
    }

    /// Where in the BAR the part of `kind` is.
    pub(super) fn part(&self, kind: Cap) -> u32 {
        let at = self.capability(kind);
        assert_eq!(self.config_dword(at + 4) & 0xff, 0, "bar 0");
        self.config_dword(at + 8)
    }

    /// Where in the BAR the notification address of `queue` is (virtio 1.2 §4.1.4.4).
    pub(super) fn notify_offset(&self, queue: u64) -> u64 {
        let multiplier = self.config_dword(self.capability(Cap::Notify) + 16);
        u64::from(self.part(Cap::Notify)) + queue * u64::from(multiplier)
    }

    fn address(&self, kind: Cap, offset: u64) -> u64 {
        BAR_BASE - WINDOW.start + u64::from(self.part(kind)) + offset
    }

    pub(super) fn read(&self, kind: Cap, offset: u64, width: usize) -> u32 {
        let mut data = [0; 4];
        self.window.read(self.address(kind, offset), &mut data[..width]);
        u32::from_le_bytes(data)
    }

    pub(super) fn write(&self, kind: Cap, offset: u64, width: usize, value: u32) {
        self.window.write(self.address(kind, offset), &value.to_le_bytes()[..width]);
    }

    pub(super) fn status(&self) -> u32 {
        self.read(Cap::Common, 20, 1)
    }

    pub(super) fn offered_features(&self) -> u64 {
        let half = |select| {
            self.write(Cap::Common, 0, 4, select);
            u64::from(self.read(Cap::Common, 4, 4))
        };
        half(0) | half(1) << 32
    }

    pub(super) fn write_driver_features(&self, features: u64) {
        for (select, shift) in [(0, 0), (1, 32)] {
            self.write(Cap::Common, 8, 4, select);
            let half = u32::try_from(features >> shift & 0xffff_ffff).unwrap();
            self.write(Cap::Common, 12, 4, half);
        }
    }

    /// Up to `FEATURES_OK`.
    pub(super) fn negotiate(&self, features: u64) {
        self.write(Cap::Common, 20, 1, 1);
        self.write(Cap::Common, 20, 1, 3);
        self.write_driver_features(features);
        self.write(Cap::Common, 20, 1, 11);
    }

    /// Up to `DRIVER_OK`: vector 0 for the configuration, one each for the queues.
    pub(super) fn start(&self, features: u64) -> [DriverQueue; 2] {
        self.negotiate(features);
        self.write(Cap::Common, 16, 2, 0);
        let queues = [(0, 0x1000), (1, 0x2000)].map(|(index, base)| {
            let queue = DriverQueue::new(self.memory.clone(), GuestAddress(base), QUEUE_SIZE);
            // As after a boot: rings of an earlier run are gone.
            self.memory_zero(base, 0x1000);
            self.write(Cap::Common, 22, 2, index);
            self.write(Cap::Common, 26, 2, index + 1);
            let layout = queue.layout;
            for (register, address) in
                [(32, layout.descriptor_table), (40, layout.available_ring), (48, layout.used_ring)]
            {
                self.write(Cap::Common, register, 4, u32::try_from(address.raw_value()).unwrap());
                self.write(Cap::Common, register + 4, 4, 0);
            }
            self.write(Cap::Common, 28, 2, 1);
            queue
        });
        self.write(Cap::Common, 20, 1, 15);
        queues
    }

    fn memory_zero(&self, base: u64, bytes: usize) {
        use vm_memory::Bytes;
        self.memory.write_slice(&vec![0; bytes], GuestAddress(base)).unwrap();
    }

    /// Programs and unmasks the first vectors and turns MSI-X on.
    pub(super) fn enable_msix(&self, messages: &[MsiMessage]) {
        let capability = self.msix_capability();
        let table = BAR_BASE - WINDOW.start + u64::from(self.config_dword(capability + 4));
        for (vector, message) in (0u64..).zip(messages) {
            self.window.write(table + vector * 16, &message.address.to_le_bytes());
            self.window.write(table + vector * 16 + 8, &message.data.to_le_bytes());
            self.window.write(table + vector * 16 + 12, &[0; 4]);
        }
        self.write_config(capability + 2, &0x8000u16.to_le_bytes());
    }

    /// Which bells rang since the last call.
    pub(super) fn bells_rung(&self) -> Vec<u16> {
        let device = self.device();
        let bells = device.queue_bells();
        bells.filter(|(_, bell)| bell.read().is_ok()).map(|(index, _)| index).collect()
    }
}
