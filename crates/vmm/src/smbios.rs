//! The SMBIOS 3 structures: who made the machine, which one it is, and texts for its guest (DMTF DSP0134). Pure.
//!
//! Guests read the UUID as their product's; systemd derives a machine id from it, and takes credentials from the texts.

use vm_model::{Bytes, OEM_STRINGS_BYTES_MAX, OemStrings};

use crate::layout;

/// Version 3.2, the first whose UUID encoding and entry point all guests of interest read.
const MAJOR: u8 = 3;
const MINOR: u8 = 2;
const ENTRY_POINT_SIZE: u8 = 24;
const MANUFACTURER: &str = "Procurator";
const PRODUCT: &str = "Procurator virtual machine";
/// Bytes between the starts of the entry point and of the structures.
const TABLE_OFFSET: u64 = 32;
/// More bytes than all structures have without OEM strings.
const FIXED_BYTES_MAX: u64 = 1 << 10;
const _: () = assert!(
    TABLE_OFFSET + FIXED_BYTES_MAX + OEM_STRINGS_BYTES_MAX as u64
        <= layout::SMBIOS.end - layout::SMBIOS.start,
    "the longest OEM strings fit the layout"
);

/// What to write where: the entry point at the start of the layout's range, the structures after it.
///
/// `uuid` has its first three fields little-endian, as SMBIOS wants them (§7.2.1).
pub(crate) fn build(uuid: [u8; 16], memory: Bytes, oem_strings: &OemStrings) -> Vec<(u64, Vec<u8>)> {
    let structures = [
        firmware(),
        system(uuid),
        chassis(),
        oem(oem_strings),
        memory_array(memory),
        boot_information(),
        structure(127, 0x7f00, &[], &[]),
    ]
    .concat();
    let start = layout::SMBIOS.start;
    let table = start + TABLE_OFFSET;
    let length = u32::try_from(structures.len()).expect("the structures fit 64 KiB");
    vec![(start, entry_point(table, length)), (table, structures)]
}

/// The 64-bit entry point (§5.2.2).
fn entry_point(table: u64, length: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(usize::from(ENTRY_POINT_SIZE));
    bytes.extend_from_slice(b"_SM3_");
    bytes.extend_from_slice(&[0, ENTRY_POINT_SIZE, MAJOR, MINOR, 0, 1, 0]);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&table.to_le_bytes());
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[5] = sum.wrapping_neg();
    bytes
}

/// One structure with its strings; a field refers to a string by its number, from 1 (§6.1).
fn structure(kind: u8, handle: u16, fields: &[u8], strings: &[&str]) -> Vec<u8> {
    let length = u8::try_from(4 + fields.len()).expect("structures here are short");
    let mut bytes = vec![kind, length];
    bytes.extend_from_slice(&handle.to_le_bytes());
    bytes.extend_from_slice(fields);
    for string in strings {
        bytes.extend_from_slice(string.as_bytes());
        bytes.push(0);
    }
    if strings.is_empty() {
        bytes.push(0);
    }
    bytes.push(0);
    bytes
}

/// Type 0 (§7.1): characteristics say "not supported", their extension that this is a virtual machine.
fn firmware() -> Vec<u8> {
    let mut fields = vec![1, 2];
    fields.extend_from_slice(&0_u16.to_le_bytes());
    fields.extend_from_slice(&[3, 0]);
    fields.extend_from_slice(&(1_u64 << 3).to_le_bytes());
    fields.extend_from_slice(&[0, 1 << 4]);
    fields.extend_from_slice(&[0xff; 4]);
    structure(0, 0, &fields, &[MANUFACTURER, env!("CARGO_PKG_VERSION"), "01/01/2026"])
}

/// Type 1 (§7.2); woken by the power switch.
fn system(uuid: [u8; 16]) -> Vec<u8> {
    const POWER_SWITCH: u8 = 6;
    let mut fields = vec![1, 2, 3, 0];
    fields.extend_from_slice(&uuid);
    fields.extend_from_slice(&[POWER_SWITCH, 0, 0]);
    structure(1, 0x100, &fields, &[MANUFACTURER, PRODUCT, env!("CARGO_PKG_VERSION")])
}

/// Type 3 (§7.4): "other", with unknown states; systemd looks at the type alone.
fn chassis() -> Vec<u8> {
    const OTHER: u8 = 1;
    const UNKNOWN: u8 = 2;
    let mut fields = vec![1, OTHER, 0, 0, 0, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN];
    fields.extend_from_slice(&0_u32.to_le_bytes());
    fields.extend_from_slice(&[0; 4]);
    structure(3, 0x300, &fields, &[MANUFACTURER])
}

/// Type 11 (§7.12), where there are strings: how many, and then they.
fn oem(strings: &OemStrings) -> Vec<u8> {
    if strings.is_empty() {
        return Vec::new();
    }
    let count = u8::try_from(strings.len()).expect("OEM strings are at most 255");
    structure(11, 0xb00, &[count], &strings.iter().collect::<Vec<_>>())
}

