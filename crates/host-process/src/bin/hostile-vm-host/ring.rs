//! Rings of `io_uring` as bare memory: what they are asked to do, no filter sees.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::calls::{Errno, call};

/// `IORING_OP_OPENAT`, `IORING_OP_CONNECT` and `IORING_OP_SOCKET` (io_uring_enter(2)).
pub(crate) const OPENAT: u8 = 18;
pub(crate) const CONNECT: u8 = 16;
pub(crate) const SOCKET: u8 = 45;

const SUBMISSIONS: libc::off_t = 0;
const ENTRIES: libc::off_t = 0x1000_0000;
const ENTRY_BYTES: usize = 64;
const COMPLETION_BYTES: usize = 16;
const GET_EVENTS: i32 = 1;
/// Rings begin on cache lines.
const LINE: usize = 64;

/// Where this kernel puts what in the memory of a ring (`io_sqring_offsets` and `io_cqring_offsets`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    tail: u32,
    mask: u32,
    completion_tail: u32,
    completion_mask: u32,
    completions: u32,
}

/// What a ring is asked to do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Request {
    pub(crate) operation: u8,
    pub(crate) descriptor: i32,
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) length: u32,
}

/// A ring that the process has, mapped.
pub(crate) struct Ring {
    descriptor: i32,
    layout: Layout,
    memory: *mut u8,
    entries: *mut u8,
}

impl Layout {
    /// As the kernel tells whoever makes a ring.
    pub(crate) fn of_this_kernel() -> io::Result<Self> {
        let (descriptor, layout) = set_up().map_err(io::Error::from_raw_os_error)?;
        call!(libc::SYS_close, descriptor).map_err(io::Error::from_raw_os_error)?;
        Ok(layout)
    }
}

/// Makes a ring; its descriptor and layout.
fn set_up() -> Result<(i32, Layout), Errno> {
    // `struct io_uring_params` in words: the offsets of submissions begin at the tenth, those of completions at the twentieth.
    let mut parameters = [0_u32; 30];
    let descriptor = call!(libc::SYS_io_uring_setup, 4, (&raw mut parameters).cast_const())?;
    let layout = Layout {
        tail: parameters[11],
        mask: parameters[12],
        completion_tail: parameters[21],
        completion_mask: parameters[22],
        completions: parameters[25],
    };
    Ok((i32::try_from(descriptor).map_err(|_| libc::EBADF)?, layout))
}

impl Ring {
    /// A ring of one's own.
    pub(crate) fn new() -> Result<Self, Errno> {
        let (descriptor, layout) = set_up()?;
        Self::map(descriptor, layout)
    }

    /// The first ring that the process has already: that of its machine's disk.
    pub(crate) fn of_disk(layout: Layout) -> Result<Self, Errno> {
        let is_ring = |descriptor: &i32| call!(libc::SYS_io_uring_enter, *descriptor, 0, 0, 0) == Ok(0);
        let descriptor = (3..256).find(is_ring).ok_or(libc::ENODEV)?;
        Self::map(descriptor, layout)
    }

    pub(crate) fn descriptor(&self) -> i32 {
        self.descriptor
    }

    fn map(descriptor: i32, layout: Layout) -> Result<Self, Errno> {
        let first = map(descriptor, SUBMISSIONS, 1)?;
        let ring = Self { descriptor, layout, memory: first, entries: first };
        let (entries, completions) = (ring.word(layout.mask)? + 1, ring.word(layout.completion_mask)? + 1);
        let length = ring.array(completions) + 4 * entries as usize;
        let memory = map(descriptor, SUBMISSIONS, length)?;
        let entries = map(descriptor, ENTRIES, ENTRY_BYTES * entries as usize)?;
        Ok(Self { memory, entries, ..ring })
    }

    /// Where the indices of submissions are: after all completions, on a line of its own.
    fn array(&self, completions: u32) -> usize {
        (self.layout.completions as usize + COMPLETION_BYTES * completions as usize).next_multiple_of(LINE)
    }

    fn at(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the kernel says that there is such a word in the memory of the ring, which stays mapped, and whoever else
        // changes it does so as a whole.
        unsafe { AtomicU32::from_ptr(self.memory.wrapping_add(offset as usize).cast()) }
    }

    fn word(&self, offset: u32) -> Result<u32, Errno> {
        match self.at(offset).load(Ordering::Acquire) {
            word if word < 1 << 16 => Ok(word),
            _ => Err(libc::EPROTO),
        }
    }

    /// Has the ring do `request`; what came of it.
    pub(crate) fn ask(&self, request: Request) -> Result<i32, Errno> {
        let (mask, completion_mask) = (self.word(self.layout.mask)?, self.word(self.layout.completion_mask)?);
        let tail = self.at(self.layout.tail).load(Ordering::Acquire);
        let next = self.at(self.layout.completion_tail).load(Ordering::Acquire);
        let slot = tail & mask;
        let mut entry = [0_u8; ENTRY_BYTES];
        entry[0] = request.operation;
        entry[4..8].copy_from_slice(&request.descriptor.to_ne_bytes());
        entry[8..16].copy_from_slice(&request.offset.to_ne_bytes());
        entry[16..24].copy_from_slice(&request.address.to_ne_bytes());
        entry[24..28].copy_from_slice(&request.length.to_ne_bytes());
        let place = self.entries.wrapping_add(ENTRY_BYTES * slot as usize);
        // SAFETY: the slot is one of those that are mapped, and nobody else submits at this moment.
        unsafe { ptr::copy_nonoverlapping(entry.as_ptr(), place, ENTRY_BYTES) };
        let array = self.array(completion_mask + 1) + 4 * slot as usize;
        self.at(u32::try_from(array).map_err(|_| libc::EPROTO)?).store(slot, Ordering::Release);
        self.at(self.layout.tail).store(tail.wrapping_add(1), Ordering::Release);
        call!(libc::SYS_io_uring_enter, self.descriptor, 1, 1, GET_EVENTS)?;
        // Whoever owns the ring may have taken it out; it stands there all the same.
        let completion =
            self.layout.completions as usize + COMPLETION_BYTES * (next & completion_mask) as usize;
        let result = u32::try_from(completion + 8).map_err(|_| libc::EPROTO)?;
        match self.at(result).load(Ordering::Acquire).cast_signed() {
            error if error < 0 => Err(-error),
            answer => Ok(answer),
        }
    }
}

fn map(descriptor: i32, offset: libc::off_t, length: usize) -> Result<*mut u8, Errno> {
    let length = i64::try_from(length).map_err(|_| libc::EINVAL)?;
    let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    let address = call!(libc::SYS_mmap, 0, length, access, shared, descriptor, offset)?;
    Ok(ptr::with_exposed_provenance_mut(usize::try_from(address).map_err(|_| libc::EFAULT)?))
}
