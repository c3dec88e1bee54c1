//! Which qcow2 images are used, told by their headers (QEMU's `docs/interop/qcow2.rst`): the one reader of them, for
//! whoever takes an image in as for whoever reads the disk in it.
//!
//! Every figure in a header is a stranger's. What names another file is refused here, so that nothing is ever opened
//! because an image says so, and sizes are bounded, so that nothing is allocated because of it either.

use std::fmt;

use thiserror::Error;

use crate::Bytes;

/// Bytes of the header of version 3 without extensions: what there is to read before [`check_qcow2_header`].
pub const QCOW2_HEADER_BYTES: usize = 104;
/// `QFI\xfb`.
const MAGIC: u32 = 0x5146_49fb;
/// The largest disk: 64 TiB.
const DISK_BYTES_MAX: u64 = 64 << 40;
/// Disks are whole sectors.
const SECTOR_BYTES: u64 = 512;
/// The largest table of either kind, in bytes, as QEMU has it.
const TABLE_BYTES_MAX: u64 = 32 << 20;
/// Clusters of at most 256 KiB: up to 160 tables of one cluster each are kept in memory.
const CLUSTER_BITS_MAX: u64 = 18;
/// The least that the format knows.
const CLUSTER_BITS_MIN: u64 = 9;
const CLUSTER_MIN: Bytes = Bytes::new(1 << CLUSTER_BITS_MIN);
const CLUSTER_MAX: Bytes = Bytes::new(1 << CLUSTER_BITS_MAX);

/// Why an image is not used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Qcow2Error {
    /// It does not start like a qcow2 image.
    #[error("it starts with {found:#010x} and not, as qcow2 images do, with {MAGIC:#010x}")]
    Magic {
        /// Its first four bytes.
        found: u32,
    },
    /// It has a version that is not known.
    #[error("it has version {found} of the format; 2 and 3 are supported")]
    Version {
        /// The version.
        found: u32,
    },
    /// It makes use of what is not supported.
    #[error("it has {}, which is not supported", list(features))]
    Features {
        /// All of it, at least one.
        features: Vec<Qcow2Feature>,
    },
    /// Its clusters are too large or too small.
    #[error("it has clusters of {size}; {least} to {most} are supported")]
    Clusters {
        /// Those of the image.
        size: Bytes,
        /// The least accepted.
        least: Bytes,
        /// The most accepted.
        most: Bytes,
    },
    /// A figure is out of bounds.
    #[error("its {field} is {value}; {least} to {most} is accepted")]
    OutOfBounds {
        /// Which one.
        field: &'static str,
        /// What it is.
        value: u64,
        /// The least accepted.
        least: u64,
        /// The most accepted.
        most: u64,
    },
    /// The disk in it is no whole number of sectors.
    #[error("the disk in it has {bytes} bytes, which is not a multiple of {SECTOR_BYTES}")]
    PartialSector {
        /// Bytes of the disk.
        bytes: u64,
    },
}

/// What an image can have that is not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qcow2Feature {
    /// It continues in another image.
    BackingFile,
    /// Its content is encrypted.
    Encryption,
    /// It was not closed, and its reference counts may be wrong (incompatible feature bit 0).
    Dirty,
    /// It is known to be damaged (bit 1).
    Corrupt,
    /// Its content lies in another file (bit 2).
    ExternalDataFile,
    /// It is compressed otherwise than by zlib (bit 3).
    Compression,
    /// It has parts of clusters of its own (bit 4).
    ExtendedL2,
    /// It has states of the disk from before.
    InternalSnapshot,
    /// This incompatible feature bit, of which nothing is known.
    Unknown(u32),
}

impl Qcow2Feature {
    const fn of_bit(bit: u32) -> Self {
        match bit {
            0 => Self::Dirty,
            1 => Self::Corrupt,
            2 => Self::ExternalDataFile,
            3 => Self::Compression,
            4 => Self::ExtendedL2,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for Qcow2Feature {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::BackingFile => "a backing file",
            Self::Encryption => "encrypted content",
            Self::Dirty => "the dirty bit set (it was not closed properly)",
            Self::Corrupt => "the corrupt bit set (it is known to be damaged)",
            Self::ExternalDataFile => "an external data file",
            Self::Compression => "clusters compressed with zstd",
            Self::ExtendedL2 => "extended L2 entries (subclusters)",
            Self::InternalSnapshot => "an internal snapshot",
            Self::Unknown(bit) => return write!(formatter, "the unknown incompatible feature of bit {bit}"),
        })
    }
}

