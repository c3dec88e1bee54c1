//! Requests out of chains, well-formed and not.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::queue::RingFeatures;
use crate::virtio::queue::testing::{Buffer, DriverQueue, small_memory};
use vm_model::DiskErasure;

const HEADER: GuestAddress = GuestAddress(0x4000);
const DATA: GuestAddress = GuestAddress(0x5000);
const STATUS: GuestAddress = GuestAddress(0x6000);
const IO_ERROR: Rejection = Rejection::Answer(Status::IoError);

fn shape(access: DiskAccess) -> DiskShape {
    DiskShape { sectors: 100, access, erasure: DiskErasure::Offered }
}

fn parse_on(shape: &DiskShape, header: (u32, u64), buffers: &[Buffer]) -> Result<Request, Rejection> {
    let memory = small_memory(0x8000);
    let mut driver = DriverQueue::new(memory, GuestAddress(0), 16);
    driver.memory.write_obj(header.0, HEADER).unwrap();
    driver.memory.write_obj(header.1, GuestAddress(HEADER.0 + 8)).unwrap();
    let (mut queue, _interrupt) = driver.device_queue(RingFeatures::default());
    driver.add_chain(buffers);
    let chain = queue.pop().unwrap().unwrap();
    Request::parse(&chain, queue.memory(), shape)
}

fn parse(header: (u32, u64), buffers: &[Buffer]) -> Result<Request, Rejection> {
    parse_on(&shape(DiskAccess::ReadWrite), header, buffers)
}

#[test]
fn a_read_in_three_buffers() {
    let buffers = [Buffer::Readable(HEADER, 16), Buffer::Writable(DATA, 1024), Buffer::Writable(STATUS, 1)];
    let read = Request::Read { offset: 98 * 512, bytes: 1024 };
    assert_eq!(parse((0, 98), &buffers), Ok(read));
    assert_eq!(parse((0, 99), &buffers), Err(IO_ERROR));
    assert_eq!(parse((0, u64::MAX), &buffers), Err(IO_ERROR));
}

#[test]
fn a_header_in_pieces_and_a_status_in_the_data_buffer() {
    let pieces = [
        Buffer::Readable(HEADER, 3),
        Buffer::Readable(GuestAddress(HEADER.0 + 3), 13),
        Buffer::Writable(DATA, 513),
    ];
    assert_eq!(parse((0, 1), &pieces), Ok(Request::Read { offset: 512, bytes: 512 }));
}

#[test]
fn a_write_with_its_data_right_after_the_header() {
    let buffers = [Buffer::Readable(HEADER, 16 + 512), Buffer::Writable(STATUS, 1)];
    assert_eq!(parse((1, 5), &buffers), Ok(Request::Write { offset: 5 * 512, bytes: 512 }));
    let read_only = shape(DiskAccess::ReadOnly);
    assert_eq!(parse_on(&read_only, (1, 5), &buffers), Err(IO_ERROR));
}

#[test]
fn a_serial_number_is_cut_to_its_buffer() {
    let ask = |room| {
        let buffers = [Buffer::Readable(HEADER, 16), Buffer::Writable(DATA, room)];
        parse((8, 0), &buffers)
    };
    assert_eq!(ask(21), Ok(Request::SerialNumber { bytes: 20 }));
    assert_eq!(ask(100), Ok(Request::SerialNumber { bytes: 20 }));
    assert_eq!(ask(5), Ok(Request::SerialNumber { bytes: 4 }));
    assert_eq!(ask(1), Ok(Request::SerialNumber { bytes: 0 }));
}

#[test]
fn what_is_not_known_or_not_whole_is_refused() {
    let status = Buffer::Writable(STATUS, 1);
    let header = Buffer::Readable(HEADER, 16);
    assert_eq!(parse((4, 0), &[header, status]), Ok(Request::Flush));
    assert_eq!(parse((14, 0), &[header, status]), Err(Rejection::Answer(Status::Unsupported)));
    assert_eq!(parse((0, 0), &[header]), Err(Rejection::NoStatus));
    assert_eq!(parse((0, 0), &[Buffer::Readable(HEADER, 15), status]), Err(IO_ERROR));
    assert_eq!(parse((0, 0), &[status]), Err(IO_ERROR));
    assert_eq!(parse((0, 0), &[header, Buffer::Writable(DATA, 512)]), Err(IO_ERROR));
    assert_eq!(parse((1, 0), &[Buffer::Readable(HEADER, 16 + 511), status]), Err(IO_ERROR));
}

