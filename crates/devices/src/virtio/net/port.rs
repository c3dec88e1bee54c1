//! Where frames go to and come from: a TAP, or what tests put in its place.
#![expect(unsafe_code, reason = "a TAP is set up by ioctls that no crate wraps")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use thiserror::Error;
use vm_model::LinkState;

use super::HEADER_BYTES;
use super::offloads::{Offloads, UdpSegmentation};

/// The most frames that are discarded before a card begins. It is more than wait in any TAP by default; a limit, so that
/// a host that sends faster than they are discarded cannot keep this loop going.
const WAITING_MAX: usize = 4096;

/// A descriptor on which one `readv` takes one frame and one `writev` gives one, without waiting, each with a
/// 12-byte virtio header before it.
pub trait FramePort: Send {
    /// The descriptor. Readable when there are frames.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Says what frames that are read from now on may leave to their receiver.
    ///
    /// # Errors
    /// The host refused.
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()>;

    /// Whether the host gives it frames when it is handed over. One that an earlier card had may be out of use.
    fn initial_use(&self) -> PortUse {
        PortUse::Attached
    }

    /// Says whether the host gives it frames from now on. Asked of one of several ports of a card alone, and never for
    /// what is so already.
    ///
    /// # Errors
    /// The host refused.
    fn set_use(&self, port_use: PortUse) -> io::Result<()>;

    /// Tells the host's side whether the link is up, from which it has its carrier.
    ///
    /// # Errors
    /// The host refused, or does not know how.
    fn set_carrier(&self, link: LinkState) -> io::Result<()>;

    /// Whether it segments UDP.
    fn udp_segmentation(&self) -> UdpSegmentation;
}

/// Whether the host gives a port frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortUse {
    /// It does: some of all, or all where it is the only one.
    Attached,
    /// It does not, and what waits there is lost.
    Detached,
}

/// Why a descriptor cannot serve as a TAP.
#[derive(Debug, Error)]
pub enum TapError {
    /// One of the calls that set it up failed.
    #[error("{call} on the TAP failed")]
    Call {
        /// The name of the call.
        call: &'static str,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
    /// It was opened with other flags than the card needs.
    #[error("the interface has flags {flags:#x}, expected IFF_TAP, IFF_NO_PI and IFF_VNET_HDR")]
    Flags {
        /// The flags it has.
        flags: u16,
    },
}

/// A TAP interface's queue.
pub struct Tap {
    fd: OwnedFd,
    initial_use: PortUse,
    udp_segmentation: UdpSegmentation,
}

impl Tap {
    /// Takes an open TAP, makes it non-blocking, sets the size of its headers and finds out what it can do. What an
    /// earlier card on it left (offloads, waiting frames) is dropped.
    ///
    /// # Errors
    /// The descriptor is no TAP with headers, or a call failed.
    pub fn new(fd: OwnedFd) -> Result<Self, TapError> {
        let failed = |call| move |source| TapError::Call { call, source };
        let flags = interface_flags(fd.as_fd()).map_err(failed("TUNGETIFF"))?;
        let kind = flags & (libc::IFF_TAP | libc::IFF_TUN);
        if kind != libc::IFF_TAP || flags & libc::IFF_NO_PI == 0 || flags & libc::IFF_VNET_HDR == 0 {
            return Err(TapError::Flags { flags: u16::try_from(flags).unwrap_or(u16::MAX) });
        }
        let status = fcntl_getfl(&fd).map_err(|error| failed("F_GETFL")(error.into()))?;
        fcntl_setfl(&fd, status | OFlags::NONBLOCK).map_err(|error| failed("F_SETFL")(error.into()))?;
        set_header_size(fd.as_fd()).map_err(failed("TUNSETVNETHDRSZ"))?;
        let udp_segmentation = match set_offloads(fd.as_fd(), Offloads::UDP_PROBE) {
            Ok(()) => UdpSegmentation::Supported,
            // Kernels before 6.2.
            Err(_unknown) => UdpSegmentation::Unsupported,
        };
        set_offloads(fd.as_fd(), Offloads::default()).map_err(failed("TUNSETOFFLOAD"))?;
        let initial_use =
            if flags & libc::IFF_DETACH_QUEUE == 0 { PortUse::Attached } else { PortUse::Detached };
        discard_waiting(fd.as_fd());
        Ok(Self { fd, initial_use, udp_segmentation })
    }
}

impl FramePort for Tap {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        set_offloads(self.fd(), offloads)
    }

    fn initial_use(&self) -> PortUse {
        self.initial_use
    }

    fn set_use(&self, port_use: PortUse) -> io::Result<()> {
        let flag = match port_use {
            PortUse::Attached => libc::IFF_ATTACH_QUEUE,
            PortUse::Detached => libc::IFF_DETACH_QUEUE,
        };
        set_queue(self.fd(), flag)
    }

    fn set_carrier(&self, link: LinkState) -> io::Result<()> {
        set_carrier(self.fd(), link)
    }

    fn udp_segmentation(&self) -> UdpSegmentation {
        self.udp_segmentation
    }
}

fn set_carrier(fd: BorrowedFd<'_>, link: LinkState) -> io::Result<()> {
    let is_up = libc::c_int::from(link == LinkState::Up);
    // SAFETY: the kernel reads one number from ours, which outlives the call.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETCARRIER, &raw const is_up) })
}

/// Throws away what came for the guest of an earlier card: it may leave work to its receiver that the next guest has
/// not accepted.
fn discard_waiting(fd: BorrowedFd<'_>) {
    // A read takes a whole frame, however little of it fits.
    let mut start = [0; 64];
    for _ in 0..WAITING_MAX {
        if !rustix::io::read(fd, &mut start).is_ok_and(|bytes| bytes > 0) {
            break;
        }
    }
}

fn set_offloads(fd: BorrowedFd<'_>, offloads: Offloads) -> io::Result<()> {
    let flags = libc::c_ulong::from(offloads.bits());
    // SAFETY: the call takes a number and touches no memory of ours; the descriptor is open while it is borrowed.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, flags) })
}

fn interface_flags(fd: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    // SAFETY: an all-zero request is a valid value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one request into ours, which outlives the call.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    // SAFETY: this call fills in the name and, of the union, the flags; any bytes are valid flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    // The flags are 16 bits of which the uppermost is one of them, not a sign.
    Ok(libc::c_int::from(flags.cast_unsigned()))
}

fn set_queue(fd: BorrowedFd<'_>, flag: libc::c_int) -> io::Result<()> {
    let flags = u16::try_from(flag).map_err(io::Error::other)?.cast_signed();
    let request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    // SAFETY: the kernel reads one request from ours, which outlives the call.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETQUEUE, &raw const request) })
}

fn set_header_size(fd: BorrowedFd<'_>) -> io::Result<()> {
    let size = libc::c_int::try_from(HEADER_BYTES).map_err(io::Error::other)?;
    // SAFETY: the kernel reads one number from ours, which outlives the call.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) })
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
