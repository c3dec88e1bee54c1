//! Arbitrary register accesses: no panic, and what is frozen stays frozen.

use proptest::prelude::*;

use super::machine::Machine;
use crate::bus::BusDevice;
use crate::virtio::pci::{BAR_BYTES, CommonConfig, QueueSettings, Stage};

#[derive(Clone, Debug)]
enum Access {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    ReadConfig(u64, usize),
    WriteConfig(u64, Vec<u8>),
    /// A whole field of the common configuration, with a value that often means something.
    Field(usize, u64),
    Doorbell(u16),
    Event(u16),
}

/// Offsets and widths of the common configuration's fields.
const FIELDS: [(u64, usize); 14] = [
    (0, 4),
    (8, 4),
    (12, 4),
    (16, 2),
    (20, 1),
    (22, 2),
    (24, 2),
    (26, 2),
    (28, 2),
    (32, 4),
    (36, 4),
    (40, 4),
    (48, 4),
    (52, 4),
];

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![0..4u8, any::<u8>()], 1..9)
}

fn any_access() -> impl Strategy<Value = Access> {
    let value = prop_oneof![0..4u64, Just(11), Just(15), (0..16u64).prop_map(|n| n << 12), any::<u64>()];
    // Mostly where something is.
    let place = prop_oneof![
        0..64u64,
        0x100..0x110u64,
        0x200..0x208u64,
        0x1000..0x1010u64,
        0x2000..0x2040u64,
        0..BAR_BYTES
    ];
    prop_oneof![
        1 => (place.clone(), 1..9usize).prop_map(|(at, width)| Access::Read(at, width)),
        1 => (place, any_bytes()).prop_map(|(at, data)| Access::Write(at, data)),
        1 => (0..4096u64, 1..9usize).prop_map(|(at, width)| Access::ReadConfig(at, width)),
        // Without BAR and command: the device should stay reachable.
        1 => (0x18..256u64, any_bytes()).prop_map(|(at, data)| Access::WriteConfig(at, data)),
        8 => (0..FIELDS.len(), value).prop_map(|(field, value)| Access::Field(field, value)),
        1 => (0..4u16).prop_map(Access::Doorbell),
        1 => (0..4u16).prop_map(Access::Event),
    ]
}

fn run(machine: &Machine, access: &Access) {
    let bar = super::BAR_BASE - 0xc000_0000;
    match access {
        Access::Read(at, width) => machine.window.read(bar + at, &mut vec![0; *width]),
        Access::Write(at, data) => machine.window.write(bar + at, data),
        Access::ReadConfig(at, width) => machine.ecam.read((3 << 15) + at, &mut vec![0; *width]),
        Access::WriteConfig(at, data) => machine.write_config(*at, data),
        Access::Field(field, value) => {
            let (at, width) = FIELDS[*field];
            machine.window.write(bar + at, &value.to_le_bytes()[..width]);
        }
        Access::Doorbell(queue) => machine.device().handle_doorbell(*queue),
        Access::Event(token) => machine.device().handle_event(*token),
    }
}

/// All that a running device relies on.
fn frozen(common: &CommonConfig) -> impl PartialEq + std::fmt::Debug + use<> {
    let queues = common.queues.iter().map(|queue| QueueSettings { vector: 0, ..*queue });
    (common.driver_features, queues.collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn arbitrary_accesses_are_harmless(
        starts: bool,
        accesses in proptest::collection::vec(any_access(), 0..80),
    ) {
        let machine = Machine::new();
        if starts {
            machine.start(1 << 32);
        }
        for access in &accesses {
            let before = machine.device().common_config().clone();
            run(&machine, access);
            let after = machine.device().common_config().clone();
            if before.status.stage == Stage::Running && after.status.stage == Stage::Running {
                prop_assert_eq!(frozen(&before), frozen(&after), "after {:?}", access);
            }
            prop_assert!(after.status.stage < Stage::FeaturesOk
                || after.driver_features & !after.offered_features == 0);
            for queue in &after.queues {
                prop_assert!(queue.size.is_power_of_two() && queue.size <= queue.maximum);
                prop_assert!(queue.vector < after.vectors || queue.vector == 0xffff);
            }
            prop_assert_eq!(machine.doorbells.addresses().len(), 2, "the BAR did not move");
        }
    }
}
