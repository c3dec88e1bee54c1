//! The records of the file system (ECMA-119 §8 and §9, and Joliet's differences).

use super::{Extent, File, Names, SECTOR_BYTES};

/// What a directory's own record, and that of what it lies in, have as names (§7.6.2).
const SELF: &[u8] = b"\0";
const PARENT: &[u8] = b"\x01";
/// The flag of a directory (§9.1.6).
const IS_DIRECTORY: u8 = 2;
/// 1 January 1970, in years since 1900, month, day, hour, minute, second and offset (§9.1.5).
const EPOCH: [u8; 7] = [70, 1, 1, 0, 0, 0, 0];
/// A time of a volume that is not told (§8.4.26.1): digits, and an offset.
const UNTOLD: &[u8; 17] = b"0000000000000000\0";
/// The bytes of a path table with one directory.
const PATH_TABLE_BYTES: u32 = 10;
/// What says that a volume's names are Joliet's, UCS-2 level 3.
const UCS2_LEVEL_3: &[u8] = b"%/E";

/// `number` in both byte orders (§7.3.3).
fn both_32(number: u32) -> [u8; 8] {
    let (little, big) = (number.to_le_bytes(), number.to_be_bytes());
    let mut both = [0; 8];
    both[..4].copy_from_slice(&little);
    both[4..].copy_from_slice(&big);
    both
}

/// `number` in both byte orders (§7.2.3).
fn both_16(number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

/// The descriptor of a volume of `sectors` with the label `label` (§8.4, §8.5).
pub(super) fn volume_descriptor(names: Names, label: &str, sectors: u32) -> Vec<u8> {
    let (tables, root) = names.places();
    let mut record = vec![if names == Names::Primary { 1 } else { 2 }];
    record.extend_from_slice(b"CD001\x01\0");
    record.extend(names.padded("LINUX", 32));
    record.extend(names.padded(label, 32));
    record.extend([0; 8]);
    record.extend(both_32(sectors));
    let mut escapes = [0; 32];
    if names == Names::Joliet {
        escapes[..UCS2_LEVEL_3.len()].copy_from_slice(UCS2_LEVEL_3);
    }
    record.extend(escapes);
    // One volume of one, in sectors of 2048 bytes.
    record.extend([both_16(1), both_16(1), [0, 8, 8, 0]].concat());
    record.extend(both_32(PATH_TABLE_BYTES));
    record.extend(tables.to_le_bytes());
    record.extend([0; 4]);
    record.extend((tables + 1).to_be_bytes());
    record.extend([0; 4]);
    record.extend(directory_record(SELF, IS_DIRECTORY, Extent { sector: root, bytes: SECTOR_BYTES }));
    // Set, publisher, preparer and application; then three names of files that say more.
    for bytes in [128, 128, 128, 128, 37, 37, 37] {
        record.extend(names.padded("", bytes));
    }
    record.extend(UNTOLD.repeat(4));
    record.push(1);
    record
}

/// A path table that has the root alone, which lies at `sector` (§9.4); numbers are in the table's byte order.
pub(super) fn path_table(sector: [u8; 4], one: [u8; 2]) -> Vec<u8> {
    [&[1, 0], &sector[..], &one, &[0, 0]].concat()
}

/// The one directory: itself, what it lies in, which is itself, and its files, which lie at `extents`.
pub(super) fn directory(names: Names, files: &[File<'_>], extents: &[Extent]) -> Vec<u8> {
    let (_, sector) = names.places();
    let own = Extent { sector, bytes: SECTOR_BYTES };
    let mut records = directory_record(SELF, IS_DIRECTORY, own);
    records.extend(directory_record(PARENT, IS_DIRECTORY, own));
    for (file, extent) in files.iter().zip(extents) {
        // A name without an extension has its point all the same (§7.5.1), which Joliet does without.
        let name = match names {
            Names::Primary => names.write(&format!("{}.;1", file.name)),
            Names::Joliet => names.write(&format!("{};1", file.name)),
        };
        records.extend(directory_record(&name, 0, *extent));
    }
    records
}

/// The record of a file or directory (§9.1). Names are shorter than 200 bytes.
fn directory_record(name: &[u8], flags: u8, extent: Extent) -> Vec<u8> {
    let name_bytes = u8::try_from(name.len()).unwrap_or(u8::MAX);
    let mut record = vec![0, 0];
    record.extend(both_32(extent.sector));
    record.extend(both_32(extent.bytes));
    record.extend(EPOCH);
    record.extend([flags, 0, 0]);
    record.extend(both_16(1));
    record.push(name_bytes);
    record.extend_from_slice(name);
    // A record has an even number of bytes.
    record.resize(record.len().next_multiple_of(2), 0);
    record[0] = u8::try_from(record.len()).unwrap_or(u8::MAX);
    record
}
