//! Tests of the root: enumeration through both windows, and routing by live BARs.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::{
    Bar, BusDevice, ConfigurationPorts, EcamWindow, MemoryWindow, PciFunction, PciRoot, PciRootError,
};
use crate::pci::config::{ClassCode, PciConfig, PciIdentity};

const WINDOW: std::ops::Range<u64> = 0xc000_0000..0xe000_0000;
const SIZE: u64 = 0x4000;

/// A function whose BAR reads as its mark.
struct Marked {
    config: PciConfig,
    mark: u8,
    placed: Option<u64>,
    written: Vec<(u64, Vec<u8>)>,
}

impl PciFunction for Marked {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn decoded_bar(&self) -> Option<Bar> {
        self.config.bar().filter(|_| self.config.memory_enabled())
    }

    fn place_bar(&mut self, base: Option<u64>) {
        self.placed = base;
    }

    fn read_bar(&mut self, offset: u64, data: &mut [u8]) {
        assert!(offset + data.len() as u64 <= SIZE);
        data.fill(self.mark);
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) {
        self.written.push((offset, data.to_vec()));
    }
}

fn marked(mark: u8, base: u64) -> Arc<Mutex<Marked>> {
    let identity = PciIdentity {
        vendor: 0x1af4,
        device: 0x1040 + u16::from(mark),
        revision: 1,
        class: ClassCode { class: 0xff, subclass: 0, interface: 0 },
        subsystem_vendor: 0,
        subsystem: 0,
    };
    let config = PciConfig::new(&identity).with_bar(Bar { base, size: SIZE });
    Arc::new(Mutex::new(Marked { config, mark, placed: None, written: Vec::new() }))
}

struct Machine {
    ports: ConfigurationPorts,
    ecam: EcamWindow,
    memory: MemoryWindow,
    functions: [Arc<Mutex<Marked>>; 2],
}

/// Functions in slots 1 and 5, their BARs next to each other.
fn machine() -> Machine {
    let functions = [marked(1, 0xc000_0000), marked(5, 0xc000_4000)];
    let mut root = PciRoot::new(WINDOW);
    root.add(1, functions[0].clone()).unwrap();
    root.add(5, functions[1].clone()).unwrap();
    let root = Arc::new(root);
    Machine {
        ports: ConfigurationPorts(root.clone()),
        ecam: EcamWindow(root.clone()),
        memory: MemoryWindow(root),
        functions,
    }
}

impl Machine {
    fn ecam_dword(&self, slot: u64, register: u64) -> u32 {
        let mut data = [0; 4];
        self.ecam.read(slot << 15 | register, &mut data);
        u32::from_le_bytes(data)
    }

    fn port_dword(&self, address: u32, port: u64) -> u32 {
        self.ports.write(0, &address.to_le_bytes());
        let mut data = [0; 4];
        self.ports.read(port, &mut data);
        u32::from_le_bytes(data)
    }

    fn memory_byte(&self, address: u64) -> u8 {
        let mut data = [0];
        self.memory.read(address - WINDOW.start, &mut data);
        data[0]
    }

    fn enable(&self, slot: u64, enabled: bool) {
        self.ecam.write(slot << 15 | 0x04, &[if enabled { 2 } else { 0 }, 0]);
    }

    fn move_bar(&self, slot: u64, base: u64) {
        self.ecam.write(slot << 15 | 0x10, &base.to_le_bytes());
    }
}

#[test]
fn both_configuration_windows_find_the_same_functions() {
    let machine = machine();
    for slot in 0..32u32 {
        let expected = match slot {
            0 => 0x0d57_8086,
            1 => 0x1041_1af4,
            5 => 0x1045_1af4,
            _ => u32::MAX,
        };
        assert_eq!(machine.ecam_dword(slot.into(), 0), expected);
        assert_eq!(machine.port_dword(0x8000_0000 | slot << 11, 4), expected);
    }
    assert_eq!(machine.ecam_dword(0, 8), 0x0600_0000, "a host bridge");
    assert_eq!(machine.ecam_dword(1, 256), u32::MAX, "no extended space");
    let mut second_function = [0; 4];
    machine.ecam.read(1 << 15 | 1 << 12, &mut second_function);
    assert_eq!(second_function, [0xff; 4]);
}

