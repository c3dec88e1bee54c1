//! Creating TAP devices through `/dev/net/tun`.
//!
//! Each is made for a virtio-net device: whole Ethernet frames, each behind a virtio-net header of 12 bytes
//! (virtio 1.2 §5.1.6.1, with `num_buffers`), checksums and TCP segmentation left to the far end. A TAP is not
//! persistent: it lives as long as a descriptor of it, so a process that dies leaves no link behind.

#![expect(unsafe_code, reason = "netlink cannot create a TAP; these ioctls have no safe wrapper")]

use std::fs::OpenOptions;
use std::io;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::net::{AddressFamily, SocketType};
use thiserror::Error;
use vm_model::VmId;

use crate::LinkName;
use crate::names::tap_name;
use crate::silence::silence_own_link;

/// The clone device of the kernel's TUN/TAP driver.
const TUN_DEVICE: &str = "/dev/net/tun";
/// What each queue is opened as.
const QUEUE: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
/// Bytes of the virtio-net header before each frame.
pub const VNET_HEADER_BYTES: u16 = 12;
/// What a guest that negotiates nothing more can be given without harm once its device says so.
const OFFLOADS: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
/// UDP segmentation, in kernels from 6.2 on.
const UDP_OFFLOADS: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;
/// How many names are tried before giving up.
const NAME_ATTEMPTS: u8 = 16;

/// Why there is no TAP.
#[derive(Debug, Error)]
pub enum TapError {
    /// The driver cannot be opened.
    #[error("cannot open {TUN_DEVICE}: the tun module must be loaded and the worker have CAP_NET_ADMIN")]
    Device(#[source] io::Error),
    /// The driver made no TAP.
    #[error("cannot create the TAP {name}")]
    Create {
        /// Its name.
        name: LinkName,
        /// The kernel's reason.
        #[source]
        cause: io::Error,
    },
    /// The TAP cannot be set up as virtio-net needs it.
    #[error("cannot {operation} the TAP {name}")]
    Configure {
        /// Its name.
        name: LinkName,
        /// What was tried.
        operation: &'static str,
        /// The kernel's reason.
        #[source]
        cause: io::Error,
    },
    /// Every name that was tried belongs to another link.
    #[error("no free link name for the TAP of {vm}/{nic}: {NAME_ATTEMPTS} were tried, the last was {last}")]
    NoFreeName {
        /// The VM.
        vm: VmId,
        /// Its interface.
        nic: String,
        /// The last name tried.
        last: LinkName,
    },
}

/// Whether the kernel segments UDP for this TAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpSegmentation {
    /// `TUN_F_USO4` and `TUN_F_USO6` are accepted.
    Supported,
    /// They are not.
    Unsupported,
}

/// A TAP fresh from the driver: down, attached to nothing.
#[derive(Debug)]
pub(crate) struct NewTap {
    pub(crate) name: LinkName,
    pub(crate) index: u32,
    /// Its queues, at least one.
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) udp_segmentation: UdpSegmentation,
}

/// What a TAP is made for.
#[derive(Clone, Debug)]
pub(crate) struct TapRequest<'a> {
    pub(crate) vm: &'a VmId,
    pub(crate) nic: &'a str,
    /// A name to be tried first.
    pub(crate) hint: Option<LinkName>,
    /// How many queues frames are spread over.
    pub(crate) queues: NonZeroU16,
}

