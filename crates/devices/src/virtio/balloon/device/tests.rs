//! The balloon under a driver, on a memfd and on private memory.

use std::fs::File;

use proptest::prelude::*;
use rustix::fs::MemfdFlags;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes as _, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vm_model::{BalloonCounters, Bytes};

use super::*;
use crate::memory::GuestMemory;
use crate::virtio::balloon::statistics::entry;
use crate::virtio::queue::RingFeatures;
use crate::virtio::queue::testing::{Buffer, CountingInterrupt, DriverQueue, small_memory};

const MEMORY: usize = 4 << 20;
/// Where the driver writes page numbers and figures.
const DATA: GuestAddress = GuestAddress(0x8000);
/// Pages from here on are the guest's to give up.
const FIRST_PAGE: u32 = 0x100;
const ALL_FEATURES: u64 = STATS_VQ | DEFLATE_ON_OOM | PAGE_REPORTING;

struct Bench {
    device: BalloonDevice,
    drivers: Vec<DriverQueue>,
    interrupts: Vec<Arc<CountingInterrupt>>,
    memory: Arc<GuestMemory>,
}

fn memfd_memory() -> (Arc<GuestMemory>, File) {
    let file = File::from(rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(MEMORY as u64).unwrap();
    let ranges = [(GuestAddress(0), MEMORY, Some(FileOffset::new(file.try_clone().unwrap(), 0)))];
    (Arc::new(GuestMemory::from_ranges_with_files(ranges).unwrap()), file)
}

fn config() -> BalloonDeviceConfig {
    BalloonDeviceConfig { memory: MEMORY as u64, target: 0, deflate_on_oom: true, free_page_reporting: true }
}

/// A balloon with a queue for each number in `enabled`.
fn active(memory: Arc<GuestMemory>, features: u64, enabled: &[u16]) -> Bench {
    let mut device = BalloonDevice::new(config()).unwrap();
    let (mut drivers, mut interrupts, mut queues) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..4_u16 {
        let driver = DriverQueue::new(Arc::clone(&memory), GuestAddress(u64::from(number) * 0x1000), 32);
        let (queue, interrupt) = driver.device_queue(RingFeatures::default());
        drivers.push(driver);
        interrupts.push(interrupt);
        queues.push(enabled.contains(&number).then_some(queue));
    }
    device.activate(Activation { memory: Arc::clone(&memory), features, queues }).unwrap();
    Bench { device, drivers, interrupts, memory }
}

fn standard() -> Bench {
    active(small_memory(MEMORY), ALL_FEATURES, &[0, 1, 2, 3])
}

#[test]
fn what_is_offered_follows_what_is_asked_for() {
    for (deflate_on_oom, free_page_reporting, features, queues) in [
        (false, false, 0, 3),
        (true, false, 1 << 2, 3),
        (false, true, 1 << 5, 4),
        (true, true, 1 << 2 | 1 << 5, 4),
    ] {
        let config = BalloonDeviceConfig { deflate_on_oom, free_page_reporting, ..config() };
        let device = BalloonDevice::new(config).unwrap();
        assert_eq!(device.offered_features() & (1 << 2 | 1 << 5), features, "{config:?}");
        assert_eq!(device.queue_sizes().len(), queues, "{config:?}");
        // Figures are told in any case; nothing else of a balloon is on offer.
        assert_eq!(device.offered_features() & 0x3f & !(1 << 2 | 1 << 5), 1 << 1, "{config:?}");
    }
}

impl Bench {
    /// Sends page numbers by the queue `number`.
    fn send(&mut self, number: u16, pages: &[u32]) {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        self.memory.write_slice(&bytes, DATA).unwrap();
        let length = u32::try_from(bytes.len()).unwrap();
        self.drivers[usize::from(number)].add_chain(&[Buffer::Readable(DATA, length)]);
        self.device.doorbell(number);
    }

    fn fill(&self, page: u32) {
        self.memory.write_slice(&[0xaa; 4096], GuestAddress(u64::from(page) * 4096)).unwrap();
    }

    fn first_byte(&self, page: u32) -> u8 {
        self.memory.read_obj(GuestAddress(u64::from(page) * 4096)).unwrap()
    }

    fn counters(&self) -> BalloonCounters {
        self.device.handle().counters()
    }

    fn more_to_do(&self) -> bool {
        self.device.go_on.take()
    }
}

#[test]
fn pages_given_up_are_zeroed_and_others_stay() {
    let (on_memfd, file) = memfd_memory();
    for memory in [small_memory(MEMORY), on_memfd] {
        let mut bench = active(memory, ALL_FEATURES, &[0, 1, 2, 3]);
        for page in FIRST_PAGE..FIRST_PAGE + 8 {
            bench.fill(page);
        }
        // Brings the driver's own pages into being.
        bench.send(INFLATE, &[u32::MAX]);
        let before = rustix::fs::fstat(&file).unwrap().st_blocks;
        let [one, two, three] = [FIRST_PAGE, FIRST_PAGE + 1, FIRST_PAGE + 5];
        bench.send(INFLATE, &[three, two, one, one]);
        // Looking at the pages would bring them back.
        let after = rustix::fs::fstat(&file).unwrap().st_blocks;
        let content: Vec<_> = (FIRST_PAGE..FIRST_PAGE + 8).map(|page| bench.first_byte(page)).collect();
        assert_eq!(content, [0, 0, 0xaa, 0xaa, 0xaa, 0, 0xaa, 0xaa]);
        assert_eq!(bench.counters().discarded, Bytes::new(3 * 4096));
        assert_eq!(bench.drivers[0].drain_used(), [(0, 0), (1, 0)]);
        assert_eq!(bench.interrupts[0].take(), 2);
        if bench.memory.iter().next().unwrap().file_offset().is_some() {
            assert_eq!(before - after, 3 * 8);
        }
        let region = bench.memory.iter().next().unwrap();
        assert!(
            region.bitmap().dirty_at(usize::try_from(one).unwrap() * 4096),
            "a change that a copier must see"
        );
        bench.send(DEFLATE, &[one, two, three]);
        assert_eq!(bench.drivers[1].drain_used(), [(0, 0)]);
    }
}

#[test]
fn pages_outside_memory_are_counted_and_the_rest_of_them_is_done() {
    let mut bench = standard();
    let last = u32::try_from(MEMORY / 4096).unwrap() - 1;
    bench.fill(last);
    bench.send(INFLATE, &[last, last + 1, last + 2, u32::MAX]);
    assert_eq!(bench.first_byte(last), 0);
    assert_eq!((bench.counters().discarded, bench.counters().refused_pages), (Bytes::new(4096), 3));
    assert!(!bench.device.is_broken());
}

#[test]
fn an_endless_chain_is_done_over_many_turns() {
    let mut bench = standard();
    // The same megabyte again and again, as numbers of pages that do not exist: 8 million of them.
    bench.memory.write_slice(&[0xff; 0x10_0000], GuestAddress(0x10_0000)).unwrap();
    let chain = [Buffer::Readable(GuestAddress(0x10_0000), 0x10_0000); 31];
    bench.drivers[0].add_chain(&chain);
    let mut turns = 1;
    bench.device.doorbell(INFLATE);
    assert_eq!(bench.drivers[0].used_index(), 0);
    while bench.more_to_do() {
        bench.device.event(GO_ON);
        turns += 1;
    }
    assert!(turns > 10, "{turns}");
    assert_eq!(bench.drivers[0].drain_used(), [(0, 0)]);
}

#[test]
fn free_pages_are_discarded_where_they_are_whole() {
    for (features, number) in [(ALL_FEATURES, 3), (PAGE_REPORTING, 2), (PAGE_REPORTING, 3)] {
        let mut bench = active(small_memory(MEMORY), features, &[0, 1, 2, 3][..]);
        if features == PAGE_REPORTING && number == 3 {
            bench = active(small_memory(MEMORY), features, &[0, 1, 3]);
        }
        for page in FIRST_PAGE..FIRST_PAGE + 4 {
            bench.fill(page);
        }
        let start = GuestAddress(u64::from(FIRST_PAGE) * 4096 + 1);
        bench.drivers[usize::from(number)].add_chain(&[Buffer::Writable(start, 3 * 4096)]);
        bench.device.doorbell(number);
        let content: Vec<_> = (FIRST_PAGE..FIRST_PAGE + 4).map(|page| bench.first_byte(page)).collect();
        assert_eq!(content, [0xaa, 0, 0, 0xaa]);
        assert_eq!(bench.drivers[usize::from(number)].drain_used(), [(0, 0)]);
    }
}

#[test]
fn figures_are_kept_cut_asked_for_again_and_forgotten_on_reset() {
    let mut bench = standard();
    let report = |bench: &mut Bench, available: u64| {
        let buffer = [entry(6, available), entry(5, u64::MAX - 1), entry(4, 0x1000)].concat();
        bench.memory.write_slice(&buffer, DATA).unwrap();
        bench.drivers[2].add_chain(&[Buffer::Readable(DATA, u32::try_from(buffer.len()).unwrap())]);
        bench.device.doorbell(STATISTICS);
    };
    assert_eq!(bench.counters().available, None);
    report(&mut bench, 0x20_0000);
    let figures = bench.counters();
    let expected = [0x20_0000, 0x1000, MEMORY as u64].map(|bytes| Some(Bytes::new(bytes)));
    assert_eq!(
        [figures.available, figures.free, figures.total],
        expected,
        "no guest has more than its memory"
    );
    assert_eq!(bench.drivers[2].drain_used(), [], "the chain is kept until figures are wanted");
    bench.device.event(ASK);
    assert_eq!(bench.drivers[2].drain_used(), [(0, 0)]);
    assert_eq!(bench.interrupts[2].take(), 1);
    bench.device.event(ASK);
    report(&mut bench, 0x1000);
    assert_eq!(bench.counters().available, Some(Bytes::new(0x1000)));
    bench.device.write_config(ACTUAL_OFFSET, &7_u32.to_le_bytes());
    assert_eq!(bench.counters().actual, Bytes::new(7 * 4096));
    bench.device.reset();
    assert_eq!((bench.counters().available, bench.counters().actual), (None, Bytes::default()));
}

#[test]
fn the_target_is_bounded_by_memory_and_read_by_the_driver() {
    let bench = standard();
    let handle = bench.device.handle();
    handle.set_target(MEMORY as u64).unwrap();
    let mut config = [0xff; 12];
    bench.device.read_config(0, &mut config);
    assert_eq!(config, [0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let error = handle.set_target(MEMORY as u64 + 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a balloon of 4194305 bytes is not possible: up to the guest's memory of 4194304 bytes is accepted"
    );
    assert_eq!(handle.counters().target, Bytes::new(MEMORY as u64));
    assert!(BalloonDevice::new(BalloonDeviceConfig { target: 1, ..Default::default() }).is_err());
}

#[test]
fn the_timer_runs_while_the_balloon_does() {
    let mut bench = standard();
    let armed = |bench: &Bench| {
        let time = rustix::time::timerfd_gettime(&bench.device.timer).unwrap().it_interval;
        (time.tv_sec, time.tv_nsec) != (0, 0)
    };
    assert!(armed(&bench));
    bench.device.reset();
    assert!(!armed(&bench));
    assert!(!armed(&active(small_memory(MEMORY), 0, &[0, 1])));
}

#[test]
fn a_malformed_chain_breaks_it_until_reset() {
    let mut bench = standard();
    bench.drivers[1].add_chain(&[Buffer::Raw(u64::MAX, 16, 0)]);
    bench.device.doorbell(DEFLATE);
    assert!(bench.device.is_broken());
    bench.device.doorbell(INFLATE);
    bench.device.reset();
    assert!(!bench.device.is_broken());
    let missing = Activation { memory: bench.memory.clone(), features: 0, queues: vec![None, None] };
    assert!(matches!(bench.device.activate(missing), Err(ActivateError::QueueDisabled { index: 0 })));
}

proptest! {
    /// Whatever a driver puts into its queues, the balloon neither panics nor works without end, and what is outside
    /// of the pages it was given stays.
    #[test]
    fn any_numbers_in_any_queue_leave_other_pages_alone(
        chains in proptest::collection::vec(
            (0..5_u16, any::<bool>(), 0x100_u32..0x500, 1..0x3000_u32, proptest::collection::vec(any::<u16>(), 1..80)),
            1..20,
        ),
    ) {
        let mut bench = standard();
        // Far from everything that the chains name: numbers are below 2^16, kept above the last page.
        bench.fill(0x80);
        for (number, writable, page, length, numbers) in chains {
            let bytes: Vec<u8> =
                numbers.iter().flat_map(|page| (u32::from(*page) | 0x100).to_le_bytes()).collect();
            let place = GuestAddress(u64::from(page % 0x300 + 0x100) * 4096 + u64::from(page % 4096));
            bench.memory.write_slice(&bytes, DATA).unwrap();
            let buffer = if writable {
                Buffer::Writable(place, length)
            } else {
                Buffer::Readable(DATA, u32::try_from(bytes.len()).unwrap().min(length))
            };
            if let Some(driver) = bench.drivers.get_mut(usize::from(number)) {
                driver.add_chain(&[buffer]);
            }
            bench.device.doorbell(number);
            bench.device.event(u16::from(writable));
            for _ in 0..4 {
                if bench.more_to_do() {
                    bench.device.event(GO_ON);
                }
            }
        }
        prop_assert_eq!(bench.first_byte(0x80), 0xaa);
    }
}
