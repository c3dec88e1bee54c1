//! One frame a system call, straight between guest memory and a descriptor.
#![expect(unsafe_code, reason = "vectored system calls on guest memory take raw vectors")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::virtio::vectors::IoVectors;

/// What a read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// A frame of this many bytes, with its header.
    Frame(u64),
    /// A frame that did not fit; what fitted was written.
    TooLong,
}

/// Reads the next frame into `vectors`.
///
/// # Errors
/// `AGAIN`: there is none. `PIPE`: a port that has a far end has lost it, and will never have a frame again. Others: the
/// interface is down or gone.
pub(super) fn receive(fd: BorrowedFd<'_>, vectors: &mut IoVectors) -> Result<Received, Errno> {
    let room = vectors.bytes();
    let bytes = vectors.with_spare_byte(|vectors| {
        let count = libc::c_int::try_from(vectors.len()).map_err(|_too_many| Errno::INVAL)?;
        until_uninterrupted(|| {
            // SAFETY: the vectors point into guest memory that their owner keeps mapped during the call, and at
            // one byte that lives as long; that the guest changes its bytes meanwhile harms nobody here.
            unsafe { libc::readv(fd.as_raw_fd(), vectors.as_ptr(), count) }
        })
    })?;
    // A frame has a header at least.
    if bytes == 0 {
        return Err(Errno::PIPE);
    }
    Ok(if bytes > room { Received::TooLong } else { Received::Frame(bytes) })
}

/// Writes `vectors` as one frame.
///
/// # Errors
/// `AGAIN`: there is no room now. Others: the host does not take this frame.
pub(super) fn transmit(fd: BorrowedFd<'_>, vectors: &IoVectors) -> Result<(), Errno> {
    let vectors = vectors.as_slice();
    let count = libc::c_int::try_from(vectors.len()).map_err(|_too_many| Errno::INVAL)?;
    until_uninterrupted(|| {
        // SAFETY: the vectors point into guest memory that their owner keeps mapped during the call, and the
        // kernel only reads it.
        unsafe { libc::writev(fd.as_raw_fd(), vectors.as_ptr(), count) }
    })?;
    Ok(())
}

fn until_uninterrupted(call: impl Fn() -> isize) -> Result<u64, Errno> {
    loop {
        if let Ok(bytes) = u64::try_from(call()) {
            return Ok(bytes);
        }
        match Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO) {
            Errno::INTR => {}
            error => return Err(error),
        }
    }
}