fn list(features: &[Qcow2Feature]) -> String {
    features.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// Checks the first bytes of an image; the size of the disk in it.
///
/// # Errors
/// See [`Qcow2Error`].
pub fn check_qcow2_header(header: &[u8; QCOW2_HEADER_BYTES]) -> Result<Bytes, Qcow2Error> {
    let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|byte| header[at + byte]));
    let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
    if word(0) != MAGIC {
        return Err(Qcow2Error::Magic { found: word(0) });
    }
    let version = word(4);
    if !matches!(version, 2 | 3) {
        return Err(Qcow2Error::Version { found: version });
    }
    let incompatible = if version == 3 { long(72) } else { 0 };
    let told = [
        (long(8) != 0 || word(16) != 0, Qcow2Feature::BackingFile),
        (word(32) != 0, Qcow2Feature::Encryption),
        (word(60) != 0, Qcow2Feature::InternalSnapshot),
    ];
    let bits = (0..u64::BITS).map(|bit| (incompatible & (1 << bit) != 0, Qcow2Feature::of_bit(bit)));
    let features: Vec<_> =
        told.into_iter().chain(bits).filter_map(|(has, feature)| has.then_some(feature)).collect();
    if !features.is_empty() {
        return Err(Qcow2Error::Features { features });
    }
    let cluster_bits = cluster_bits(word(20))?;
    let size = bounded("disk size", long(24), 1, DISK_BYTES_MAX)?;
    let table_entry_bytes = 1u64 << (2 * cluster_bits - 3);
    let l1_entries = size.div_ceil(table_entry_bytes);
    bounded("number of L1 entries", word(36).into(), l1_entries, TABLE_BYTES_MAX / 8)?;
    bounded("number of refcount clusters", word(56).into(), 1, TABLE_BYTES_MAX >> cluster_bits)?;
    if version == 3 {
        bounded("refcount order", word(96).into(), 0, 6)?;
        bounded("header length", word(100).into(), QCOW2_HEADER_BYTES as u64, 1 << cluster_bits)?;
    }
    if !size.is_multiple_of(SECTOR_BYTES) {
        return Err(Qcow2Error::PartialSector { bytes: size });
    }
    Ok(Bytes::new(size))
}

fn cluster_bits(bits: u32) -> Result<u64, Qcow2Error> {
    let accepted = CLUSTER_BITS_MIN..=CLUSTER_BITS_MAX;
    if accepted.contains(&u64::from(bits)) {
        return Ok(bits.into());
    }
    Err(match 1u64.checked_shl(bits) {
        Some(size) => Qcow2Error::Clusters { size: Bytes::new(size), least: CLUSTER_MIN, most: CLUSTER_MAX },
        None => {
            let field = "number of cluster bits";
            Qcow2Error::OutOfBounds {
                field,
                value: bits.into(),
                least: CLUSTER_BITS_MIN,
                most: CLUSTER_BITS_MAX,
            }
        }
    })
}

fn bounded(field: &'static str, value: u64, least: u64, most: u64) -> Result<u64, Qcow2Error> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(Qcow2Error::OutOfBounds { field, value, least, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of an image of 8 MiB as `qemu-img create -f qcow2` makes it.
    fn header() -> [u8; QCOW2_HEADER_BYTES] {
        let mut header = [0; QCOW2_HEADER_BYTES];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        header[23] = 16;
        header[24..32].copy_from_slice(&(8u64 << 20).to_be_bytes());
        header[39] = 1;
        header[59] = 1;
        header[99] = 4;
        header[103] = 112;
        header
    }

    fn with(at: usize, bytes: &[u8]) -> Result<Bytes, Qcow2Error> {
        let mut header = header();
        header[at..at + bytes.len()].copy_from_slice(bytes);
        check_qcow2_header(&header)
    }

    #[test]
    fn the_size_of_the_disk_is_told() {
        assert_eq!(check_qcow2_header(&header()), Ok(Bytes::from_mib(8)));
        assert_eq!(with(7, &[2]), Ok(Bytes::from_mib(8)));
        // Version 2 has no feature bits.
        assert_eq!(
            check_qcow2_header(&{
                let mut old = header();
                old[7] = 2;
                old[79] = 0xff;
                old
            }),
            Ok(Bytes::from_mib(8))
        );
    }

    #[test]
    fn features_are_refused_by_their_names() {
        for (at, bytes, named) in [
            (15, &[200][..], "a backing file"),
            (19, &[9], "a backing file"),
            (35, &[1], "encrypted content"),
            (63, &[1], "an internal snapshot"),
            (79, &[1], "the dirty bit"),
            (79, &[2], "the corrupt bit"),
            (79, &[4], "an external data file"),
            (79, &[8], "zstd"),
            (79, &[16], "extended L2 entries"),
            (79, &[32], "bit 5"),
            (72, &[0x80], "bit 63"),
        ] {
            let error = with(at, bytes).expect_err(named);
            assert!(
                matches!(error, Qcow2Error::Features { .. }) && error.to_string().contains(named),
                "{error}"
            );
        }
        let all = with(79, &[0b1001]).expect_err("two features").to_string();
        assert!(all.contains("dirty") && all.contains(" and ") && all.contains("zstd"), "{all}");
    }

    #[test]
    fn figures_are_bounded() {
        assert_eq!(with(0, b"RAW\0"), Err(Qcow2Error::Magic { found: 0x5241_5700 }));
        assert_eq!(with(7, &[4]), Err(Qcow2Error::Version { found: 4 }));
        let clusters = with(23, &[21]).expect_err("too large").to_string();
        assert_eq!(clusters, "it has clusters of 2 MiB; 512 bytes to 256 KiB are supported");
        assert!(matches!(with(23, &[1]), Err(Qcow2Error::Clusters { .. })));
        let bounds = |result, wanted| match result {
            Err(Qcow2Error::OutOfBounds { field, .. }) => assert_eq!(field, wanted),
            other => panic!("{wanted}: {other:?}"),
        };
        bounds(with(20, &[1]), "number of cluster bits");
        bounds(with(24, &(65u64 << 40).to_be_bytes()), "disk size");
        bounds(with(24, &[0; 8]), "disk size");
        bounds(with(36, &[0xff]), "number of L1 entries");
        bounds(with(59, &[0]), "number of refcount clusters");
        assert_eq!(with(31, &[1]), Err(Qcow2Error::PartialSector { bytes: (8 << 20) + 1 }));
    }
}
