//! Block requests of any form on a running device (virtio 1.2 §5.2.6), over a file in memory.

use std::fs::File;
use std::num::NonZeroU16;
use std::os::unix::fs::FileExt;

use devices::virtio::block::{BlockDevice, BlockDeviceConfig, DiskSerial, EngineChoice};
use devices::virtio::{QueueSize, RateLimits};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{Bytes, GuestAddress};
use vm_model::{DiskAccess, DiskCaching, DiskErasure, DiskFormat, OnIoError};

use crate::bench::Bench;
use crate::driver::any_address;
use crate::input::Input;

const DISK_BYTES: u64 = 64 << 10;
/// What every byte of a new disk is.
const FILL: u8 = 0xd1;
/// Where requests' headers lie.
const HEADERS: u64 = 0x30000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A disk of a few sectors.
pub(crate) fn disk() -> File {
    let file = File::from(memfd_create("disk", MemfdFlags::CLOEXEC).expect("a file in memory"));
    file.write_all_at(&vec![FILL; usize::try_from(DISK_BYTES).expect("small")], 0).expect("room for a disk");
    file
}

/// A device on `file`.
pub(crate) fn device(file: File, read_only: bool) -> BlockDevice {
    BlockDevice::new(BlockDeviceConfig {
        direct_file: None,
        file: file.into(),
        format: DiskFormat::Raw,
        access: if read_only { DiskAccess::ReadOnly } else { DiskAccess::ReadWrite },
        caching: DiskCaching::Cached,
        erasure: DiskErasure::Offered,
        serial: DiskSerial::new("fuzzed"),
        queue_count: NonZeroU16::MIN,
        queue_size: QueueSize::default(),
        rate_limits: RateLimits::default(),
        on_io_error: OnIoError::Report,
        engine: EngineChoice::Automatic,
        name: "fuzzed".to_owned(),
    })
    .expect("a regular file of whole sectors")
}

/// Requests, well formed and not; the disk may shrink meanwhile.
pub(crate) fn requests(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let read_only = input.flag();
    let file = disk();
    let ours = file.try_clone().expect("a descriptor");
    let bench = Bench::new(Box::new(device(file, read_only)));
    bench.start(input.quad_word());
    let mut shrunk = false;
    while !input.is_empty() {
        match input.below(8) {
            0 => bench.drivers[0].write_something(&mut input),
            1 => bench.drivers[0].offer_something(&mut input),
            2 if input.below(4) == 0 => {
                shrunk = true;
                ftruncate(&ours, u64::from(input.word())).expect("a file in memory can shrink");
            }
            2 | 3 => bench.settle(),
            _ => request(&mut input, &bench),
        }
        bench.write(0x1000, &[0, 0]);
    }
    bench.settle();
    let length = ours.metadata().expect("a file in memory").len();
    assert!(shrunk || length == DISK_BYTES, "the disk has {length} bytes");
    if read_only && !shrunk {
        let mut content = vec![0; usize::try_from(DISK_BYTES).expect("small")];
        ours.read_exact_at(&mut content, 0).expect("a whole disk");
        assert!(content.iter().all(|byte| *byte == FILL), "a read-only disk was written");
    }
}

/// One request whose header lies where it says, cut into buffers anywhere.
fn request(input: &mut Input<'_>, bench: &Bench) {
    const KINDS: [u32; 10] = [0, 1, 4, 8, 10, 11, 13, 14, 2, u32::MAX];
    let driver = &bench.drivers[0];
    let first = u16::from(input.byte()) % 16;
    let header_at = HEADERS + u64::from(first) * 32;
    let mut header = [0; 16];
    header[..4].copy_from_slice(&KINDS[input.below(KINDS.len())].to_le_bytes());
    let sector = if input.below(4) == 0 { input.quad_word() } else { u64::from(input.byte()) };
    header[8..].copy_from_slice(&sector.to_le_bytes());
    bench.memory.write_slice(&header, GuestAddress(header_at)).expect("headers are in memory");
    let header_bytes = if input.below(8) == 0 { u32::from(input.byte()) } else { 16 };
    driver.describe(first, header_at, header_bytes, NEXT, first + 1);
    let pieces = u16::from(input.byte()) % 4;
    let direction = if input.flag() { WRITE } else { 0 };
    for piece in 1..=pieces {
        let length =
            if input.below(8) == 0 { input.length() } else { 512 * (1 + u32::from(input.byte()) % 16) };
        let slot = (first + piece) % 16;
        driver.describe(slot, any_address(input), length, NEXT | direction, (slot + 1) % 16);
    }
    driver.describe((first + pieces + 1) % 16, header_at + 16, 1, WRITE, 0);
    driver.offer(first);
}
