//! The queues of a running balloon (virtio 1.2 §5.5.6): pages given and taken, figures, reports of free pages.

use devices::virtio::balloon::{BalloonDevice, BalloonDeviceConfig};
use vm_memory::{Bytes, GuestAddress};

use crate::bench::Bench;
use crate::driver::any_address;
use crate::input::Input;

/// What the device is told of the machine's memory.
const MEMORY_BYTES: u64 = 16 << 20;
/// Where lists of page numbers and figures are put.
const LISTS_AT: u64 = 0x30000;
/// Offset of `actual` in the device's configuration, behind the transport's.
const DEVICE_CONFIGURATION: u64 = 0x200;

/// A balloon with or without what is optional.
pub(crate) fn device(input: &mut Input<'_>) -> BalloonDevice {
    let config = BalloonDeviceConfig {
        memory: MEMORY_BYTES,
        target: 0,
        deflate_on_oom: input.flag(),
        free_page_reporting: input.flag(),
    };
    BalloonDevice::new(config).expect("a few descriptors")
}

/// Lists of pages, figures and reports of any content and place, while the host changes its mind.
pub(crate) fn queues(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let device = device(&mut input);
    let handle = device.handle();
    let bench = Bench::new(Box::new(device));
    let queues = bench.drivers.len();
    bench.start(input.quad_word());
    while !input.is_empty() {
        let queue = input.below(queues);
        match input.below(8) {
            0..3 => offer_list(&mut input, &bench, queue),
            3 => {
                let (address, length) = (any_address(&mut input), input.length());
                bench.drivers[queue].describe(0, address, length, u16::from(input.byte()) & 7, 1);
                bench.drivers[queue].offer(0);
            }
            4 => bench.drivers[queue].write_something(&mut input),
            5 => {
                // A target above the machine's memory is refused.
                let _refused = handle.set_target(u64::from(input.word()) << 10);
                bench.device().announce_config_change();
            }
            6 => bench.write(DEVICE_CONFIGURATION + u64::from(input.byte() % 8), input.piece(4)),
            _ => bench.settle(),
        }
        for (number, _) in (0_u16..).zip(&bench.drivers) {
            bench.write(0x1000 + 4 * u64::from(number), &number.to_le_bytes());
        }
        let target = handle.counters().target.get();
        assert!(target <= MEMORY_BYTES, "a target of {target}");
    }
    bench.settle();
}

/// A chain of one buffer with what the input says in it.
fn offer_list(input: &mut Input<'_>, bench: &Bench, queue: usize) {
    let slot = u16::from(input.byte()) % 16;
    let at = LISTS_AT + u64::from(slot) * 256;
    let mut list = Vec::new();
    for _ in 0..input.below(64) {
        // Mostly pages that are there.
        let page = if input.flag() { u32::from(input.byte()) } else { input.double_word() };
        list.extend_from_slice(&page.to_le_bytes());
    }
    bench.memory.write_slice(&list, GuestAddress(at)).expect("lists are in memory");
    let length = u32::try_from(list.len()).expect("at most 256 bytes");
    bench.drivers[queue].describe(slot, at, length, 0, 0);
    bench.drivers[queue].offer(slot);
}