/// Creates the TAP of an interface, under the hinted name if that is free, else under one of ours.
/// Blocks on the kernel's network lock.
///
/// # Errors
/// If the driver cannot be opened or refuses.
pub(crate) fn create_tap(request: TapRequest<'_>) -> Result<NewTap, TapError> {
    let TapRequest { vm, nic, hint, queues } = request;
    let kind = if queues.get() > 1 { QUEUE | libc::IFF_MULTI_QUEUE } else { QUEUE };
    let fd = open_driver()?;
    let ours = (0..NAME_ATTEMPTS).map(|attempt| tap_name(vm, nic, attempt));
    let mut last = None;
    for name in hint.into_iter().chain(ours) {
        // Exclusive: without it the driver would hand out an existing persistent TAP of this name.
        match set_interface(&fd, &name, kind | libc::IFF_TUN_EXCL) {
            Ok(()) => return configure(with_more_queues(fd, &name, kind, queues)?, name),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => last = Some(name),
            Err(cause) => return Err(TapError::Create { name, cause }),
        }
    }
    Err(TapError::NoFreeName {
        vm: vm.clone(),
        nic: nic.to_owned(),
        last: last.unwrap_or_else(|| tap_name(vm, nic, NAME_ATTEMPTS - 1)),
    })
}

fn open_driver() -> Result<OwnedFd, TapError> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(TUN_DEVICE)
        .map_err(TapError::Device)?;
    Ok(device.into())
}

/// Opens the rest of `queues` of the TAP `name`, whose first is `fd`. Nobody else can have made a TAP of this name
/// meanwhile: it is there while `fd` is open.
fn with_more_queues(
    fd: OwnedFd,
    name: &LinkName,
    kind: libc::c_int,
    queues: NonZeroU16,
) -> Result<Vec<OwnedFd>, TapError> {
    let mut fds = vec![fd];
    for _further in 1..queues.get() {
        let fd = open_driver()?;
        let failed = |cause| TapError::Configure { name: name.clone(), operation: "add a queue to", cause };
        set_interface(&fd, name, kind).map_err(failed)?;
        fds.push(fd);
    }
    Ok(fds)
}

/// Binds `fd` to the TAP `name` as a queue of it, which makes the TAP if there is none. With `IFF_TUN_EXCL`: `EBUSY` if
/// the name is taken by any link.
fn set_interface(fd: &OwnedFd, name: &LinkName, flags: libc::c_int) -> io::Result<()> {
    let flags = u16::try_from(flags).expect("the driver's flags are 16 bits");
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags.cast_signed() },
    };
    // A link name has at most 15 bytes, so the terminator stays.
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *slot = byte.cast_signed();
    }
    // SAFETY: TUNSETIFF reads and writes one `ifreq`; the pointer is to a live, exclusively borrowed one.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    succeeded(result)
}

/// Sets what holds for the TAP as a whole, whichever queue it is asked of.
fn configure(fds: Vec<OwnedFd>, name: LinkName) -> Result<NewTap, TapError> {
    let failed = |operation, cause| TapError::Configure { name: name.clone(), operation, cause };
    let fd = fds.first().expect("a TAP has a queue");
    set_header_size(fd).map_err(|cause| failed("set the header size of", cause))?;
    let udp_segmentation = match set_offloads(fd, OFFLOADS | UDP_OFFLOADS) {
        Ok(()) => UdpSegmentation::Supported,
        Err(_) => UdpSegmentation::Unsupported,
    };
    set_offloads(fd, OFFLOADS).map_err(|cause| failed("set the offloads of", cause))?;
    silence_own_link(name.as_str());
    let index = link_index(&name).map_err(|cause| failed("find the index of", cause))?;
    Ok(NewTap { name, index, fds, udp_segmentation })
}

fn set_header_size(fd: &OwnedFd) -> io::Result<()> {
    let size = libc::c_int::from(VNET_HEADER_BYTES);
    // SAFETY: TUNSETVNETHDRSZ reads one `int`; the pointer is to a live one.
    succeeded(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) })
}

fn set_offloads(fd: &OwnedFd, offloads: libc::c_uint) -> io::Result<()> {
    let argument = libc::c_ulong::from(offloads);
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
    succeeded(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, argument) })
}

fn link_index(name: &LinkName) -> io::Result<u32> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(rustix::net::netdevice::name_to_index(socket.as_fd(), name.as_str())?)
}

fn succeeded(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
