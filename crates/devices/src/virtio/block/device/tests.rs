//! The whole device, driven through its queue as a guest would, on real files and by both engines.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;
use rustix::io::Errno;
use vm_memory::{Bytes, GuestAddress};

use super::super::engine::{Finished, Transfer};
use super::*;
use crate::log_capture::warnings_during;
use crate::virtio::BucketLimits;
use crate::virtio::queue::RingFeatures;
use crate::virtio::queue::testing::{Buffer, CountingInterrupt, DriverQueue, small_memory};

const ENGINES: [EngineChoice; 2] = [EngineChoice::Uring, EngineChoice::Thread];
const SECTORS: u64 = 64;
const MEMORY_BYTES: usize = 0x40000;
const HEADER: GuestAddress = GuestAddress(0x10000);
const DATA: GuestAddress = GuestAddress(0x20000);
const STATUS: GuestAddress = GuestAddress(0x30000);
const UNTOUCHED: u8 = 0xee;
const FLUSH_FEATURE: u64 = 1 << VIRTIO_BLK_F_FLUSH;

mod trouble;

struct Guest {
    device: BlockDevice,
    driver: DriverQueue,
    interrupt: Arc<CountingInterrupt>,
    file: File,
}

/// A disk whose sector `n` is full of the byte `n`.
fn disk() -> File {
    let file = tempfile::tempfile().unwrap();
    for sector in 0..SECTORS {
        file.write_all_at(&[u8::try_from(sector).unwrap(); 512], sector * 512).unwrap();
    }
    file
}

fn config(file: OwnedFd, access: DiskAccess, engine: EngineChoice) -> BlockDeviceConfig {
    BlockDeviceConfig {
        direct_file: None,
        file,
        format: DiskFormat::Raw,
        access,
        erasure: DiskErasure::Offered,
        caching: DiskCaching::Cached,
        serial: DiskSerial::new("root-disk"),
        queue_count: NonZeroU16::MIN,
        queue_size: QueueSize::default(),
        rate_limits: RateLimits::default(),
        on_io_error: OnIoError::Pause,
        engine,
        name: "disk-test".to_owned(),
    }
}

fn device(engine: EngineChoice, access: DiskAccess, file: &File) -> BlockDevice {
    BlockDevice::new(config(file.try_clone().unwrap().into(), access, engine)).unwrap()
}

fn guest(engine: EngineChoice, access: DiskAccess) -> Guest {
    let file = disk();
    let device = device(engine, access, &file);
    let driver = DriverQueue::new(small_memory(MEMORY_BYTES), GuestAddress(0), 64);
    let mut guest = Guest { device, interrupt: Arc::default(), driver, file };
    guest.activate();
    guest
}

impl Guest {
    fn activate(&mut self) {
        self.activate_with(FLUSH_FEATURE);
    }

    fn activate_with(&mut self, features: u64) {
        let (queue, interrupt) = self.driver.device_queue(RingFeatures::default());
        self.interrupt = interrupt;
        let activation =
            Activation { memory: Arc::clone(&self.driver.memory), features, queues: vec![Some(queue)] };
        self.device.activate(activation).unwrap();
    }

    fn add(&mut self, kind: u32, sector: u64, data: &[Buffer]) {
        let memory = &self.driver.memory;
        memory.write_obj(kind, HEADER).unwrap();
        memory.write_obj(sector, GuestAddress(HEADER.0 + 8)).unwrap();
        memory.write_obj(UNTOUCHED, STATUS).unwrap();
        let mut buffers = vec![Buffer::Readable(HEADER, 16)];
        buffers.extend_from_slice(data);
        buffers.push(Buffer::Writable(STATUS, 1));
        self.driver.add_chain(&buffers);
    }

    /// Serves what was added until nothing is in flight: the completions.
    fn serve(&mut self) -> Vec<(u16, u32)> {
        self.device.doorbell(0);
        assert!(self.device.drain(Instant::now() + Duration::from_secs(20)));
        self.driver.drain_used()
    }

    /// One request: its status and the bytes said to be written.
    fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
        self.add(kind, sector, data);
        let used = self.serve();
        assert_eq!(used.len(), 1);
        (self.read::<1>(STATUS)[0], used[0].1)
    }

    /// A discard (11) or write-zeroes (13) request: its status.
    fn erase(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
        for (place, (sector, sectors, flags)) in (0u64..).zip(ranges) {
            let at = DATA.0 + place * 16;
            self.driver.memory.write_obj(*sector, GuestAddress(at)).unwrap();
            self.driver.memory.write_obj(*sectors, GuestAddress(at + 8)).unwrap();
            self.driver.memory.write_obj(*flags, GuestAddress(at + 12)).unwrap();
        }
        let bytes = u32::try_from(ranges.len() * 16).unwrap();
        self.request(kind, 0, &[Buffer::Readable(DATA, bytes)]).0
    }

    /// The first byte of each sector of the file.
    fn sectors(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(SECTORS * 512).unwrap()];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes.chunks(512).map(|sector| sector[0]).collect()
    }

    fn read<const N: usize>(&self, address: GuestAddress) -> [u8; N] {
        let mut bytes = [0; N];
        self.driver.memory.read_slice(&mut bytes, address).unwrap();
        bytes
    }

    fn counts(&self) -> crate::virtio::block::BlockCounts {
        self.device.counters().counts()
    }
}

fn for_each_engine(access: DiskAccess, test: impl Fn(Guest)) {
    for engine in ENGINES {
        test(guest(engine, access));
    }
}