/// Type 16 (§7.17): system memory on the board, without error correction.
fn memory_array(memory: Bytes) -> Vec<u8> {
    const OTHER: u8 = 1;
    const SYSTEM_MEMORY: u8 = 3;
    const NO_CORRECTION: u8 = 3;
    const USE_EXTENDED: u32 = 0x8000_0000;
    const NO_ERROR_INFORMATION: u16 = 0xfffe;
    let mut fields = vec![OTHER, SYSTEM_MEMORY, NO_CORRECTION];
    fields.extend_from_slice(&USE_EXTENDED.to_le_bytes());
    fields.extend_from_slice(&NO_ERROR_INFORMATION.to_le_bytes());
    fields.extend_from_slice(&0_u16.to_le_bytes());
    fields.extend_from_slice(&memory.get().to_le_bytes());
    structure(16, 0x1000, &fields, &[])
}

/// Type 32 (§7.33): no error at the last boot.
fn boot_information() -> Vec<u8> {
    structure(32, 0x2000, &[0; 7], &[])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_model::OEM_STRINGS_MAX;

    use super::*;

    /// A structure as a guest reads it.
    struct Parsed {
        kind: u8,
        fields: Vec<u8>,
        strings: Vec<String>,
    }

    /// All structures of a table (§6.1).
    fn parse(table: &[u8]) -> Vec<Parsed> {
        let mut parsed = Vec::new();
        let mut rest = table;
        while !rest.is_empty() {
            let (formatted, strings) = rest.split_at(usize::from(rest[1]));
            let end = strings.windows(2).position(|pair| pair == [0, 0]).expect("strings end");
            let texts = strings[..end].split(|byte| *byte == 0).filter(|text| !text.is_empty());
            parsed.push(Parsed {
                kind: formatted[0],
                fields: formatted[4..].to_vec(),
                strings: texts.map(|text| String::from_utf8(text.to_vec()).expect("text")).collect(),
            });
            rest = &strings[end + 2..];
        }
        parsed
    }

    fn built(oem_strings: &[String]) -> Vec<(u64, Vec<u8>)> {
        let oem_strings = OemStrings::try_from(oem_strings.to_vec()).expect("they fit");
        build([7; 16], Bytes::from_mib(128), &oem_strings)
    }

    #[test]
    fn the_entry_point_leads_to_well_formed_structures() {
        let pieces = built(&[]);
        let (start, entry) = &pieces[0];
        let (table, structures) = &pieces[1];
        assert_eq!(entry.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        assert_eq!(start % 16, 0);
        assert_eq!(entry.len(), usize::from(entry[6]));
        assert_eq!(u64::from_le_bytes(entry[16..24].try_into().unwrap()), *table);
        assert!(structures.len() as u64 <= FIXED_BYTES_MAX);
        let kinds: Vec<u8> = parse(structures).iter().map(|structure| structure.kind).collect();
        assert_eq!(kinds, [0, 1, 3, 16, 32, 127]);
    }

    #[test]
    fn the_uuid_stands_where_guests_look() {
        let uuid = *b"0123456789abcdef";
        let pieces = build(uuid, Bytes::from_mib(128), &OemStrings::default());
        let structures = &pieces[1].1;
        let position = structures.windows(16).position(|window| window == uuid).unwrap();
        // Type 1 starts eight bytes before its UUID.
        assert_eq!(structures[position - 8..position - 6], [1, 27]);
    }

    #[test]
    fn the_most_and_the_longest_strings_fit_the_layout() {
        let one = vec!["x".repeat(OEM_STRINGS_BYTES_MAX - 1)];
        let each = OEM_STRINGS_BYTES_MAX / OEM_STRINGS_MAX - 1;
        let many = vec!["y".repeat(each); OEM_STRINGS_MAX];
        for strings in [one, many] {
            let pieces = built(&strings);
            let (table, structures) = &pieces[1];
            assert!(table + structures.len() as u64 <= layout::SMBIOS.end);
            let length = u32::try_from(structures.len()).expect("short");
            assert_eq!(pieces[0].1[12..16], length.to_le_bytes());
            let parsed = parse(structures);
            let oem = parsed.iter().find(|structure| structure.kind == 11).expect("a type 11");
            assert_eq!(oem.strings, strings);
        }
    }

    proptest! {
        #[test]
        fn a_guest_reads_the_strings_that_were_given(strings in prop::collection::vec("[^\\x00]{1,20}", 0..20)) {
            let pieces = built(&strings);
            let oem: Vec<Parsed> =
                parse(&pieces[1].1).into_iter().filter(|structure| structure.kind == 11).collect();
            prop_assert_eq!(oem.len(), usize::from(!strings.is_empty()));
            if let Some(oem) = oem.first() {
                prop_assert_eq!(usize::from(oem.fields[0]), strings.len());
                prop_assert_eq!(&oem.strings, &strings);
            }
        }
    }
}