#[test]
fn erasures_have_1_to_32_whole_ranges() {
    let erase = |kind: u32, payload: u32| {
        parse((kind, 0), &[Buffer::Readable(HEADER, 16 + payload), Buffer::Writable(STATUS, 1)])
    };
    assert_eq!(erase(11, 32), Ok(Request::Erase { kind: EraseKind::Discard, segments: 2 }));
    assert_eq!(erase(13, 512), Ok(Request::Erase { kind: EraseKind::WriteZeroes, segments: 32 }));
    for payload in [0, 8, 17, 528] {
        assert_eq!(erase(11, payload), Err(IO_ERROR), "{payload} bytes");
    }
    let buffers = [Buffer::Readable(HEADER, 32), Buffer::Writable(STATUS, 1)];
    let unsupported = Err(Rejection::Answer(Status::Unsupported));
    assert_eq!(parse_on(&shape(DiskAccess::ReadOnly), (11, 0), &buffers), unsupported);
    let withheld = DiskShape { erasure: DiskErasure::Withheld, ..shape(DiskAccess::ReadWrite) };
    assert_eq!(parse_on(&withheld, (13, 0), &buffers), unsupported);
}

proptest! {
    #[test]
    fn whatever_is_erased_lies_on_the_disk(
        kind in prop_oneof![Just(EraseKind::Discard), Just(EraseKind::WriteZeroes)],
        ranges in proptest::collection::vec(
            (prop_oneof![0u64..110, any::<u64>()], prop_oneof![0u32..10, any::<u32>()], 0u32..3),
            1..8,
        ),
    ) {
        let mut driver = DriverQueue::new(small_memory(0x8000), GuestAddress(0), 16);
        for (place, (sector, sectors, flags)) in (1u64..).zip(&ranges) {
            let at = HEADER.0 + place * 16;
            driver.memory.write_obj(*sector, GuestAddress(at)).unwrap();
            driver.memory.write_obj(*sectors, GuestAddress(at + 8)).unwrap();
            driver.memory.write_obj(*flags, GuestAddress(at + 12)).unwrap();
        }
        let segments = u32::try_from(ranges.len()).unwrap();
        let (mut queue, _interrupt) = driver.device_queue(RingFeatures::default());
        driver.add_chain(&[Buffer::Readable(HEADER, 16 + segments * 16), Buffer::Writable(STATUS, 1)]);
        let chain = queue.pop().unwrap().unwrap();
        let read = read_extents(kind, segments, &chain, queue.memory(), &shape(DiskAccess::ReadWrite));
        let fits = |(sector, sectors, _): &(u64, u32, u32)| {
            sector.checked_add(u64::from(*sectors)).is_some_and(|end| end <= 100)
        };
        let known = |flags: u32| flags == 0 || (flags == 1 && kind == EraseKind::WriteZeroes);
        match read {
            Ok(extents) => {
                prop_assert!(ranges.iter().all(|range| fits(range) && known(range.2)));
                let total: u64 = ranges.iter().map(|range| u64::from(range.1) * 512).sum();
                prop_assert_eq!(extents.iter().map(|extent| extent.bytes).sum::<u64>(), total);
                prop_assert!(extents.iter().all(|extent| extent.offset + extent.bytes <= 100 * 512));
            }
            Err(Status::Unsupported) => prop_assert!(ranges.iter().any(|range| !known(range.2))),
            Err(Status::IoError) => prop_assert!(ranges.iter().any(|range| !fits(range))),
            Err(Status::Ok) => prop_assert!(false, "no error is a success"),
        }
    }

    #[test]
    fn whatever_is_accepted_lies_on_the_disk(
        kind in prop_oneof![0u32..2, Just(11), Just(13), any::<u32>()],
        sector in prop_oneof![0u64..110, any::<u64>()],
        readable in 0u32..4000,
        writable in 0u32..4000,
    ) {
        let mut buffers = Vec::new();
        if readable > 0 {
            buffers.push(Buffer::Readable(HEADER, readable));
        }
        if writable > 0 {
            buffers.push(Buffer::Writable(DATA, writable));
        }
        prop_assume!(!buffers.is_empty());
        match parse((kind, sector), &buffers) {
            Ok(Request::Read { offset, bytes }) => {
                prop_assert_eq!(bytes + 1, u64::from(writable));
                prop_assert!(offset + bytes <= 100 * 512 && bytes % 512 == 0 && offset % 512 == 0);
            }
            Ok(Request::Write { offset, bytes }) => {
                prop_assert_eq!(bytes + 16, u64::from(readable));
                prop_assert!(offset + bytes <= 100 * 512 && bytes % 512 == 0 && offset % 512 == 0);
            }
            Ok(Request::SerialNumber { bytes }) => prop_assert!(bytes < writable as usize),
            Ok(Request::Flush) => prop_assert_eq!(kind, 4),
            Ok(Request::Erase { segments, .. }) => {
                prop_assert!(matches!(kind, 11 | 13));
                prop_assert_eq!(u64::from(segments) * 16 + 16, u64::from(readable));
            }
            Err(Rejection::NoStatus) => prop_assert_eq!(writable, 0),
            Err(Rejection::Answer(status)) => prop_assert_ne!(status, Status::Ok),
        }
    }
}
