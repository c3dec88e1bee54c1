//! A bus of three virtio devices: configuration space by ports and by memory, at any width and place, BARs moved
//! onto each other and out of the window, MSI-X tables (PCI 3.0 §6.1, §6.2.5.1, §6.8).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use devices::bus::Bus;
use devices::pci::{ConfigurationPorts, EcamWindow, MemoryWindow, PciRoot};
use devices::virtio::pci::{BAR_BYTES, VirtioPciDevice};
use devices::virtio::rng::RngDevice;

use crate::driver::memory;
use crate::input::Input;
use crate::ports::{Bells, Messages};

const WINDOW: std::ops::Range<u64> = 0xc000_0000..0xe000_0000;
const ECAM: u64 = 0xe000_0000;
const PORTS: u64 = 0xcf8;
const FUNCTIONS: u8 = 3;
/// Where the notification address is in a BAR.
const NOTIFY: u64 = 0x1000;

/// Accesses to configuration space and to the window.
pub(crate) fn configuration(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let bells = Arc::new(Bells::new(1 + input.below(4)));
    let root = Arc::new(root(&bells));
    let mut spaces = Bus::builder();
    spaces
        .add("ports", PORTS, 8, Arc::new(ConfigurationPorts(root.clone())))
        .and_then(|bus| {
            bus.add("window", WINDOW.start, WINDOW.end - WINDOW.start, Arc::new(MemoryWindow(root.clone())))
        })
        .and_then(|bus| bus.add("ECAM", ECAM, EcamWindow::BYTES, Arc::new(EcamWindow(root.clone()))))
        .expect("they do not overlap");
    let bus = spaces.build();
    while !input.is_empty() {
        let address = address(&mut input);
        if input.flag() {
            let width = input.width();
            bus.write(address, input.piece(width));
        } else {
            bus.read(address, &mut vec![0; input.width()]);
        }
    }
    check(&bus, &bells);
}

fn root(bells: &Arc<Bells>) -> PciRoot {
    let mut root = PciRoot::new(WINDOW);
    for slot in 1..=FUNCTIONS {
        let device = VirtioPciDevice::new(
            Box::new(RngDevice::new().expect("a descriptor")),
            memory(),
            Arc::new(Messages::new(2)),
            bells.clone(),
            WINDOW.start + u64::from(slot) * BAR_BYTES,
        )
        .expect("a place, one queue and two vectors");
        root.add(slot, Arc::new(Mutex::new(device))).expect("the slot is free");
    }
    root
}

/// Where to look next: the ports, a register of a function, something in a BAR's usual place, or anywhere.
fn address(input: &mut Input<'_>) -> u64 {
    let slot = u64::from(input.byte() % (FUNCTIONS + 2));
    match input.below(8) {
        0 => PORTS + input.below(8) as u64,
        1 => ECAM + (slot << 15) + input.below(4096) as u64,
        2..5 => ECAM + (slot << 15) + input.below(256) as u64,
        // The command register and the BAR.
        5 => ECAM + (slot << 15) + [4, 0x10][input.below(2)],
        6 => WINDOW.start + slot * BAR_BYTES + input.below(0x4000) as u64,
        _ => u64::from(input.double_word()),
    }
}

/// Each doorbell is where a function says that its BAR is, and no two functions are at one place.
fn check(bus: &Bus, bells: &Bells) {
    let mut expected = BTreeMap::new();
    for slot in 1..=u64::from(FUNCTIONS) {
        let register = |offset| {
            let mut data = [0; 4];
            bus.read(ECAM + (slot << 15) + offset, &mut data);
            u64::from(u32::from_le_bytes(data))
        };
        if register(4) & 2 != 0 {
            expected.insert((register(0x10) & !0xf) + NOTIFY, slot);
        }
    }
    for address in bells.addresses() {
        assert!(expected.contains_key(&address), "a doorbell at {address:#x}, but BARs at {expected:x?}");
        assert!(WINDOW.contains(&address), "a doorbell outside of the window at {address:#x}");
    }
}
