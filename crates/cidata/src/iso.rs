//! An ISO 9660 file system (ECMA-119) with the Joliet names that everything of today reads: one directory, written once.
//!
//! ```text
//! sector 0    nothing, for whoever boots from it        18  end of descriptors
//!        16   primary volume descriptor                 19  path tables: primary (little, big), Joliet (little, big)
//!        17   Joliet volume descriptor                  23  directory, primary        24  directory, Joliet
//!                                                       25  files, each from a sector's start
//! ```
//!
//! Numbers stand there in both byte orders. All times are the same one, so that equal files make equal bytes.

mod records;

use records::{directory, path_table, volume_descriptor};

/// The bytes of a sector (ECMA-119 §6.1.2).
const SECTOR: usize = 2048;
/// Where the descriptors begin.
const DESCRIPTORS: usize = 16;
/// Where the path tables begin.
const PATH_TABLES: u32 = 19;
/// Where the directories are.
const DIRECTORIES: [u32; 2] = [23, 24];
/// Where the first file begins.
const FILES: u32 = 25;

/// A file of the one directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File<'a> {
    /// Its name: a few ASCII characters.
    pub(crate) name: &'a str,
    /// What is in it.
    pub(crate) content: &'a [u8],
}

/// In which of the two sets of names a part is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// Capital letters.
    Primary,
    /// UCS-2, big-endian.
    Joliet,
}

/// Where something lies.
#[derive(Clone, Copy, Debug)]
struct Extent {
    sector: u32,
    bytes: u32,
}

/// The bytes of a file system with `label` and `files`, sorted by name. They are few and small, so that both directories
/// have room in a sector each, and all together stay far below 4 GiB.
pub(crate) fn image(label: &str, files: &[File<'_>]) -> Vec<u8> {
    let mut next = FILES;
    let extents: Vec<Extent> = files
        .iter()
        .map(|file| {
            let bytes = length(file.content);
            let sector = next;
            next = next.saturating_add(bytes.div_ceil(SECTOR_BYTES));
            Extent { sector, bytes }
        })
        .collect();
    let mut image = vec![0; DESCRIPTORS * SECTOR];
    let mut put = |part: &[u8]| {
        image.extend_from_slice(part);
        image.resize(image.len().next_multiple_of(SECTOR), 0);
    };
    put(&volume_descriptor(Names::Primary, label, next));
    put(&volume_descriptor(Names::Joliet, label, next));
    put(b"\xffCD001\x01");
    for sector in DIRECTORIES {
        put(&path_table(sector.to_le_bytes(), 1_u16.to_le_bytes()));
        put(&path_table(sector.to_be_bytes(), 1_u16.to_be_bytes()));
    }
    for names in [Names::Primary, Names::Joliet] {
        put(&directory(names, files, &extents));
    }
    for file in files {
        put(file.content);
    }
    image
}

/// The bytes of a sector, as numbers of the file system are written.
const SECTOR_BYTES: u32 = 2048;

fn length(content: &[u8]) -> u32 {
    u32::try_from(content.len()).unwrap_or(u32::MAX)
}

impl Names {
    /// Where the path tables of this set begin, and its directory.
    fn places(self) -> (u32, u32) {
        let [primary, joliet] = DIRECTORIES;
        match self {
            Self::Primary => (PATH_TABLES, primary),
            Self::Joliet => (PATH_TABLES + 2, joliet),
        }
    }

    /// `text` as this set writes it.
    fn write(self, text: &str) -> Vec<u8> {
        match self {
            Self::Primary => text.to_ascii_uppercase().into_bytes(),
            Self::Joliet => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        }
    }

    /// `text` filled up with blanks to `bytes`.
    fn padded(self, text: &str, bytes: usize) -> Vec<u8> {
        let (mut field, blank): (Vec<u8>, &[u8]) = match self {
            Self::Primary => (self.write(text), b" "),
            Self::Joliet => (self.write(text), b"\0 "),
        };
        field.truncate(bytes);
        while field.len() + blank.len() <= bytes {
            field.extend_from_slice(blank);
        }
        // A field of an odd number of bytes ends with a zero.
        field.resize(bytes, 0);
        field
    }
}

#[cfg(test)]
mod tests;
