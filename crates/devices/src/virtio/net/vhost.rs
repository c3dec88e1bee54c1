//! The host kernel's network back end (Linux `include/uapi/linux/vhost.h`): it moves frames between a pair of queues and
//! a TAP by itself, told by ioctls where the queues lie.
#![expect(
    unsafe_code,
    reason = "the back end is driven by ioctls that no crate wraps for an open descriptor"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, opcode};
use thiserror::Error;
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::GuestMemory;
use crate::virtio::queue::HostRings;

/// Serves the two queues of a pair outside this process.
pub trait FrameBackend: Send + Sync {
    /// The features of queues and frames that it can serve.
    fn features(&self) -> u64;

    /// Readies it for queues in `memory` of a driver that accepted `features`. None of its queues may run.
    ///
    /// # Errors
    /// The host refused.
    fn configure(&self, features: u64, memory: &Arc<GuestMemory>, fault: BorrowedFd<'_>) -> io::Result<()>;

    /// Starts moving frames between `rings` and `port`, for the queue of `side`, at each signal of the doorbell `bell`.
    ///
    /// # Errors
    /// The host refused; the queue does not run then.
    fn start(&self, side: Side, rings: &HostRings, bell: &EventFd, port: BorrowedFd<'_>) -> io::Result<()>;

    /// Stops serving the queue of `side` and returns the index of the next available entry to take. The back end touches
    /// neither the queue nor its buffers once this has returned.
    ///
    /// # Errors
    /// The host refused, and may go on.
    fn stop(&self, side: Side) -> io::Result<u16>;

    /// Sets the eventfd that the back end signals when the queue of `side` is to interrupt the driver. Once this has
    /// returned, it signals no earlier one.
    ///
    /// # Errors
    /// The host refused.
    fn interrupt(&self, side: Side, event: &EventFd) -> io::Result<()>;
}

/// A queue of a pair, by the number that the kernel has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Side {
    /// Frames to the guest.
    Receive = 0,
    /// Frames from the guest.
    Transmit = 1,
}

impl Side {
    pub(super) const BOTH: [Self; 2] = [Self::Receive, Self::Transmit];

    fn number(self) -> u32 {
        self as u32
    }
}

/// Why a descriptor cannot serve frames.
#[derive(Debug, Error)]
pub enum VhostError {
    /// One of the calls that set it up failed.
    #[error("{call} on the kernel's network back end failed")]
    Call {
        /// The name of the call.
        call: &'static str,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
    /// The kernel is older than this kind of queue.
    #[error(
        "the kernel's network back end has features {features:#x}, expected VIRTIO_F_VERSION_1 among them"
    )]
    Features {
        /// Those it has.
        features: u64,
    },
}

const GROUP: u8 = 0xaf;
const GET_FEATURES: Opcode = opcode::read::<u64>(GROUP, 0x00);
const SET_FEATURES: Opcode = opcode::write::<u64>(GROUP, 0x00);
const SET_OWNER: Opcode = opcode::none(GROUP, 0x01);
const RESET_OWNER: Opcode = opcode::none(GROUP, 0x02);
/// Its number tells the size of the table without the regions that follow.
const SET_MEM_TABLE: Opcode = opcode::write::<[u32; 2]>(GROUP, 0x03);
const SET_VRING_NUM: NumberRequest = NumberRequest(opcode::write::<VringState>(GROUP, 0x10));
const SET_VRING_ADDR: Opcode = opcode::write::<VringAddresses>(GROUP, 0x11);
const SET_VRING_BASE: NumberRequest = NumberRequest(opcode::write::<VringState>(GROUP, 0x12));
const GET_VRING_BASE: Opcode = opcode::read_write::<VringState>(GROUP, 0x12);
const SET_VRING_KICK: FileRequest = FileRequest(opcode::write::<VringFile>(GROUP, 0x20));
const SET_VRING_CALL: FileRequest = FileRequest(opcode::write::<VringFile>(GROUP, 0x21));
const SET_VRING_ERR: FileRequest = FileRequest(opcode::write::<VringFile>(GROUP, 0x22));
const NET_SET_BACKEND: FileRequest = FileRequest(opcode::write::<VringFile>(GROUP, 0x30));

/// A call whose argument is a queue's number and another.
#[derive(Clone, Copy)]
struct NumberRequest(Opcode);

/// A call whose argument is a queue's number and a descriptor.
#[derive(Clone, Copy)]
struct FileRequest(Opcode);

/// Regions that a table has room for: more than a machine's memory has.
const REGIONS_MAX: usize = 8;

