//! The queues of a running console (virtio 1.2 §5.3.6), while it is typed at and resized.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use devices::serial::ConsoleSink;
use devices::virtio::console::{
    CONSOLE_INPUT_BYTES, ConsoleDevice, ConsoleDeviceConfig, ConsoleHandle, ConsoleSize,
};

use crate::bench::Bench;
use crate::driver::any_address;
use crate::input::Input;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// Far more than what a driver with two queues of sixteen descriptors can make available between two settlings.
const TRANSMITTED_MAX: u64 = 128 << 20;

/// Counts what the guest writes.
struct Counting(Arc<AtomicU64>);

impl ConsoleSink for Counting {
    fn write(&mut self, bytes: &[u8]) {
        assert!(!bytes.is_empty(), "a sink is called for nothing");
        self.0.fetch_add(bytes.len() as u64, Ordering::SeqCst);
    }
}

/// A console and what it counts.
pub(crate) fn device() -> (ConsoleDevice, Arc<AtomicU64>) {
    let written = Arc::new(AtomicU64::new(0));
    let sink = Box::new(Counting(written.clone()));
    let config = ConsoleDeviceConfig { sink, size: ConsoleSize::default() };
    (ConsoleDevice::new(config).expect("a few descriptors"), written)
}

/// Buffers to receive into and chains to transmit, of any size and place, and typing.
pub(crate) fn queues(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (device, written) = device();
    let handle = device.handle();
    let bench = Bench::new(Box::new(device));
    bench.start(input.quad_word());
    while !input.is_empty() {
        match input.below(8) {
            0 | 1 => receive_buffer(&mut input, &bench),
            2 | 3 => transmit_chain(&mut input, &bench),
            4 => type_something(&mut input, &handle),
            5 => {
                handle.set_size(ConsoleSize { columns: input.word(), rows: input.word() });
                bench.device().announce_config_change();
            }
            6 => {
                let queue = &bench.drivers[input.below(2)];
                if input.flag() {
                    queue.write_something(&mut input)
                } else {
                    queue.offer_something(&mut input)
                }
            }
            _ => {
                let before = written.load(Ordering::SeqCst);
                bench.settle();
                let passed_on = written.load(Ordering::SeqCst) - before;
                assert!(passed_on <= TRANSMITTED_MAX, "{passed_on} bytes in a bounded number of turns");
            }
        }
        bench.write(0x1000, &[0, 0]);
        bench.write(0x1004, &[1, 0]);
    }
    bench.settle();
    bench.device().reset();
    assert!(!bench.is_running());
}

fn type_something(input: &mut Input<'_>, handle: &ConsoleHandle) {
    let typed = input.below(1 << 13);
    let taken = handle.enqueue(&vec![b'x'; typed]);
    assert!(taken <= typed.min(CONSOLE_INPUT_BYTES), "{taken} of {typed} bytes taken");
}

fn receive_buffer(input: &mut Input<'_>, bench: &Bench) {
    let slot = u16::from(input.byte()) % 16;
    let (address, length) = (any_address(input), input.length());
    bench.drivers[0].describe(slot, address, length, WRITE, 0);
    bench.drivers[0].offer(slot);
}

/// A chain of up to four buffers, some of which the device may not read.
fn transmit_chain(input: &mut Input<'_>, bench: &Bench) {
    let (first, pieces) = (u16::from(input.byte()) % 16, u16::from(input.byte()) % 4);
    for piece in 0..=pieces {
        let slot = (first + piece) % 16;
        let (address, length) = (any_address(input), input.length() % 0x8000);
        let more = if piece < pieces { NEXT } else { 0 };
        let writable = if input.below(8) == 0 { WRITE } else { 0 };
        bench.drivers[1].describe(slot, address, length, more | writable, (slot + 1) % 16);
    }
    bench.drivers[1].offer(first);
}