#[test]
fn reads_fill_the_guests_buffers() {
    for_each_engine(DiskAccess::ReadOnly, |mut guest| {
        let split = [Buffer::Writable(DATA, 100), Buffer::Writable(GuestAddress(DATA.0 + 0x1000), 924)];
        assert_eq!(guest.request(0, 7, &split), (0, 1025));
        assert_eq!(guest.read::<101>(DATA)[98..], [7, 7, 0]);
        assert_eq!(guest.read::<924>(GuestAddress(DATA.0 + 0x1000))[411..413], [7, 8]);
        assert_eq!(guest.interrupt.take(), 1);
        assert_eq!((guest.counts().read_operations, guest.counts().read_bytes), (1, 1024));
    });
}

#[test]
fn writes_reach_the_file_and_flushes_succeed() {
    for_each_engine(DiskAccess::ReadWrite, |mut guest| {
        guest.driver.memory.write_slice(&[0x5a; 512], DATA).unwrap();
        assert_eq!(guest.request(1, 3, &[Buffer::Readable(DATA, 512)]), (0, 1));
        assert_eq!(guest.request(4, 0, &[]), (0, 1));
        let mut around = [0; 514];
        guest.file.read_exact_at(&mut around, 3 * 512 - 1).unwrap();
        assert_eq!((around[0], around[1], around[512], around[513]), (2, 0x5a, 0x5a, 4));
        let counts = guest.counts();
        assert_eq!((counts.write_operations, counts.written_bytes, counts.flush_operations), (1, 512, 1));
    });
}

#[test]
fn a_driver_without_flush_gets_durable_writes() {
    for engine in ENGINES {
        let mut guest = guest(engine, DiskAccess::ReadWrite);
        guest.device.reset();
        guest.driver = DriverQueue::new(small_memory(MEMORY_BYTES), GuestAddress(0), 64);
        let (queue, _interrupt) = guest.driver.device_queue(RingFeatures::default());
        let activation =
            Activation { memory: Arc::clone(&guest.driver.memory), features: 0, queues: vec![Some(queue)] };
        guest.device.activate(activation).unwrap();
        assert!(matches!(guest.device.state, State::Active { mode: WriteMode::Through, .. }));
        assert_eq!(guest.request(1, 3, &[Buffer::Readable(DATA, 512)]), (0, 1));
    }
}

#[test]
fn discards_punch_holes_into_the_file() {
    use std::os::unix::fs::MetadataExt;
    for_each_engine(DiskAccess::ReadWrite, |mut guest| {
        guest.file.sync_all().unwrap();
        let before = guest.file.metadata().unwrap().blocks();
        assert_eq!(guest.erase(11, &[(8, 8, 0), (24, 16, 0)]), 0);
        guest.file.sync_all().unwrap();
        assert_eq!(guest.file.metadata().unwrap().blocks(), before - 24, "24 sectors are given back");
        let sectors = guest.sectors();
        assert!((0..64u8).zip(sectors).all(|(number, byte)| {
            byte == if (8..16).contains(&number) || (24..40).contains(&number) { 0 } else { number }
        }));
        assert_eq!((guest.counts().erase_operations, guest.counts().errors), (1, 0));
    });
}

#[test]
fn zeroes_read_as_zeros_and_keep_the_size() {
    for_each_engine(DiskAccess::ReadWrite, |mut guest| {
        assert_eq!(guest.erase(13, &[(1, 2, 0), (63, 1, 1), (5, 0, 0)]), 0);
        let sectors = guest.sectors();
        assert_eq!((sectors[..5].to_vec(), &sectors[61..]), (vec![0, 0, 0, 3, 4], &[61, 62, 0][..]));
        assert_eq!(guest.file.metadata().unwrap().len(), SECTORS * 512);
    });
}

#[test]
fn erasures_against_the_rules_change_nothing() {
    for_each_engine(DiskAccess::ReadWrite, |mut guest| {
        let before = guest.sectors();
        assert_eq!(guest.erase(11, &[(8, 8, 1)]), 2, "a discard with the unmap flag");
        assert_eq!(guest.erase(13, &[(8, 8, 2)]), 2, "a flag that does not exist");
        assert_eq!(guest.erase(11, &[(8, 8, 0), (60, 5, 0)]), 1, "past the end");
        assert_eq!(guest.erase(13, &[(u64::MAX, 1, 0)]), 1);
        assert_eq!(guest.sectors(), before);
        assert_eq!(guest.counts().errors, 4);
    });
}

#[test]
fn erasure_is_offered_for_writable_disks_alone() {
    let erasure = 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
    let offered = |access| {
        let device = device(EngineChoice::Thread, access, &disk());
        let mut limits = [0; 24];
        device.read_config(36, &mut limits);
        (device.offered_features() & erasure, limits)
    };
    assert_eq!(offered(DiskAccess::ReadOnly), (0, [0; 24]));
    let (features, limits) = offered(DiskAccess::ReadWrite);
    assert_eq!(features, erasure);
    let words: Vec<_> = limits.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    assert_eq!(words, [1 << 21, 32, 8, 1 << 17, 32, 1]);
}

#[test]
fn a_read_only_disk_refuses_writes_and_keeps_its_content() {
    for_each_engine(DiskAccess::ReadOnly, |mut guest| {
        assert_eq!(guest.request(1, 3, &[Buffer::Readable(DATA, 512)]), (1, 1));
        let mut byte = [0];
        guest.file.read_exact_at(&mut byte, 3 * 512).unwrap();
        assert_eq!(byte, [3]);
        assert_eq!(guest.counts().errors, 1);
        assert_ne!(guest.device.offered_features() & 1 << VIRTIO_BLK_F_RO, 0);
    });
}

