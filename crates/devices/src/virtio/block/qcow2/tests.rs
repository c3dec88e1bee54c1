//! Images that are used, images that are refused, and images that were spoiled.

use std::sync::Arc;

use imago::{FormatAccess, FormatCreateBuilder};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use vm_model::Qcow2Error;

use super::*;
use crate::log_capture::warnings_during;
use crate::memory::GuestMemory;
use crate::virtio::block::engine::Backend;
use crate::virtio::queue::Segment;
use crate::virtio::vectors::IoVectors;

const DISK_BYTES: u64 = 4 << 20;
const WRITTEN: u64 = 0xf000;

/// An image whose bytes from `WRITTEN` on are 0x5a, for 0x6000 bytes.
fn new_image() -> File {
    let file = tempfile::tempfile().unwrap();
    let storage = || imago::file::File::try_from(file.try_clone().unwrap()).unwrap();
    Qcow2::<imago::file::File>::create_builder(storage()).size(DISK_BYTES).create().unwrap();
    let image: Qcow2<imago::file::File> = Qcow2::open_image(storage(), true).unwrap();
    let image = FormatAccess::new(image);
    image.write(&[0x5a; 0x6000][..], WRITTEN).unwrap();
    image.flush().unwrap();
    file
}

fn memory() -> Arc<GuestMemory> {
    Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap())
}

fn transfer(kind: TransferKind, offset: u64, memory: &Arc<GuestMemory>, pieces: &[(u64, u32)]) -> Transfer {
    let segments: Vec<_> = pieces
        .iter()
        .map(|(address, length)| Segment { address: GuestAddress(*address), length: *length })
        .collect();
    let mut vectors = IoVectors::default();
    vectors.append(memory, &segments, 0, u64::MAX).unwrap();
    Transfer::of_vectors(kind, offset, vectors)
}

#[test]
fn an_images_content_is_read_and_nothing_is_written() {
    let file = new_image();
    let memory = memory();
    let mut image = Qcow2Image::open(file).unwrap();
    assert_eq!(image.disk_bytes(), DISK_BYTES);
    let pieces = [(0x8001, 0x1200), (0xa000, 0x6000)];
    image.run(&mut transfer(TransferKind::Read, WRITTEN - 0x200, &memory, &pieces)).unwrap();
    let mut seen = vec![0xff; 0x7200];
    memory.read_slice(&mut seen[..0x1200], GuestAddress(0x8001)).unwrap();
    memory.read_slice(&mut seen[0x1200..], GuestAddress(0xa000)).unwrap();
    let written = 0x200..0x6200;
    assert!(seen.iter().enumerate().all(|(at, byte)| *byte == if written.contains(&at) { 0x5a } else { 0 }));
    image.run(&mut transfer(TransferKind::Flush, 0, &memory, &[])).unwrap();
    let refused = image.run(&mut transfer(TransferKind::Write, 0, &memory, &[(0, 512)])).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn an_image_truncated_underneath_gives_errors() {
    let file = new_image();
    let memory = memory();
    let mut image = Qcow2Image::open(file.try_clone().unwrap()).unwrap();
    image.run(&mut transfer(TransferKind::Read, 0, &memory, &[(0, 512)])).unwrap();
    let whole = file.metadata().unwrap().len();
    let ((), warnings) = warnings_during(|| {
        // Making it longer brings nothing back.
        for length in [512, whole] {
            file.set_len(length).unwrap();
            let error = image.run(&mut transfer(TransferKind::Read, 0, &memory, &[(0, 512)])).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    });
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn what_is_no_image_is_refused() {
    let file = tempfile::tempfile().unwrap();
    assert!(Qcow2Image::open(file.try_clone().unwrap()).is_err());
    file.set_len(1 << 20).unwrap();
    let refused = Qcow2Image::open(file).err().unwrap();
    assert!(refused.get_ref().is_some_and(|inner| inner.is::<Qcow2Error>()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_header_is_judged(bytes in proptest::collection::vec(any::<u8>(), QCOW2_HEADER_BYTES), known: bool) {
        let mut header: [u8; QCOW2_HEADER_BYTES] = bytes.try_into().unwrap();
        if known {
            header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        }
        if let Ok(size) = check_qcow2_header(&header) {
            prop_assert!((512..=64 << 40).contains(&size.get()));
        }
    }

    #[test]
    fn a_spoiled_image_gives_errors_at_worst(
        places in proptest::collection::vec((0u64..0x5_0000, any::<u8>()), 1..12),
        near_header in proptest::collection::vec((0u64..112, any::<u8>()), 0..3),
        offset in 0..DISK_BYTES / 512,
    ) {
        let file = new_image();
        let memory = memory();
        for (at, byte) in places.into_iter().chain(near_header) {
            file.write_all_at(&[byte], at).unwrap();
        }
        if let Ok(image) = Qcow2Image::open(file) {
            let mut backend = Backend::Qcow2(Box::new(image));
            for offset in [offset * 512, WRITTEN, 0] {
                let offset = offset.min(DISK_BYTES - 0x2000);
                let mut read = transfer(TransferKind::Read, offset, &memory, &[(0, 0x2000)]);
                let _errors_are_fine = backend.carry_out(&mut read);
            }
        }
    }
}