#[test]
fn configuration_ports_need_the_enable_bit_bus_zero_and_function_zero() {
    let machine = machine();
    assert_eq!(machine.port_dword(0x8000_0800, 0), 0x8000_0800, "the address reads back");
    assert_eq!(machine.port_dword(0x0000_0800, 4), u32::MAX);
    assert_eq!(machine.port_dword(0x8001_0800, 4), u32::MAX);
    assert_eq!(machine.port_dword(0x8000_0900, 4), u32::MAX);
    machine.ports.write(0, &0x8000_0800u32.to_le_bytes());
    machine.ports.write(3, &[0x01]);
    let mut device = [0; 2];
    machine.ports.read(6, &mut device);
    assert_eq!(device, [0x41, 0x10], "narrow reads of the data port, and the byte write did not count");
    let mut address_byte = [0];
    machine.ports.read(1, &mut address_byte);
    assert_eq!(address_byte, [0xff]);
}

#[test]
fn a_bar_answers_where_it_is_while_memory_space_is_enabled() {
    let machine = machine();
    assert_eq!(machine.memory_byte(0xc000_0000), 0xff, "disabled");
    machine.enable(1, true);
    machine.enable(5, true);
    assert_eq!(machine.functions[0].lock().unwrap().placed, Some(0xc000_0000));
    assert_eq!((machine.memory_byte(0xc000_3fff), machine.memory_byte(0xc000_4000)), (1, 5));
    machine.memory.write(0x4010, &[1, 2]);
    assert_eq!(machine.functions[1].lock().unwrap().written, [(0x10, vec![1, 2])]);
    let mut across = [0; 4];
    machine.memory.read(0x3ffe, &mut across);
    assert_eq!(across, [0xff; 4]);

    machine.move_bar(1, 0xd000_0000);
    assert_eq!((machine.memory_byte(0xc000_0000), machine.memory_byte(0xd000_0000)), (0xff, 1));
    machine.enable(1, false);
    assert_eq!(machine.memory_byte(0xd000_0000), 0xff);
    assert_eq!(machine.functions[0].lock().unwrap().placed, None);
}

#[test]
fn a_bar_outside_the_window_or_on_another_is_unreachable() {
    let machine = machine();
    machine.enable(1, true);
    machine.enable(5, true);
    for base in [0x1000, 0xe000_0000, 0x1_0000_0000, 0xffff_ffff_ffff_c000, 0xc000_4000] {
        machine.move_bar(1, base);
        assert_eq!(machine.functions[0].lock().unwrap().placed, None, "{base:#x}");
        assert_eq!(machine.memory_byte(0xc000_4000), 5);
    }
    machine.move_bar(5, 0xdfff_c000);
    assert_eq!(machine.memory_byte(0xdfff_ffff), 5);
    assert_eq!(machine.memory_byte(0xc000_4000), 1, "the one that was hidden shows");
}

#[test]
fn slots_are_checked() {
    let mut root = PciRoot::new(WINDOW);
    assert_eq!(root.add(0, marked(1, 0)), Err(PciRootError::SlotTaken { slot: 0 }));
    assert_eq!(root.add(32, marked(1, 0)), Err(PciRootError::NoSuchSlot { slot: 32 }));
    root.add(31, marked(1, 0)).unwrap();
}

proptest! {
    /// Any accesses through any window: no panic, and routes stay in the window and apart.
    #[test]
    fn arbitrary_accesses_keep_routes_apart(
        accesses in proptest::collection::vec(
            (0..3u8, any::<u32>(), proptest::collection::vec(any::<u8>(), 1..9), any::<bool>()), 0..60),
    ) {
        let machine = machine();
        machine.enable(1, true);
        machine.enable(5, true);
        for (window, place, mut data, writes) in accesses {
            let (device, offset): (&dyn BusDevice, u64) = match window {
                0 => (&machine.ports, u64::from(place % 8)),
                // Mostly the headers of the two functions.
                1 => (&machine.ecam, (u64::from(place % 2 * 4 + 1) << 15) + u64::from(place >> 8) % 64),
                _ => (&machine.memory, u64::from(place) % (WINDOW.end - WINDOW.start)),
            };
            if writes {
                device.write(offset, &data);
            } else {
                device.read(offset, &mut data);
            }
            let placed = machine.functions.each_ref().map(|function| function.lock().unwrap().placed);
            let bars = placed.map(|base| base.map(|base| Bar { base, size: SIZE }));
            for bar in bars.iter().flatten() {
                prop_assert!(bar.lies_in(&WINDOW));
            }
            if let [Some(first), Some(second)] = bars {
                prop_assert!(!first.overlaps(&second));
            }
        }
    }
}