#[test]
fn the_serial_number_is_told() {
    for_each_engine(DiskAccess::ReadOnly, |mut guest| {
        assert_eq!(guest.request(8, 0, &[Buffer::Writable(DATA, 20)]), (0, 21));
        assert_eq!(&guest.read::<20>(DATA), b"root-disk\0\0\0\0\0\0\0\0\0\0\0");
    });
}

#[test]
fn unknown_requests_are_unsupported() {
    for_each_engine(DiskAccess::ReadWrite, |mut guest| {
        assert_eq!(guest.request(14, 0, &[Buffer::Readable(DATA, 16)]).0, 2);
    });
}

#[test]
fn a_disk_truncated_underneath_gives_errors() {
    for access in [DiskAccess::ReadOnly, DiskAccess::ReadWrite] {
        for_each_engine(access, |mut guest| {
            guest.file.set_len(512 * 10 + 5).unwrap();
            assert_eq!(guest.request(0, 10, &[Buffer::Writable(DATA, 512)]).0, 1);
            assert_eq!(guest.request(0, 50, &[Buffer::Writable(DATA, 512)]).0, 1);
            assert_eq!(guest.request(0, 9, &[Buffer::Writable(DATA, 512)]).0, 0);
            assert_eq!(guest.counts().errors, 2);
        });
    }
}

#[test]
fn what_a_truncated_disk_lost_is_neither_read_nor_written_nor_erased_again() {
    let part = || [Buffer::Readable(DATA, 1024)];
    for features in [FLUSH_FEATURE, 0] {
        for_each_engine(DiskAccess::ReadWrite, |mut guest| {
            guest.device.reset();
            guest.driver = DriverQueue::new(small_memory(MEMORY_BYTES), GuestAddress(0), 64);
            guest.activate_with(features);
            guest.file.set_len(512 * 10).unwrap();
            let ((), warnings) = warnings_during(|| {
                assert_eq!(guest.request(1, 50, &part()).0, 1, "past the end");
                assert_eq!(guest.request(1, 9, &part()).0, 1, "across the end");
                assert_eq!(guest.erase(11, &[(8, 1, 0), (32, 8, 0)]), 1);
                assert_eq!(guest.erase(13, &[(40, 1, 0)]), 1);
                assert_eq!(guest.file.metadata().unwrap().len(), 512 * 10, "nothing makes it longer");
                // Whoever makes it longer does not bring back what was there.
                guest.file.set_len(512 * SECTORS).unwrap();
                assert_eq!(guest.request(0, 10, &[Buffer::Writable(DATA, 512)]).0, 1);
                assert_eq!(guest.request(1, 63, &[Buffer::Readable(DATA, 512)]).0, 1);
                assert_eq!(guest.erase(13, &[(11, 1, 0)]), 1);
                assert_eq!(guest.request(1, 8, &part()).0, 0, "up to the end");
                assert_eq!(guest.erase(13, &[(2, 1, 0)]), 0);
                assert_eq!(guest.request(0, 3, &[Buffer::Writable(DATA, 512)]), (0, 513));
                assert_eq!(guest.read::<1>(DATA), [3]);
                assert_eq!(guest.request(4, 0, &[]).0, 0, "there is nothing wrong with flushing");
            });
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains("disk-test"), "{warnings:?}");
            assert_eq!(guest.counts().errors, 7);
        });
    }
}

#[test]
fn a_write_under_way_while_its_file_is_truncated_does_not_hide_that() {
    let file = disk();
    let (mut device, transfers) = stuck_device(QueueShape { count: 1, size: 256 });
    let service = device.service.as_mut().unwrap();
    service.shape.access = DiskAccess::ReadWrite;
    service.end = FileEnd::of(&file.try_clone().unwrap().into(), "disk-test").unwrap();
    let driver = DriverQueue::new(small_memory(MEMORY_BYTES), GuestAddress(0), 64);
    let mut guest = Guest { device, interrupt: Arc::default(), driver, file };
    guest.activate();
    guest.add(1, 30, &[Buffer::Readable(DATA, 512)]);
    guest.device.doorbell(0);
    // The kernel gets to the write only after the truncation.
    guest.file.set_len(512 * 10).unwrap();
    guest.file.write_all_at(&[9; 512], 512 * 30).unwrap();
    transfers.lock().unwrap().end_all();
    guest.device.event(COMPLETIONS);
    assert_eq!((guest.driver.drain_used().len(), guest.read::<1>(STATUS)), (1, [1]));
    guest.add(0, 30, &[Buffer::Writable(DATA, 512)]);
    guest.device.doorbell(0);
    assert_eq!((guest.driver.drain_used().len(), guest.read::<1>(STATUS)), (1, [1]));
    // As above, with a write that nobody waits for any more when it ends.
    guest.add(1, 3, &[Buffer::Readable(DATA, 512)]);
    guest.device.doorbell(0);
    guest.device.reset();
    guest.file.set_len(0).unwrap();
    guest.file.write_all_at(&[9; 512], 512 * 3).unwrap();
    transfers.lock().unwrap().end_all();
    assert!(guest.device.is_settled());
    guest.driver = DriverQueue::new(small_memory(MEMORY_BYTES), GuestAddress(0), 64);
    guest.activate();
    guest.add(0, 3, &[Buffer::Writable(DATA, 512)]);
    guest.device.doorbell(0);
    assert_eq!((guest.driver.drain_used().len(), guest.read::<1>(STATUS)), (1, [1]));
    assert!(transfers.lock().unwrap().waiting.is_empty(), "nothing reached the file");
}