#[repr(C)]
#[derive(Clone, Copy)]
struct VringState {
    index: u32,
    number: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct VringAddresses {
    index: u32,
    flags: u32,
    descriptor_table: u64,
    used_ring: u64,
    available_ring: u64,
    log: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct VringFile {
    index: u32,
    fd: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct MemoryRegion {
    guest_address: u64,
    bytes: u64,
    host_address: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct MemoryTable {
    count: u32,
    padding: u32,
    regions: [MemoryRegion; REGIONS_MAX],
}

/// One back end of the kernel's, for one pair of queues.
pub struct VhostNet {
    // Closed before the memory that the kernel may touch is let go.
    fd: OwnedFd,
    features: u64,
    /// What it was told of last, kept mapped for as long as it may use it.
    memory: Mutex<Option<Arc<GuestMemory>>>,
}

impl VhostNet {
    /// Takes an open `/dev/vhost-net` for queues in memory of this process. A descriptor that was in use before is reset first.
    ///
    /// # Errors
    /// See [`VhostError`].
    pub fn new(fd: OwnedFd) -> Result<Self, VhostError> {
        let failed = |call| move |error: Errno| VhostError::Call { call, source: error.into() };
        match plain_call(&fd, SET_OWNER) {
            Err(Errno::BUSY) => {
                plain_call(&fd, RESET_OWNER).map_err(failed("VHOST_RESET_OWNER"))?;
                plain_call(&fd, SET_OWNER).map_err(failed("VHOST_SET_OWNER"))?;
            }
            taken => taken.map_err(failed("VHOST_SET_OWNER"))?,
        }
        let mut features = 0_u64;
        // SAFETY: the call writes one number.
        let told = unsafe { call(&fd, GET_FEATURES, &raw mut features) };
        told.map_err(failed("VHOST_GET_FEATURES"))?;
        if features & 1 << VIRTIO_F_VERSION_1 == 0 {
            return Err(VhostError::Features { features });
        }
        Ok(Self { fd, features, memory: Mutex::new(None) })
    }

    /// Passes `file` to a call that takes a queue's number and a descriptor.
    fn set_file(&self, request: FileRequest, side: Side, file: &impl AsRawFd) -> io::Result<()> {
        let mut file = VringFile { index: side.number(), fd: file.as_raw_fd() };
        // SAFETY: these calls read their argument and take a reference of their own to an open descriptor.
        Ok(unsafe { call(&self.fd, request.0, &raw mut file) }?)
    }

    fn set_number(&self, request: NumberRequest, side: Side, number: u16) -> io::Result<()> {
        let mut state = VringState { index: side.number(), number: number.into() };
        // SAFETY: these calls read their argument.
        Ok(unsafe { call(&self.fd, request.0, &raw mut state) }?)
    }
}

impl FrameBackend for VhostNet {
    fn features(&self) -> u64 {
        self.features
    }

    fn configure(&self, features: u64, memory: &Arc<GuestMemory>, fault: BorrowedFd<'_>) -> io::Result<()> {
        let mut table = memory_table(memory)?;
        let mut features = features & self.features;
        // SAFETY: the call reads one number.
        unsafe { call(&self.fd, SET_FEATURES, &raw mut features) }?;
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(memory));
        // SAFETY: the call reads the table's head and as many regions as that says. The mappings they name are kept
        // until the next call or until the descriptor is closed, and are guest memory, which anybody may write at any time.
        unsafe { call(&self.fd, SET_MEM_TABLE, &raw mut table) }?;
        Side::BOTH.into_iter().try_for_each(|side| self.set_file(SET_VRING_ERR, side, &fault))
    }

    fn start(&self, side: Side, rings: &HostRings, bell: &EventFd, port: BorrowedFd<'_>) -> io::Result<()> {
        self.set_number(SET_VRING_NUM, side, rings.size)?;
        self.set_number(SET_VRING_BASE, side, rings.next)?;
        let mut addresses = VringAddresses {
            index: side.number(),
            flags: 0,
            descriptor_table: rings.descriptor_table,
            used_ring: rings.used_ring,
            available_ring: rings.available_ring,
            log: 0,
        };
        // SAFETY: the call reads its argument; the rings it names lie in the memory that `configure` was given.
        unsafe { call(&self.fd, SET_VRING_ADDR, &raw mut addresses) }?;
        self.set_file(SET_VRING_KICK, side, bell)?;
        self.set_file(NET_SET_BACKEND, side, &port)
    }

    fn stop(&self, side: Side) -> io::Result<u16> {
        let mut none = VringFile { index: side.number(), fd: -1 };
        // SAFETY: the call reads its argument; minus one is the number of no descriptor, which ends the serving.
        unsafe { call(&self.fd, NET_SET_BACKEND.0, &raw mut none) }?;
        let mut state = VringState { index: side.number(), number: 0 };
        // SAFETY: the call reads and writes its argument.
        unsafe { call(&self.fd, GET_VRING_BASE, &raw mut state) }?;
        u16::try_from(state.number).map_err(io::Error::other)
    }

    fn interrupt(&self, side: Side, event: &EventFd) -> io::Result<()> {
        self.set_file(SET_VRING_CALL, side, event)
    }
}

/// A call without an argument.
fn plain_call(fd: &OwnedFd, request: Opcode) -> Result<(), Errno> {
    // SAFETY: the calls that it is made for look at no argument.
    unsafe { call(fd, request, std::ptr::null_mut::<u64>()) }
}

/// # Safety
/// `argument` is what the kernel reads or writes for `request`, and does what that call says to this process's memory.
unsafe fn call<T>(fd: &OwnedFd, request: Opcode, argument: *mut T) -> Result<(), Errno> {
    // SAFETY: by this function's own condition; the descriptor is open while it is borrowed.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::Ioctl::from(request), argument) };
    if result < 0 { Err(last_error()) } else { Ok(()) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn memory_table(memory: &GuestMemory) -> io::Result<MemoryTable> {
    let mut table = MemoryTable::default();
    for region in memory.iter() {
        let place = table.regions.get_mut(table.count as usize);
        *place.ok_or_else(|| io::Error::other("guest memory is of too many pieces"))? = MemoryRegion {
            guest_address: region.start_addr().raw_value(),
            bytes: region.len(),
            host_address: region.as_ptr().addr() as u64,
            flags: 0,
        };
        table.count += 1;
    }
    Ok(table)
}
