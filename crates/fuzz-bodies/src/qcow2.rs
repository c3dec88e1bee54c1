//! Images in the qcow2 format, whole or spoiled, behind a running disk.
//!
//! The format is a library's. That it panics on a spoiled image is provided for: the guest gets errors then. A body
//! must tell such a panic, which is contained, from one that is not, and fuzzers take every panic for a finding.

use std::cell::Cell;
use std::fs::File;
use std::num::NonZeroU16;
use std::os::unix::fs::FileExt;
use std::panic;
use std::sync::Once;

use devices::virtio::block::{BlockDevice, BlockDeviceConfig, DiskSerial, EngineChoice};
use devices::virtio::{QueueSize, RateLimits};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{Bytes, GuestAddress};
use vm_model::{DiskAccess, DiskCaching, DiskErasure, DiskFormat, OnIoError};

use crate::bench::Bench;
use crate::input::Input;

/// Names the disk and with it the thread that serves the image.
const DISK: &str = "fuzzed-image";
/// Requests an input at most.
const REQUESTS_MAX: usize = 16;
const HEADER: u64 = 0x30000;
const STATUS: u64 = 0x30100;
const DATA: u64 = 0x20000;
/// What the status byte is before there is an answer.
const UNANSWERED: u8 = 0xee;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

thread_local! {
    /// Set while this thread runs the library.
    static OPENING: Cell<bool> = const { Cell::new(false) };
}

/// Reads of an image at any place, which may be truncated meanwhile. The first word says how many bytes of the input
/// are requests; what follows those is the image.
pub(crate) fn images(bytes: &[u8]) {
    let answers = answers(bytes);
    assert!(answers.iter().all(|answer| *answer <= 2), "the disk answered {answers:x?}");
}

/// The status of each request; none where the image was refused.
fn answers(bytes: &[u8]) -> Vec<u8> {
    leave_contained_panics_alone();
    let mut input = Input::new(bytes);
    let length = usize::from(input.word());
    let mut requests = Input::new(input.piece(length));
    let content = input.rest();
    let image = File::from(memfd_create("image", MemfdFlags::CLOEXEC).expect("a file in memory"));
    image.write_all_at(content, 0).expect("room for an image");
    let ours = image.try_clone().expect("a descriptor");
    OPENING.set(true);
    let opened = BlockDevice::new(config(image));
    OPENING.set(false);
    let (mut answers, mut shrunk) = (Vec::new(), false);
    match opened {
        Err(error) => assert!(error.to_string().len() < 1024),
        Ok(device) => {
            let bench = Bench::new(Box::new(device));
            bench.start(0);
            for _request in 0..REQUESTS_MAX {
                if requests.is_empty() {
                    break;
                }
                if requests.below(32) == 31 {
                    shrunk = true;
                    ftruncate(&ours, requests.word().into()).expect("a file in memory can shrink");
                }
                answers.push(request(&mut requests, &bench));
            }
        }
    }
    if !shrunk {
        let mut left = vec![0; content.len()];
        ours.read_exact_at(&mut left, 0).expect("a whole image");
        assert!(left == content, "an image was written");
        assert_eq!(ours.metadata().expect("a file in memory").len(), content.len() as u64);
    }
    answers
}

fn config(image: File) -> BlockDeviceConfig {
    BlockDeviceConfig {
        direct_file: None,
        file: image.into(),
        format: DiskFormat::Qcow2,
        access: DiskAccess::ReadOnly,
        caching: DiskCaching::Cached,
        erasure: DiskErasure::Offered,
        serial: DiskSerial::new("fuzzed"),
        queue_count: NonZeroU16::MIN,
        queue_size: QueueSize::default(),
        rate_limits: RateLimits::default(),
        on_io_error: OnIoError::Report,
        engine: EngineChoice::Automatic,
        name: DISK.to_owned(),
    }
}

/// One well-formed request, mostly a read, and its answer.
fn request(input: &mut Input<'_>, bench: &Bench) -> u8 {
    const KINDS: [u32; 8] = [0, 0, 0, 0, 0, 4, 8, 1];
    let kind = KINDS[input.below(KINDS.len())];
    let sector = match input.below(4) {
        0 => input.quad_word(),
        1 => u64::from(input.double_word()),
        _ => u64::from(input.word()),
    };
    let length = 512 * (1 + u32::from(input.byte()) % 64);
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    let put = |bytes: &[u8], at| bench.memory.write_slice(bytes, GuestAddress(at)).expect("it is in memory");
    put(&header, HEADER);
    put(&[UNANSWERED], STATUS);
    let driver = &bench.drivers[0];
    driver.describe(0, HEADER, 16, NEXT, 1);
    driver.describe(1, DATA, length, if kind == 1 { NEXT } else { NEXT | WRITE }, 2);
    driver.describe(2, STATUS, 1, WRITE, 0);
    driver.offer(0);
    bench.write(0x1000, &[0, 0]);
    bench.settle();
    bench.memory.read_obj(GuestAddress(STATUS)).expect("it is in memory")
}

/// Has panics that the device contains not reported: neither to whoever reads a test's output, nor to a fuzzer, which
/// would end the process.
fn leave_contained_panics_alone() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            if !OPENING.get() && std::thread::current().name() != Some(DISK) {
                report(what);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::answers as answers_to;

    /// Seeds that were refused would lead nowhere.
    #[test]
    fn the_seeds_are_images_that_are_read() {
        let expected: [(&[u8], &[u8]); 5] = [
            (include_bytes!("../seeds/qcow2_images/whole"), &[0, 0, 0, 0, 1, 1, 1]),
            (include_bytes!("../seeds/qcow2_images/version-2"), &[0, 0, 0, 0, 1, 1, 1]),
            (include_bytes!("../seeds/qcow2_images/compressed"), &[0, 0, 0, 0, 1, 1, 1]),
            (include_bytes!("../seeds/qcow2_images/truncated-meanwhile"), &[0, 1, 1]),
            (include_bytes!("../seeds/qcow2_images/tables-in-themselves"), &[0]),
        ];
        for (seed, answers) in expected {
            assert_eq!(answers_to(seed), answers);
        }
    }
}