#[test]
fn a_disk_whose_file_was_unlinked_goes_on() {
    for engine in ENGINES {
        let named = tempfile::NamedTempFile::new().unwrap();
        named.as_file().set_len(SECTORS * 512).unwrap();
        let device = device(engine, DiskAccess::ReadWrite, named.as_file());
        let (file, path) = named.into_parts();
        path.close().unwrap();
        let driver = DriverQueue::new(small_memory(MEMORY_BYTES), GuestAddress(0), 64);
        let mut guest = Guest { device, interrupt: Arc::default(), driver, file };
        guest.activate();
        guest.driver.memory.write_slice(&[0x5a; 512], DATA).unwrap();
        assert_eq!(guest.request(1, 63, &[Buffer::Readable(DATA, 512)]).0, 0);
        assert_eq!(guest.request(4, 0, &[]).0, 0);
        assert_eq!(guest.erase(13, &[(62, 1, 0)]), 0);
        assert_eq!(guest.request(0, 63, &[Buffer::Writable(GuestAddress(DATA.0 + 0x1000), 512)]).0, 0);
        assert_eq!(guest.read::<1>(GuestAddress(DATA.0 + 0x1000)), [0x5a]);
    }
}

#[test]
fn a_chain_without_a_status_byte_goes_back_untouched() {
    for_each_engine(DiskAccess::ReadOnly, |mut guest| {
        guest.driver.add_chain(&[Buffer::Readable(HEADER, 16)]);
        assert_eq!(guest.serve(), [(0, 0)]);
        assert!(!guest.device.is_broken());
    });
}

#[test]
fn a_full_queue_of_requests_is_served_and_its_events_are_watched() {
    for_each_engine(DiskAccess::ReadOnly, |mut guest| {
        for sector in 0..21 {
            guest.add(0, sector, &[Buffer::Writable(DATA, 512)]);
        }
        guest.device.doorbell(0);
        let mut used = guest.driver.drain_used();
        let deadline = Instant::now() + Duration::from_secs(20);
        while used.len() < 21 {
            assert!(Instant::now() < deadline, "all requests end in time");
            let mut watched = guest
                .device
                .events()
                .iter()
                .map(|event| rustix::event::PollFd::from_borrowed_fd(event.fd, rustix::event::PollFlags::IN))
                .collect::<Vec<_>>();
            rustix::event::poll(&mut watched, None).unwrap();
            guest.device.event(COMPLETIONS);
            used.extend(guest.driver.drain_used());
        }
        assert!(guest.interrupt.take() >= 1);
    });
}

#[test]
fn a_reset_forgets_requests_in_flight() {
    for_each_engine(DiskAccess::ReadOnly, |mut guest| {
        guest.add(0, 1, &[Buffer::Writable(DATA, 512)]);
        guest.add(0, 2, &[Buffer::Writable(DATA, 512)]);
        guest.device.doorbell(0);
        let before = guest.driver.used_index();
        guest.device.reset();
        guest.device.reset();
        guest.device.doorbell(0);
        assert!(guest.device.drain(Instant::now() + Duration::from_secs(20)));
        assert!(guest.device.is_settled());
        guest.device.event(COMPLETIONS);
        assert_eq!(guest.driver.used_index(), before);
        assert_eq!(Arc::strong_count(&guest.driver.memory), 1, "nothing holds guest memory");
        guest.driver = DriverQueue::new(Arc::clone(&guest.driver.memory), GuestAddress(0x8000), 64);
        guest.activate();
        assert_eq!(guest.request(0, 5, &[Buffer::Writable(DATA, 512)]), (0, 513));
        assert_eq!(guest.read::<1>(DATA), [5]);
    });
}

#[test]
fn a_broken_queue_breaks_the_device_until_reset() {
    for_each_engine(DiskAccess::ReadOnly, |mut guest| {
        guest.driver.add_chain(&[Buffer::Raw(u64::MAX - 100, 16, 0)]);
        guest.device.doorbell(0);
        assert!(guest.device.is_broken());
        guest.device.doorbell(0);
        assert_eq!(guest.driver.used_index(), 0);
        guest.device.reset();
        assert!(!guest.device.is_broken());
    });
}

#[test]
fn activation_needs_the_queue() {
    let file = disk();
    let mut device = device(EngineChoice::Thread, DiskAccess::ReadOnly, &file);
    let refused =
        device.activate(Activation { memory: small_memory(0x1000), features: 0, queues: vec![None] });
    assert!(matches!(refused, Err(ActivateError::QueueDisabled { index: 0 })));
}

