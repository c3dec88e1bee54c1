//! Tests of how devices end: whatever state a panic or a thread that was left behind leaves them in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use devices::ports::{Doorbells, MessageInterrupts, MsiMessage};
use devices::virtio::pci::VirtioPciDevice;
use devices::virtio::{ActivateError, Activation, DeviceEvent, VirtioDevice, VirtioDeviceType};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::super::nics::Links;
use super::*;

struct NoPorts;

impl MessageInterrupts for NoPorts {
    fn count(&self) -> u16 {
        1
    }

    fn program(&self, _vector: u16, _message: MsiMessage) -> io::Result<()> {
        Ok(())
    }

    fn trigger(&self, _vector: u16) -> io::Result<()> {
        Ok(())
    }

    fn event(&self, _vector: u16) -> io::Result<&EventFd> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Doorbells for NoPorts {
    fn attach(&self, _address: u64, _bell: &EventFd) -> io::Result<()> {
        Ok(())
    }

    fn detach(&self, _address: u64, _bell: &EventFd) -> io::Result<()> {
        Ok(())
    }
}

/// Counts its resets, or panics at them.
struct EndingDevice {
    resets: Arc<AtomicU32>,
    panics: bool,
}

impl VirtioDevice for EndingDevice {
    fn device_type(&self) -> VirtioDeviceType {
        VirtioDeviceType::Entropy
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8]
    }

    fn offered_features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, _activation: Activation) -> Result<(), ActivateError> {
        Ok(())
    }

    fn events(&self) -> Vec<DeviceEvent<'_>> {
        Vec::new()
    }

    fn doorbell(&mut self, _index: u16) {}

    fn event(&mut self, _token: u16) {}

    fn drain(&mut self, _deadline: Instant) -> bool {
        true
    }

    fn reset(&mut self) {
        assert!(!self.panics, "injected by a test");
        self.resets.fetch_add(1, Ordering::Relaxed);
    }

    fn is_broken(&self) -> bool {
        false
    }
}

/// Devices of which those panic at their reset that are told to, and how often the others were reset.
fn devices(panics: &[bool]) -> (VirtioDevices, Arc<AtomicU32>) {
    let resets = Arc::<AtomicU32>::default();
    let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap());
    let function = |panics: &bool| {
        let device = Box::new(EndingDevice { resets: resets.clone(), panics: *panics });
        let (messages, doorbells) = (Arc::new(NoPorts), Arc::new(NoPorts));
        let transport = VirtioPciDevice::new(device, memory.clone(), messages, doorbells, 0).unwrap();
        Function { name: "test".to_owned(), transport: Arc::new(Mutex::new(transport)) }
    };
    let functions = panics.iter().map(function).collect();
    let root = Arc::new(PciRoot::new(layout::PCI_WINDOW));
    (
        VirtioDevices {
            root,
            functions,
            disks: Default::default(),
            counters: Vec::new(),
            balloon: None,
            console: None,
            watchdog: None,
            links: Links::default(),
        },
        resets,
    )
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[test]
fn a_device_that_panics_at_the_end_keeps_no_other_from_ending() {
    let (devices, resets) = devices(&[true, false]);
    assert!(!devices.end(soon()), "what panicked was not done with");
    assert_eq!(resets.load(Ordering::Relaxed), 1);
    devices.end(soon());
    assert_eq!(resets.load(Ordering::Relaxed), 2, "a lock that a panic poisoned is taken all the same");
}

#[test]
fn ending_devices_while_a_panic_is_under_way_does_not_abort() {
    struct EndsWhenDropped(VirtioDevices);
    impl Drop for EndsWhenDropped {
        fn drop(&mut self) {
            self.0.end(soon());
        }
    }
    let (devices, resets) = devices(&[true, false]);
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        let _devices = EndsWhenDropped(devices);
        panic!("injected by a test");
    }));
    assert!(panicked.is_err());
    assert_eq!(resets.load(Ordering::Relaxed), 1);
}

#[test]
fn a_device_that_a_thread_holds_forever_is_left_alone() {
    let (devices, resets) = devices(&[false, false]);
    let transport = devices.functions[0].transport.clone();
    let (held, is_held) = channel();
    let (let_go, may_let_go) = channel::<()>();
    let holder = std::thread::spawn(move || {
        let _transport = transport.lock();
        held.send(()).unwrap();
        let _gone = may_let_go.recv();
    });
    is_held.recv().unwrap();
    assert!(!devices.end(Instant::now() + Duration::from_millis(5)), "one was not to be had");
    assert_eq!(resets.load(Ordering::Relaxed), 1);
    drop(let_go);
    holder.join().unwrap();
}
