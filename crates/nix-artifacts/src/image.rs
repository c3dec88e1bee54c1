//! What can be told about a disk image without trusting it.
//!
//! An image's first bytes are written by a guest, so they never decide how it is read. They decide one thing
//! alone: an image that nobody called raw in words and that looks like a container format is refused, since
//! reading it as raw bytes would show the guest a broken disk.

use std::io;
use std::os::unix::fs::FileExt;

use thiserror::Error;

use crate::config::StatedImage;
use crate::config::keys::SECTOR;
use crate::store::OpenedFile;

/// What formats begin with.
const MAGICS: [(&[u8], &str); 5] = [
    (b"QFI\xfb", "qcow2"),
    (b"KDMV", "VMDK"),
    (b"# Disk DescriptorFile", "VMDK"),
    (b"vhdxfile", "VHDX"),
    (b"conectix", "VHD"),
];

/// Why a file is no disk image that can be used.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// The size is no whole number of sectors.
    #[error("its size of {size} bytes is not a multiple of {SECTOR}")]
    Size {
        /// The size in bytes.
        size: u64,
    },
    /// The image is not raw.
    #[error(
        "it starts like a {format} image, and image_type does not say so; convert it to a raw one, or set \
         image_type to \"Raw\" if it really is raw (\"Qcow2\" is there for disks that are readonly)"
    )]
    Format {
        /// The format that it looks like.
        format: &'static str,
    },
    /// The image could not be read.
    #[error("its first bytes cannot be read")]
    Read(#[source] io::Error),
}

/// Refuses what cannot be a disk of the stated format; the content is looked at only if none is stated. What is in a
/// qcow2 image is checked by who reads it.
pub(crate) fn check_disk_image(image: &OpenedFile, stated: StatedImage) -> Result<(), ImageError> {
    check_not_empty(image)?;
    match stated {
        StatedImage::Qcow2 => return Ok(()),
        StatedImage::Raw => {}
        StatedImage::Unstated => {
            if let Some(format) = container_format(image).map_err(ImageError::Read)? {
                return Err(ImageError::Format { format });
            }
        }
    }
    if !image.size().is_multiple_of(SECTOR) {
        return Err(ImageError::Size { size: image.size() });
    }
    Ok(())
}

/// Refuses an empty file.
pub(crate) fn check_not_empty(file: &OpenedFile) -> Result<(), ImageError> {
    if file.size() == 0 { Err(ImageError::Empty) } else { Ok(()) }
}

fn container_format(image: &OpenedFile) -> io::Result<Option<&'static str>> {
    let mut start = [0; 32];
    let mut filled = 0;
    while filled < start.len() {
        match image.file().read_at(&mut start[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(MAGICS.iter().find_map(|(magic, format)| start[..filled].starts_with(magic).then_some(*format)))
}