#[test]
fn configuration_tells_capacity_and_limits() {
    let file = disk();
    file.set_len(SECTORS * 512 + 100).unwrap();
    let device = device(EngineChoice::Automatic, DiskAccess::ReadWrite, &file);
    let field = |offset: u64| {
        let mut bytes = [0xff; 8];
        device.read_config(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    };
    assert_eq!(field(0), SECTORS);
    assert_eq!(field(12) & 0xffff_ffff, 254);
    assert_eq!(field(20) & 0xffff_ffff, 512);
    assert_eq!(field(60), 0);
    assert_eq!(field(u64::MAX), 0);
}

#[test]
fn files_that_are_no_disks_are_refused() {
    let config = |file: OwnedFd, access| config(file, access, EngineChoice::Automatic);
    let directory = File::open("/").unwrap();
    let refused = BlockDevice::new(config(directory.into(), DiskAccess::ReadOnly));
    assert!(matches!(refused, Err(DiskError::Kind { .. })));
    let named = tempfile::NamedTempFile::new().unwrap();
    let read_only = File::open(named.path()).unwrap();
    let refused = BlockDevice::new(config(read_only.into(), DiskAccess::ReadWrite));
    assert!(matches!(refused, Err(DiskError::Access { .. })));
}

#[test]
fn serial_numbers_are_cut_at_a_character() {
    assert_eq!(DiskSerial::new("0123456789012345678ä").bytes(), b"0123456789012345678\0");
}

/// An engine whose transfers end when a test says so.
struct StuckEngine {
    event: crate::wake::WakeEvent,
    transfers: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    waiting: Vec<(u16, Transfer)>,
    /// How each ended: at once with an error, if there is one.
    over: Vec<(u16, Transfer, Option<Errno>)>,
}

impl Held {
    fn end_all(&mut self) {
        self.over.extend(self.waiting.drain(..).map(|(slot, transfer)| (slot, transfer, None)));
    }

    /// The next system call of each moves `moved` bytes, and the one after it fails.
    fn fail_all(&mut self, moved: u64, errno: Errno) {
        for (slot, mut transfer) in self.waiting.drain(..) {
            let _more = transfer.progress(Ok(moved));
            self.over.push((slot, transfer, Some(errno)));
        }
    }
}

impl BlockEngine for StuckEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Thread
    }

    fn completions(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.event)
    }

    fn wake(&self) {
        self.event.ring();
    }

    fn start(&mut self, slot: u16, transfer: Transfer) -> Result<(), Transfer> {
        self.transfers.lock().unwrap().waiting.push((slot, transfer));
        Ok(())
    }

    fn submit(&mut self) {}

    fn finished(&mut self) -> Option<Finished> {
        let (slot, transfer, errno) = self.transfers.lock().unwrap().over.pop()?;
        Some(Finished { slot, transfer, result: errno.map_or(Ok(()), |errno| Err(errno.into())) })
    }

    fn in_flight(&self) -> u16 {
        let transfers = self.transfers.lock().unwrap();
        u16::try_from(transfers.waiting.len() + transfers.over.len()).unwrap()
    }

    fn wait(&mut self, deadline: Instant) -> bool {
        std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
        false
    }
}

fn stuck_device(queues: QueueShape) -> (BlockDevice, Arc<Mutex<Held>>) {
    stuck_device_of(queues, SECTORS)
}

fn stuck_device_of(queues: QueueShape, sectors: u64) -> (BlockDevice, Arc<Mutex<Held>>) {
    let transfers = Arc::new(Mutex::new(Held::default()));
    let event = crate::wake::WakeEvent::new().unwrap();
    let engine = StuckEngine { event, transfers: Arc::clone(&transfers) };
    let shape = DiskShape { sectors, access: DiskAccess::ReadOnly, erasure: DiskErasure::Offered };
    let parts = EngineParts {
        engine: Box::new(engine),
        shape,
        end: None,
        serial: DiskSerial::default(),
        limiter: None,
    };
    let device = BlockDevice::on_engine(parts, queues, OnIoError::Pause);
    (device, transfers)
}

fn stuck_guest() -> (Guest, Arc<Mutex<Held>>) {
    let (device, transfers) = stuck_device(QueueShape { count: 1, size: 256 });
    let driver = DriverQueue::new(small_memory(MEMORY_BYTES), GuestAddress(0), 64);
    let mut guest = Guest { device, interrupt: Arc::default(), driver, file: disk() };
    guest.activate();
    (guest, transfers)
}

#[test]
fn a_disk_that_does_not_answer_keeps_the_device_from_starting_again() {
    let (mut guest, transfers) = stuck_guest();
    guest.add(0, 1, &[Buffer::Writable(DATA, 512)]);
    guest.device.doorbell(0);
    assert!(!guest.device.drain(Instant::now() + Duration::from_millis(5)));
    guest.device.reset();
    assert!(!guest.device.is_settled());
    assert!(!guest.device.drain(Instant::now() + Duration::from_millis(5)));
    assert_eq!(Arc::strong_count(&guest.driver.memory), 2, "the disk may still fill the guest's memory");

    let activate = |guest: &mut Guest| {
        let (queue, _interrupt) = guest.driver.device_queue(RingFeatures::default());
        let memory = Arc::clone(&guest.driver.memory);
        guest.device.activate(Activation { memory, features: FLUSH_FEATURE, queues: vec![Some(queue)] })
    };
    assert!(matches!(activate(&mut guest), Err(ActivateError::Backend(_))));
    transfers.lock().unwrap().end_all();
    assert!(guest.device.is_settled());
    activate(&mut guest).unwrap();
    guest.device.event(COMPLETIONS);
    assert_eq!(guest.driver.used_index(), 0, "what ended late is not told to the new queue");
    assert_eq!(guest.read::<1>(STATUS), [UNTOUCHED]);
}

