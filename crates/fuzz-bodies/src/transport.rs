//! Register accesses of any width to a virtio device, its set-up in any order, doorbells, resets and BAR moves
//! (virtio 1.2 §4.1), with any of the devices behind it.

use devices::virtio::VirtioDevice;
use devices::virtio::pci::{CommonConfig, QueueSettings, Stage};
use devices::virtio::rng::RngDevice;

use crate::bench::Bench;
use crate::input::Input;
use crate::{balloon, block, console, net, vsock};

/// Drives one device.
pub(crate) fn accesses(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    // Its sockets are on the host as long as this lives.
    let mut host = None;
    let device: Box<dyn VirtioDevice> = match input.below(7) {
        0 => Box::new(block::device(block::disk(), input.flag())),
        1 => Box::new(net::device(input.flag()).0),
        4 => Box::new(console::device().0),
        5 => Box::new(balloon::device(&mut input)),
        6 => {
            let (device, sockets) = vsock::device();
            host = Some(sockets);
            Box::new(device)
        }
        _ => Box::new(RngDevice::new().expect("a descriptor")),
    };
    let bench = Bench::new(device);
    if input.flag() {
        bench.start(input.quad_word());
    }
    while !input.is_empty() {
        let before = bench.device().common_config().clone();
        let course = step(&mut input, &bench);
        check(&before, bench.device().common_config(), course);
    }
    bench.settle();
    bench.device().reset();
    assert!(!bench.is_running());
    drop(host);
}

/// Whether a step may have left a running device with other settings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Course {
    Onward,
    /// The device was reset and set up again.
    Restarted,
}

fn step(input: &mut Input<'_>, bench: &Bench) -> Course {
    match input.below(12) {
        0 => bench.read(place(input), &mut vec![0; input.width()]),
        1 => bench.write(place(input), input.piece(9)),
        2 => bench.read_config(input.below(4096) as u64, &mut vec![0; input.width()]),
        3 => bench.write_config(input.below(256) as u64, input.piece(4)),
        4..7 => write_field(input, bench),
        7 => bench.device().handle_doorbell(input.byte().into()),
        8 => bench.device().handle_event(input.byte().into()),
        9 => pick(input, bench).write_something(input),
        10 => {
            pick(input, bench).offer_something(input);
            bench.write(0x1000 + 4 * input.below(6) as u64, &[0, 0]);
        }
        _ => match input.below(4) {
            0 => bench.device().kick_all(),
            1 => bench.device().announce_config_change(),
            2 => {
                bench.start(input.quad_word());
                return Course::Restarted;
            }
            _ => bench.settle(),
        },
    }
    Course::Onward
}

fn pick<'bench>(input: &mut Input<'_>, bench: &'bench Bench) -> &'bench crate::driver::Driver {
    &bench.drivers[input.below(bench.drivers.len())]
}

/// An offset in the BAR: mostly where something is.
fn place(input: &mut Input<'_>) -> u64 {
    const PARTS: [u64; 6] = [0, 0x100, 0x200, 0x1000, 0x2000, 0x3000];
    match input.below(4) {
        0 => input.below(0x4000) as u64,
        _ => PARTS[input.below(PARTS.len())] + input.below(64) as u64,
    }
}

/// A field of the common configuration, with a value that often means something.
fn write_field(input: &mut Input<'_>, bench: &Bench) {
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
    let (offset, width) = FIELDS[input.below(FIELDS.len())];
    let value = match input.below(4) {
        0 => input.double_word(),
        1 => u32::from(input.byte()) << 12,
        _ => u32::from(input.byte() % 16),
    };
    bench.write(offset, &value.to_le_bytes()[..width]);
}

/// What a running device relies on stays as it was; what a driver reads back is always possible.
fn check(before: &CommonConfig, after: &CommonConfig, course: Course) {
    let frozen = |config: &CommonConfig| -> (u64, Vec<QueueSettings>) {
        // Vectors stay live.
        let queues = config.queues.iter().map(|queue| QueueSettings { vector: 0, ..*queue });
        (config.driver_features, queues.collect())
    };
    let ran_on = before.status.stage == Stage::Running && after.status.stage == Stage::Running;
    if ran_on && course == Course::Onward {
        assert_eq!(frozen(before), frozen(after), "settings of a running device changed");
    }
    assert!(after.status.stage < Stage::FeaturesOk || after.driver_features & !after.offered_features == 0);
    for queue in &after.queues {
        assert!(queue.size.is_power_of_two() && queue.size <= queue.maximum);
        assert!(queue.vector < after.vectors || queue.vector == u16::MAX);
    }
}
