//! The header of a qcow2 image, checked before anything else looks at the image (QEMU's `docs/interop/qcow2.rst`).
//!
//! Every figure in it is a stranger's. What names another file is refused here, so that nothing is ever opened
//! because an image says so, and sizes are bounded, so that nothing is allocated because of it either.

use thiserror::Error;

/// Bytes of the header of version 3 without extensions.
pub(super) const HEADER_BYTES: usize = 104;
/// `QFI\xfb`.
const MAGIC: u32 = 0x5146_49fb;
/// The largest disk: 64 TiB.
const DISK_BYTES_MAX: u64 = 64 << 40;
/// The largest table of either kind, in bytes, as QEMU has it.
const TABLE_BYTES_MAX: u64 = 32 << 20;
/// Clusters of at most 256 KiB: up to 160 tables of one cluster each are kept in memory.
const CLUSTER_BITS_MAX: u64 = 18;
/// The image was not closed well (bit 0): reference counts may be wrong.
const FEATURE_DIRTY: u64 = 1 << 0;

/// Why an image is not used.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Qcow2Error {
    /// It does not start like a qcow2 image.
    #[error("the image starts with {found:#010x}, a qcow2 image with {MAGIC:#010x}")]
    Magic {
        /// Its first four bytes.
        found: u32,
    },
    /// It has a version that is not known.
    #[error("the image has version {found}, expected 2 or 3")]
    Version {
        /// The version.
        found: u32,
    },
    /// It continues in another file.
    #[error("the image has a backing file, and images must stand alone")]
    BackingFile,
    /// It needs what is not supported: an external data file, another compression, extended entries.
    #[error("the image needs features {bits:#x}, expected none")]
    Features {
        /// The incompatible features that stand in its way.
        bits: u64,
    },
    /// It is known to be corrupt.
    #[error("the image is marked as corrupt, repair it first")]
    Corrupt,
    /// Its content is encrypted.
    #[error("the image is encrypted with method {method}, expected none")]
    Encrypted {
        /// The method.
        method: u32,
    },
    /// A figure is out of bounds.
    #[error("the image's {field} is {value}, expected {least} to {most}")]
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
}

/// Checks the first bytes of an image; the disk's size in bytes.
///
/// # Errors
/// See [`Qcow2Error`].
pub(super) fn check_header(header: &[u8; HEADER_BYTES]) -> Result<u64, Qcow2Error> {
    let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|byte| header[at + byte]));
    let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
    if word(0) != MAGIC {
        return Err(Qcow2Error::Magic { found: word(0) });
    }
    let version = word(4);
    if !matches!(version, 2 | 3) {
        return Err(Qcow2Error::Version { found: version });
    }
    if long(8) != 0 || word(16) != 0 {
        return Err(Qcow2Error::BackingFile);
    }
    if word(32) != 0 {
        return Err(Qcow2Error::Encrypted { method: word(32) });
    }
    let cluster_bits = bounded("cluster bits", word(20).into(), 9, CLUSTER_BITS_MAX)?;
    let size = bounded("disk size", long(24), 1, DISK_BYTES_MAX)?;
    let table_entry_bytes = 1u64 << (2 * cluster_bits - 3);
    let l1_entries = size.div_ceil(table_entry_bytes);
    bounded("number of L1 entries", word(36).into(), l1_entries, TABLE_BYTES_MAX / 8)?;
    bounded("number of refcount clusters", word(56).into(), 1, TABLE_BYTES_MAX >> cluster_bits)?;
    bounded("number of snapshots", word(60).into(), 0, 0)?;
    if version == 3 {
        match long(72) {
            // Reading needs no reference counts.
            0 | FEATURE_DIRTY => {}
            bits if bits & !0b11 == 0 => return Err(Qcow2Error::Corrupt),
            bits => return Err(Qcow2Error::Features { bits: bits & !0b11 }),
        }
        bounded("refcount order", word(96).into(), 0, 6)?;
        bounded("header length", word(100).into(), HEADER_BYTES as u64, 1 << cluster_bits)?;
    }
    Ok(size)
}

fn bounded(field: &'static str, value: u64, least: u64, most: u64) -> Result<u64, Qcow2Error> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(Qcow2Error::OutOfBounds { field, value, least, most })
    }
}