#[test]
fn the_end_of_a_device_waits_for_nothing() {
    let (mut guest, transfers) = stuck_guest();
    guest.add(0, 1, &[Buffer::Writable(DATA, 512)]);
    guest.device.doorbell(0);
    guest.device.reset();
    let memory = Arc::clone(&guest.driver.memory);
    let started = Instant::now();
    let ((), warnings) = warnings_during(|| drop(guest));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(Arc::strong_count(&memory), 2, "the disk may still fill the guest's memory");
    transfers.lock().unwrap().end_all();
}

#[test]
fn a_turn_takes_so_many_bytes_and_goes_on_later() {
    let (device, transfers) = stuck_device_of(QueueShape { count: 1, size: 256 }, 1 << 30);
    let driver = DriverQueue::new(small_memory(64 << 20), GuestAddress(0), 64);
    let mut guest = Guest { device, interrupt: Arc::default(), driver, file: disk() };
    guest.activate();
    for _request in 0..5 {
        guest.add(0, 0, &[Buffer::Writable(GuestAddress(0x10_0000), 9 << 20)]);
    }
    guest.device.doorbell(0);
    assert_eq!(transfers.lock().unwrap().waiting.len(), 4, "the fourth passes 32 MiB");
    let rung = rustix::io::read(guest.device.events()[0].fd, &mut [0; 8]);
    assert_eq!(rung, Ok(8), "the device asks to be called again");
    guest.device.event(COMPLETIONS);
    assert_eq!(transfers.lock().unwrap().waiting.len(), 5);
}

#[test]
fn a_turn_walks_so_many_buffers_and_goes_on_later() {
    const SIZE: u16 = 256;
    let (device, _transfers) = stuck_device(QueueShape { count: 1, size: SIZE });
    let driver = DriverQueue::new(small_memory(MEMORY_BYTES), GuestAddress(0), SIZE);
    let mut guest = Guest { device, interrupt: Arc::default(), driver, file: disk() };
    guest.activate();
    // No request at all, as long as a chain may be, and the same one as often as there is room.
    let head = guest.driver.add_chain(&[Buffer::Writable(DATA, 1); SIZE as usize]);
    for _again in 1..SIZE {
        guest.driver.publish(head);
    }
    guest.device.doorbell(0);
    assert_eq!(guest.driver.used_index(), 32, "8192 buffers");
    while guest.driver.used_index() < SIZE {
        assert_eq!(rustix::io::read(guest.device.events()[0].fd, &mut [0; 8]), Ok(8));
        guest.device.event(COMPLETIONS);
    }
    assert!(!guest.device.is_broken());
}

#[test]
fn a_drain_that_took_too_long_loses_nothing() {
    let (mut guest, transfers) = stuck_guest();
    guest.add(0, 1, &[Buffer::Writable(DATA, 512)]);
    guest.device.doorbell(0);
    assert!(!guest.device.drain(Instant::now() + Duration::from_millis(5)));
    transfers.lock().unwrap().end_all();
    assert!(guest.device.drain(Instant::now() + Duration::from_millis(5)));
    assert_eq!(guest.driver.drain_used(), [(0, 513)]);
    assert_eq!(guest.read::<1>(STATUS), [0]);
}

#[test]
fn qcow2_images_are_read_only_and_checked() {
    let with = |file: File, access, caching| {
        let mut config = config(file.into(), access, EngineChoice::Automatic);
        config.format = DiskFormat::Qcow2;
        config.caching = caching;
        BlockDevice::new(config).map(|_device| ())
    };
    let (read, cached) = (DiskAccess::ReadOnly, DiskCaching::Cached);
    assert!(matches!(with(disk(), read, cached), Err(DiskError::Image(_))), "a raw disk");
    assert!(matches!(with(disk(), DiskAccess::ReadWrite, cached), Err(DiskError::ImageUse)));
    assert!(matches!(with(disk(), read, DiskCaching::Direct), Err(DiskError::ImageUse)));
}

#[test]
fn direct_transfers_and_unaligned_ones_see_the_same_disk() {
    for engine in ENGINES {
        let file = disk();
        let mut config = config(file.try_clone().unwrap().into(), DiskAccess::ReadWrite, engine);
        config.caching = DiskCaching::Direct;
        let device = BlockDevice::new(config).unwrap();
        let driver = DriverQueue::new(small_memory(MEMORY_BYTES), GuestAddress(0), 64);
        let mut guest = Guest { device, interrupt: Arc::default(), driver, file };
        guest.activate();
        let (aligned, odd) = (DATA, GuestAddress(DATA.0 + 0x2001));
        guest.driver.memory.write_slice(&[0xa1; 4096], aligned).unwrap();
        guest.driver.memory.write_slice(&[0xb2; 512], odd).unwrap();
        assert_eq!(guest.request(1, 8, &[Buffer::Readable(aligned, 4096)]), (0, 1));
        assert_eq!(guest.request(1, 9, &[Buffer::Readable(odd, 512)]), (0, 1));
        assert_eq!(guest.request(0, 8, &[Buffer::Writable(aligned, 4096)]), (0, 4097));
        let seen = guest.read::<4096>(aligned);
        assert!(seen.iter().enumerate().all(|(at, byte)| *byte == if at / 512 == 1 { 0xb2 } else { 0xa1 }));
        assert_eq!(guest.request(4, 0, &[]), (0, 1));
        guest.file.set_len(512 * 10).unwrap();
        assert_eq!(guest.request(0, 8, &[Buffer::Writable(aligned, 4096)]).0, 1, "truncated underneath");
    }
}

/// Several queues of one device, each with buffers of its own.
struct Queues {
    device: BlockDevice,
    drivers: Vec<DriverQueue>,
}

