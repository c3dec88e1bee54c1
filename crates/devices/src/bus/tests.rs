//! Tests of address routing.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::{Bus, BusDevice, BusError, Registers};

/// Answers with its own mark and remembers what was written where.
struct Marked {
    mark: u8,
    written: Vec<(u64, Vec<u8>)>,
}

impl Registers for Marked {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(self.mark);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.written.push((offset, data.to_vec()));
    }
}

fn marked(mark: u8) -> Arc<Mutex<Marked>> {
    Arc::new(Mutex::new(Marked { mark, written: Vec::new() }))
}

#[test]
fn accesses_reach_the_device_that_owns_all_their_addresses() {
    let (first, second) = (marked(1), marked(2));
    let mut builder = Bus::builder();
    let as_device: Arc<dyn BusDevice> = second.clone();
    builder.add("second", 0x108, 8, as_device).unwrap().add("first", 0x100, 8, first).unwrap();
    let bus = builder.build();
    let read = |address, length| {
        let mut data = vec![0; length];
        bus.read(address, &mut data);
        data
    };
    assert_eq!(read(0x100, 4), [1; 4]);
    assert_eq!(read(0x107, 1), [1]);
    assert_eq!(read(0x108, 8), [2; 8]);
    assert_eq!(read(0x106, 4), [0xff; 4], "across two devices");
    assert_eq!(read(0x10e, 4), [0xff; 4], "across the end");
    assert_eq!(read(0xff, 1), [0xff]);
    assert_eq!(read(u64::MAX, 8), [0xff; 8]);
    assert_eq!(read(0x100, 0), [0; 0]);
    bus.write(0x10a, &[7, 8]);
    bus.write(0x10f, &[7, 8]);
    assert_eq!(second.lock().unwrap().written, [(2, vec![7, 8])]);
}

#[test]
fn overlaps_and_impossible_ranges_are_refused() {
    let mut builder = Bus::builder();
    builder.add("top", u64::MAX, 1, marked(0)).unwrap();
    builder.add("uart", 0x3f8, 8, marked(0)).unwrap();
    let overlap = builder.add("other", 0x3f0, 9, marked(0)).err();
    assert_eq!(
        overlap,
        Some(BusError::Overlap { name: "other", base: 0x3f0, length: 9, other: "uart", other_base: 0x3f8 })
    );
    assert!(builder.add("inside", 0x3fa, 1, marked(0)).is_err());
    assert_eq!(
        builder.add("none", 0, 0, marked(0)).err(),
        Some(BusError::Range { name: "none", base: 0, length: 0 })
    );
    assert!(builder.add("wraps", 2, u64::MAX, marked(0)).is_err());
}

proptest! {
    /// The sorted search agrees with looking at each range in turn.
    #[test]
    fn routing_agrees_with_a_linear_search(
        ranges in proptest::collection::vec((0..200u64, 1..30u64), 0..10),
        accesses in proptest::collection::vec((0..240u64, 1..9usize), 20),
    ) {
        let mut builder = Bus::builder();
        let mut kept: Vec<(u64, u64, u8)> = Vec::new();
        for (mark, (base, length)) in (0u8..).zip(ranges) {
            let overlaps = kept.iter().any(|(b, l, _)| base < b + l && *b < base + length);
            let added = builder.add("device", base, length, marked(mark));
            prop_assert_eq!(added.is_err(), overlaps);
            if !overlaps {
                kept.push((base, length, mark));
            }
        }
        let bus = builder.build();
        for (address, width) in accesses {
            let end = address + width as u64;
            let owner = kept.iter().find(|(base, length, _)| *base <= address && end <= base + length);
            let mut data = vec![0; width];
            bus.read(address, &mut data);
            prop_assert_eq!(data, vec![owner.map_or(0xff, |(_, _, mark)| *mark); width]);
        }
    }
}
