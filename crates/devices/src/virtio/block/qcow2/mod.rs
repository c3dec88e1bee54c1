//! A disk in a qcow2 image: the format is `imago`'s, which images are used at all `vm_model::check_qcow2_header`
//! decides.
//!
//! An image stands alone: one that names a backing file or an external data file is refused by its header, before
//! the library sees it, and the library is never given leave to open anything. All of this runs on the disk's own
//! thread, which may wait. Images are read-only: on a damaged one the library's allocation of clusters recurses
//! without end, which no process survives. Once the library panicked on a damaged image, the guest gets errors alone.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use imago::FormatAccess;
use imago::qcow2::Qcow2;
use vm_model::{QCOW2_HEADER_BYTES, check_qcow2_header};

use super::engine::{Transfer, TransferKind};

/// Bytes moved at a time between the image and the guest.
const CHUNK_BYTES: u64 = 256 << 10;

/// An open image.
pub(crate) struct Qcow2Image {
    image: FormatAccess<imago::file::File>,
    /// The same file, to see whether it was truncated: the library takes what is missing for zeros.
    file: File,
    file_bytes: u64,
    /// It was: whatever its size is now, the image is not whole.
    truncated: bool,
    disk_bytes: u64,
    chunk: Vec<u8>,
}

impl Qcow2Image {
    /// Opens the image in `file`.
    ///
    /// # Errors
    /// The image is refused ([`vm_model::Qcow2Error`] within), damaged, or cannot be read.
    pub(crate) fn open(file: File) -> io::Result<Self> {
        let mut header = [0; QCOW2_HEADER_BYTES];
        file.read_exact_at(&mut header, 0)?;
        let disk_bytes = check_qcow2_header(&header)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
            .get();
        let storage = file.try_clone()?;
        let opened = catch_unwind(AssertUnwindSafe(move || -> io::Result<_> {
            let mut image: Qcow2<imago::file::File> = Qcow2::open_image(storage.try_into()?, false)?;
            image.set_backing(None);
            image.set_data_file(None);
            Ok(FormatAccess::new(image))
        }));
        let damaged = |_panic| io::Error::new(io::ErrorKind::InvalidData, "the image is damaged");
        let image = opened.map_err(damaged)??;
        let file_bytes = file.metadata()?.len();
        Ok(Self { image, file, file_bytes, truncated: false, disk_bytes, chunk: Vec::new() })
    }

    /// The disk's size.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Carries `transfer` out, however long that takes.
    pub(crate) fn run(&mut self, transfer: &mut Transfer) -> io::Result<()> {
        self.ensure_whole()?;
        match transfer.kind {
            // What was missing meanwhile was read as zeros.
            TransferKind::Read => self.read(transfer).and_then(|()| self.ensure_whole()),
            TransferKind::Flush => Ok(()),
            // Without an error number: those are the host's, and may be tried again.
            TransferKind::Write | TransferKind::Erase | TransferKind::Fill => {
                Err(io::ErrorKind::ReadOnlyFilesystem.into())
            }
        }
    }

    /// Fails for good once the file is shorter than it was.
    fn ensure_whole(&mut self) -> io::Result<()> {
        if !self.truncated && self.file.metadata()?.len() < self.file_bytes {
            self.truncated = true;
            // This thread is the disk's own.
            let thread = std::thread::current();
            tracing::warn!(
                disk = thread.name(),
                "a disk's image became shorter and gives errors from now on"
            );
        }
        if self.truncated { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn read(&mut self, transfer: &mut Transfer) -> io::Result<()> {
        while transfer.vectors.bytes() > 0 {
            let bytes = transfer.vectors.bytes().min(CHUNK_BYTES);
            self.chunk.resize(usize::try_from(bytes).unwrap_or(usize::MAX), 0);
            self.image.read(&mut self.chunk[..], transfer.offset)?;
            transfer.vectors.copy_from(&self.chunk);
            transfer.vectors.advance(bytes);
            transfer.offset = transfer.offset.saturating_add(bytes);
        }
        Ok(())
    }
}
