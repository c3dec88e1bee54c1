//! Tests of the configuration space.

use proptest::prelude::*;

use super::{Bar, CONFIG_BYTES, CapabilityError, ClassCode, PciConfig, PciIdentity};

const IDENTITY: PciIdentity = PciIdentity {
    vendor: 0x1af4,
    device: 0x1042,
    revision: 1,
    class: ClassCode { class: 1, subclass: 0x80, interface: 0 },
    subsystem_vendor: 0x1af4,
    subsystem: 0x1042,
};
const BAR: Bar = Bar { base: 0xc000_4000, size: 0x4000 };

fn config() -> PciConfig {
    PciConfig::new(&IDENTITY).with_bar(BAR)
}

fn dword(config: &PciConfig, offset: usize) -> u32 {
    let mut data = [0; 4];
    config.read(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn the_header_says_what_the_function_is() {
    let config = config();
    assert_eq!(dword(&config, 0x00), 0x1042_1af4);
    assert_eq!(dword(&config, 0x08), 0x0180_0001);
    assert_eq!(dword(&config, 0x2c), 0x1042_1af4);
    assert_eq!(dword(&config, 0x3c) & 0xff00, 0, "no interrupt pin");
    assert_eq!(config.bar(), Some(BAR));
    assert!(!config.memory_enabled());
}

#[test]
fn a_bar_is_sized_and_moved_as_drivers_do_it() {
    let mut config = config();
    for register in [0x10, 0x14] {
        config.write(register, &[0xff; 4]);
    }
    assert_eq!(dword(&config, 0x10), 0xffff_c004, "64-bit memory, 16 KiB");
    assert_eq!(dword(&config, 0x14), u32::MAX);
    assert_eq!(dword(&config, 0x18), 0, "no further BAR");
    config.write(0x10, &0xd000_1000u32.to_le_bytes());
    config.write(0x14, &1u32.to_le_bytes());
    assert_eq!(config.bar(), Some(Bar { base: 0x1_d000_0000, size: 0x4000 }), "aligned to its size");
    config.write(0x04, &[0x02]);
    assert!(config.memory_enabled());
    config.write(0x04, &[0x00, 0x00]);
    assert!(!config.memory_enabled());
}

#[test]
fn capabilities_are_linked_and_end() {
    let mut config = config();
    assert_eq!(dword(&config, 0x04) >> 16, 0);
    let first = config.add_capability(9, &[1; 14], &[0; 14]).unwrap();
    let second = config.add_capability(0x11, &[2; 10], &[0xff; 10]).unwrap();
    assert_eq!((first, second), (0x40, 0x50));
    assert_eq!(dword(&config, 0x04) >> 16, 0x10);
    assert_eq!(dword(&config, 0x34), 0x40);
    assert_eq!(dword(&config, 0x40), 0x0101_5009);
    assert_eq!(dword(&config, 0x50), 0x0202_0011);
    config.write(0x40, &[0xff; 16]);
    assert_eq!(dword(&config, 0x40), 0x0101_5009);
    config.write(0x50, &[0xff; 4]);
    assert_eq!(dword(&config, 0x50), 0xffff_0011);
    let refused = config.add_capability(9, &[0; 200], &[0; 200]);
    assert_eq!(refused, Err(CapabilityError { id: 9, length: 202, free: 0xa4 }));
}

proptest! {
    /// Any accesses: no panic, read-only bits stay, reads past the end are ones.
    #[test]
    fn read_only_bits_never_change(
        writes in proptest::collection::vec(
            (prop_oneof![0..300usize, Just(usize::MAX)], proptest::collection::vec(any::<u8>(), 0..9)), 0..40),
    ) {
        let mut config = config();
        config.add_capability(9, &[0xa5; 14], &[0x0f; 14]).unwrap();
        let before = config;
        for (offset, data) in writes {
            config.write(offset, &data);
            for at in 0..CONFIG_BYTES {
                let fixed = !before.writable[at];
                prop_assert_eq!(config.registers[at] & fixed, before.registers[at] & fixed);
            }
            let mut read = data.clone();
            config.read(offset, &mut read);
            for (position, byte) in read.iter().enumerate() {
                if offset.saturating_add(position) >= CONFIG_BYTES {
                    prop_assert_eq!(*byte, 0xff);
                }
            }
            let bar = config.bar().expect("there is one");
            prop_assert!(bar.base.is_multiple_of(bar.size));
        }
    }
}
