//! The memory map a guest is told: what is RAM and what to keep away from. Pure.

use crate::layout;

/// One entry, in e820's terms; PVH uses the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapEntry {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) kind: MapKind,
}

/// What an entry's range is for (ACPI 6.4 §15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum MapKind {
    /// Usable by the guest.
    Ram = 1,
    /// Not to be used as memory, nor to be given to devices.
    Reserved = 2,
}

/// The map of a machine with `memory_size` bytes, sorted and without overlaps.
pub(crate) fn memory_map(memory_size: u64) -> Vec<MapEntry> {
    let mut map = vec![
        entry(0, layout::CONVENTIONAL_END, MapKind::Ram),
        entry(layout::CONVENTIONAL_END, layout::HIGH_MEMORY, MapKind::Reserved),
    ];
    for range in layout::ram_ranges(memory_size) {
        let start = range.start.max(layout::HIGH_MEMORY);
        if start >= layout::HOLE_END {
            // Linux uses the memory-mapped configuration space only where the map or ACPI reserves it.
            map.push(reserved_ecam());
        }
        map.push(entry(start, range.end, MapKind::Ram));
    }
    if !map.contains(&reserved_ecam()) {
        map.push(reserved_ecam());
    }
    map
}

fn reserved_ecam() -> MapEntry {
    entry(layout::PCI_ECAM.start, layout::PCI_ECAM.end, MapKind::Reserved)
}

fn entry(start: u64, end: u64, kind: MapKind) -> MapEntry {
    MapEntry { start, length: end - start, kind }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn five_gibibytes_have_two_pieces_above_one_mebibyte() {
        let ram: Vec<_> = memory_map(5 << 30)
            .into_iter()
            .filter(|entry| entry.kind == MapKind::Ram)
            .map(|entry| (entry.start, entry.length))
            .collect();
        assert_eq!(ram, [(0, 0x9_fc00), (1 << 20, (3 << 30) - (1 << 20)), (4 << 30, 2 << 30)]);
    }

    #[test]
    fn the_generation_identifier_lies_in_a_reserved_range_of_its_own() {
        let page = layout::GENERATION_PAGE;
        assert!(memory_map(64 << 20).iter().any(|entry| {
            entry.kind == MapKind::Reserved
                && entry.start <= page.start
                && page.end <= entry.start + entry.length
        }));
        assert!(page.end <= layout::ACPI.start && layout::ACPI.end <= layout::SMBIOS.start);
        assert!(page.contains(&layout::GENERATION_ID) && page.contains(&(layout::GENERATION_ID + 15)));
    }

    proptest! {
        #[test]
        fn maps_are_sorted_disjoint_and_account_for_all_memory(pages in 512_u64..(1 << 22)) {
            let size = pages * layout::PAGE_SIZE;
            let map = memory_map(size);
            for pair in map.windows(2) {
                prop_assert!(pair[0].start + pair[0].length <= pair[1].start);
            }
            let ram: u64 = map.iter().filter(|e| e.kind == MapKind::Ram).map(|e| e.length).sum();
            prop_assert_eq!(ram, size - (layout::HIGH_MEMORY - layout::CONVENTIONAL_END));
        }
    }
}