impl Queues {
    /// Enables `count` queues of a device that has one more.
    fn new(mut device: BlockDevice, count: u64) -> Self {
        let memory = small_memory(MEMORY_BYTES);
        let drivers: Vec<_> = (0..count)
            .map(|queue| DriverQueue::new(Arc::clone(&memory), GuestAddress(queue * 0x2000), 64))
            .collect();
        let mut queues: Vec<_> =
            drivers.iter().map(|driver| Some(driver.device_queue(RingFeatures::default()).0)).collect();
        queues.push(None);
        device.activate(Activation { memory, features: FLUSH_FEATURE, queues }).unwrap();
        Self { device, drivers }
    }

    fn add_read(&mut self, queue: u16, sector: u64) {
        let part = u64::from(queue) * 0x1000;
        let header = GuestAddress(HEADER.0 + part);
        let driver = &mut self.drivers[usize::from(queue)];
        driver.memory.write_obj(0u64, header).unwrap();
        driver.memory.write_obj(sector, GuestAddress(header.0 + 8)).unwrap();
        driver.add_chain(&[
            Buffer::Readable(header, 16),
            Buffer::Writable(GuestAddress(DATA.0 + part), 512),
            Buffer::Writable(GuestAddress(STATUS.0 + part), 1),
        ]);
    }

    fn completed(&self) -> Vec<u16> {
        self.drivers.iter().map(DriverQueue::used_index).collect()
    }
}

fn device_with_queues(engine: EngineChoice, count: u16) -> BlockDevice {
    let mut config = config(disk().into(), DiskAccess::ReadOnly, engine);
    config.queue_count = NonZeroU16::new(count).unwrap();
    BlockDevice::new(config).unwrap()
}

#[test]
fn each_queue_gets_its_own_completions() {
    for engine in ENGINES {
        let device = device_with_queues(engine, 4);
        assert_eq!(device.queue_sizes(), [256; 4]);
        assert_ne!(device.offered_features() & 1 << VIRTIO_BLK_F_MQ, 0);
        let mut told = [0; 2];
        device.read_config(34, &mut told);
        assert_eq!(u16::from_le_bytes(told), 4);
        let mut guest = Queues::new(device, 3);
        for (queue, requests) in [(0, 1), (1, 3), (2, 2)] {
            for _ in 0..requests {
                guest.add_read(queue, u64::from(queue) + 10);
            }
            guest.device.doorbell(queue);
        }
        guest.device.doorbell(3);
        guest.device.doorbell(9);
        assert!(guest.device.drain(Instant::now() + Duration::from_secs(20)));
        assert_eq!(guest.completed(), [1, 3, 2]);
        for queue in 0..3u8 {
            let data = GuestAddress(DATA.0 + u64::from(queue) * 0x1000);
            assert_eq!(guest.drivers[0].memory.read_obj::<u8>(data).unwrap(), queue + 10);
        }
        guest.device.reset();
        assert_eq!(
            Arc::strong_count(&guest.drivers[0].memory),
            3,
            "nothing but the drivers holds guest memory"
        );
    }
}

#[test]
fn a_device_with_one_queue_offers_no_more() {
    let device = device_with_queues(EngineChoice::Thread, 1);
    assert_eq!(device.offered_features() & 1 << VIRTIO_BLK_F_MQ, 0);
}

#[test]
fn queues_that_share_slots_do_not_starve_each_other() {
    let (mut device, transfers) = stuck_device(QueueShape { count: 3, size: 64 });
    device.service.as_mut().unwrap().slots = Slots::new(2);
    let mut guest = Queues::new(device, 2);
    for queue in [0, 1] {
        for sector in 0..6 {
            guest.add_read(queue, sector);
        }
        guest.device.doorbell(queue);
    }
    let mut seen = Vec::new();
    while guest.completed() != [6, 6] {
        assert_eq!(transfers.lock().unwrap().waiting.len(), 2, "every slot is in use");
        transfers.lock().unwrap().end_all();
        guest.device.event(COMPLETIONS);
        seen.push(guest.completed());
        assert!(seen.len() <= 6, "each turn ends two requests: {seen:?}");
    }
}

fn limited_guest(engine: EngineChoice, rate_limits: RateLimits) -> Guest {
    let file = disk();
    let mut config = config(file.try_clone().unwrap().into(), DiskAccess::ReadOnly, engine);
    config.rate_limits = rate_limits;
    let device = BlockDevice::new(config).unwrap();
    let driver = DriverQueue::new(small_memory(MEMORY_BYTES), GuestAddress(0), 64);
    let mut guest = Guest { device, interrupt: Arc::default(), driver, file };
    guest.activate();
    guest
}

fn bucket(size: u64, milliseconds: u64) -> Option<BucketLimits> {
    Some(BucketLimits::new(size, 0, Duration::from_millis(milliseconds)).unwrap())
}

