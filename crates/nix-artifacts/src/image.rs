//! What can be told about a disk image without trusting it.
//!
//! An image's first bytes are written by a guest, so they never decide how it is read. They decide one thing
//! alone: an image that nobody called raw in words and that looks like a container format is refused, since
//! reading it as raw bytes would show the guest a broken disk. An image that is called qcow2 has its header checked
//! here, before anything is built for it.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use thiserror::Error;
use vm_model::{QCOW2_HEADER_BYTES, Qcow2Error, check_qcow2_header};

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
    /// The image is called qcow2 and is none.
    #[error(
        "image_type is Qcow2, and the image is none: if it is raw, leave image_type out or set it to \"Raw\"; \
         otherwise `qemu-img convert -O raw {} OUT` makes a raw one of it",
        path.display()
    )]
    NotQcow2 {
        /// Where the image really lies.
        path: PathBuf,
        /// What it starts with.
        #[source]
        source: Qcow2Error,
    },
    /// The image ends within its header.
    #[error("the qcow2 image has {size} bytes, and its header alone has {QCOW2_HEADER_BYTES}")]
    Truncated {
        /// The size in bytes.
        size: u64,
    },
    /// The image is a qcow2 image that is not supported.
    #[error("a qcow2 image like this cannot be used (`qemu-img convert -O raw {} OUT` makes a raw one of it)", path.display())]
    Qcow2 {
        /// Where the image really lies.
        path: PathBuf,
        /// What is not supported.
        #[source]
        source: Qcow2Error,
    },
    /// The image could not be read.
    #[error("its first bytes cannot be read")]
    Read(#[source] io::Error),
}

/// Refuses what cannot be a disk of the stated format; the content is looked at unless that is raw.
pub(crate) fn check_disk_image(image: &OpenedFile, stated: StatedImage) -> Result<(), ImageError> {
    check_not_empty(image)?;
    match stated {
        StatedImage::Qcow2 => return check_qcow2(image),
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

fn check_qcow2(image: &OpenedFile) -> Result<(), ImageError> {
    let path = || image.path().to_owned();
    let (start, filled) = start_of::<QCOW2_HEADER_BYTES>(image).map_err(ImageError::Read)?;
    match check_qcow2_header(&start) {
        Err(source @ Qcow2Error::Magic { .. }) => Err(ImageError::NotQcow2 { path: path(), source }),
        _ if filled < start.len() => Err(ImageError::Truncated { size: image.size() }),
        Ok(_size) => Ok(()),
        Err(
            source @ (Qcow2Error::Version { .. }
            | Qcow2Error::Features { .. }
            | Qcow2Error::Clusters { .. }
            | Qcow2Error::OutOfBounds { .. }
            | Qcow2Error::PartialSector { .. }),
        ) => Err(ImageError::Qcow2 { path: path(), source }),
    }
}

fn container_format(image: &OpenedFile) -> io::Result<Option<&'static str>> {
    let (start, filled) = start_of::<32>(image)?;
    Ok(MAGICS.iter().find_map(|(magic, format)| start[..filled].starts_with(magic).then_some(*format)))
}

/// The first bytes of an image, zeros where it has fewer, and how many it has of them.
fn start_of<const BYTES: usize>(image: &OpenedFile) -> io::Result<([u8; BYTES], usize)> {
    let mut start = [0; BYTES];
    let mut filled = 0;
    while filled < start.len() {
        match image.file().read_at(&mut start[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((start, filled))
}