#[test]
fn requests_over_the_rate_limit_wait_for_its_timer() {
    for limits in [
        RateLimits { bandwidth: None, operations: bucket(2, 20) },
        RateLimits { bandwidth: bucket(1024, 20), operations: None },
    ] {
        for engine in ENGINES {
            let mut guest = limited_guest(engine, limits);
            for sector in 0..9 {
                guest.add(0, sector, &[Buffer::Writable(DATA, 512)]);
            }
            let started = Instant::now();
            guest.device.doorbell(0);
            assert!(guest.device.drain(Instant::now() + Duration::from_secs(20)));
            let mut done = guest.driver.drain_used().len();
            assert!(done < 9 || started.elapsed() > Duration::from_millis(60), "{limits:?}");
            let deadline = Instant::now() + Duration::from_secs(20);
            while done < 9 {
                assert!(Instant::now() < deadline, "all requests end in time");
                let timer = guest.device.events().pop().unwrap();
                assert_eq!(timer.token, TIMER);
                let mut watched =
                    [rustix::event::PollFd::from_borrowed_fd(timer.fd, rustix::event::PollFlags::IN)];
                rustix::event::poll(&mut watched, None).unwrap();
                guest.device.event(TIMER);
                assert!(guest.device.drain(deadline));
                done += guest.driver.drain_used().len();
            }
            assert!(started.elapsed() >= Duration::from_millis(60), "nine of two each 20 ms");
            assert_eq!(guest.counts().errors, 0);
        }
    }
}

#[test]
fn what_is_zeroed_counts_as_written_and_what_is_discarded_for_a_little() {
    // Each takes all that the bucket has.
    for (kind, sectors, takes) in [(13, 16, 8192), (11, 64, 128)] {
        let limits = RateLimits { bandwidth: bucket(takes, 60_000), operations: None };
        let file = disk();
        let mut config =
            config(file.try_clone().unwrap().into(), DiskAccess::ReadWrite, EngineChoice::Automatic);
        config.rate_limits = limits;
        let device = BlockDevice::new(config).unwrap();
        let driver = DriverQueue::new(small_memory(MEMORY_BYTES), GuestAddress(0), 64);
        let mut guest = Guest { device, interrupt: Arc::default(), driver, file };
        guest.activate();
        assert_eq!(guest.erase(kind, &[(0, sectors / 2, 0), (32, sectors / 2, 0)]), 0);
        guest.add(0, 63, &[Buffer::Writable(DATA, 512)]);
        assert_eq!(guest.serve(), [], "nothing is left");
        assert_eq!(guest.read::<1>(STATUS), [UNTOUCHED]);
    }
}

#[test]
fn a_request_held_back_by_its_limit_does_not_outlive_a_reset() {
    let mut guest =
        limited_guest(EngineChoice::Thread, RateLimits { bandwidth: None, operations: bucket(1, 60_000) });
    guest.add(0, 1, &[Buffer::Writable(DATA, 512)]);
    guest.add(0, 2, &[Buffer::Writable(DATA, 512)]);
    assert_eq!(guest.serve().len(), 1);
    guest.device.reset();
    guest.device.event(TIMER);
    assert_eq!(guest.driver.used_index(), 1);
    assert_eq!(Arc::strong_count(&guest.driver.memory), 1, "nothing holds guest memory");
}

/// A buffer anywhere within the data page and the status page, or malformed.
fn any_buffer() -> impl Strategy<Value = Buffer> {
    prop_oneof![
        8 => (0u64..0x1000, 1u32..2048).prop_map(|(at, length)| Buffer::Readable(GuestAddress(HEADER.0 + at), length)),
        8 => (0u64..0x1000, 1u32..2048).prop_map(|(at, length)| Buffer::Writable(GuestAddress(DATA.0 + at), length)),
        4 => Just(Buffer::Readable(HEADER, 16)),
        1 => (any::<u64>(), any::<u32>(), 0u16..8).prop_map(|(at, length, flags)| Buffer::Raw(at, length, flags)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_requests_touch_only_what_they_name(
        kind in prop_oneof![Just(0u32), Just(1), Just(4), Just(8), any::<u32>()],
        sector in prop_oneof![0u64..80, any::<u64>()],
        chains in proptest::collection::vec(proptest::collection::vec(any_buffer(), 1..6), 1..8),
        engine in 0usize..2,
    ) {
        let mut guest = guest(ENGINES[engine], DiskAccess::ReadWrite);
        let memory = Arc::clone(&guest.driver.memory);
        memory.write_obj(kind, HEADER).unwrap();
        memory.write_obj(sector, GuestAddress(HEADER.0 + 8)).unwrap();
        // Nothing but the data area is ever described as writable by well-formed buffers.
        let guard = [UNTOUCHED; 256];
        memory.write_slice(&guard, GuestAddress(DATA.0 - 256)).unwrap();
        memory.write_slice(&guard, GuestAddress(DATA.0 + 0x1000 + 2048)).unwrap();
        let honest = chains.iter().flatten().all(|buffer| !matches!(buffer, Buffer::Raw(..)));
        for chain in &chains {
            guest.driver.add_chain(chain);
        }
        guest.device.doorbell(0);
        let drained = guest.device.drain(Instant::now() + Duration::from_secs(20));
        prop_assert!(drained || guest.device.is_broken());
        if honest {
            prop_assert_eq!(guest.read::<256>(GuestAddress(DATA.0 - 256)), guard);
            prop_assert_eq!(guest.read::<256>(GuestAddress(DATA.0 + 0x1000 + 2048)), guard);
        }
        guest.device.reset();
        prop_assert_eq!(guest.file.metadata().unwrap().len(), SECTORS * 512);
        for other in 0..SECTORS {
            // The longest write is five buffers of four sectors.
            if kind == 1 && (sector..sector.saturating_add(20)).contains(&other) {
                continue;
            }
            let mut content = [0; 512];
            guest.file.read_exact_at(&mut content, other * 512).unwrap();
            prop_assert!(content.iter().all(|byte| u64::from(*byte) == other));
        }
    }
}
