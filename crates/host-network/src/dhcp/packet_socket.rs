//! A packet socket on one link that hears only what is meant for our servers (packet(7)): DHCP messages, or DHCPv6 messages
//! and router solicitations.
//!
//! The kernel adds and removes the Ethernet header, so whole IP packets pass here. A filter in the kernel drops
//! everything else before it is copied.

#![expect(unsafe_code, reason = "link-layer addresses and socket filters have no safe wrapper")]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;
use vm_model::MacAddress;

use super::datagram::SERVER_PORT;
use crate::ipv6::packet;

/// The EtherTypes of IPv4 and IPv6, as a link-layer address holds them.
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
/// Bytes of a `sockaddr_ll`.
const ADDRESS_BYTES: u32 = 20;
const _: () = assert!(mem::size_of::<libc::sockaddr_ll>() == 20, "as ADDRESS_BYTES says");

/// Classic BPF, one tuple an instruction: code, jump if true, jump if false, operand.
type Instruction = (u32, u8, u8, u32);

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_HALF_INDEXED: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const HEADER_LENGTH_TO_INDEX: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_BITS: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// What a socket hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// DHCP messages to a server.
    Dhcp,
    /// DHCPv6 messages to a server, and router solicitations.
    Ipv6Questions,
}

impl Heard {
    fn ethertype(self) -> u16 {
        match self {
            Self::Dhcp => ETHERTYPE_IPV4,
            Self::Ipv6Questions => ETHERTYPE_IPV6,
        }
    }

    fn filter(self) -> &'static [Instruction] {
        match self {
            Self::Dhcp => &DHCP_FILTER,
            Self::Ipv6Questions => &IPV6_FILTER,
        }
    }
}

/// Over an IPv6 packet from its first byte, without extension headers: UDP to port 547, or ICMPv6 of type 133.
const IPV6_FILTER: [Instruction; 9] = [
    (LOAD_BYTE, 0, 0, 6),
    (IF_EQUAL, 0, 2, packet::UDP as u32),
    (LOAD_HALF, 0, 0, 42),
    (IF_EQUAL, 3, 4, packet::SERVER_PORT as u32),
    (IF_EQUAL, 0, 3, packet::ICMPV6 as u32),
    (LOAD_BYTE, 0, 0, 40),
    (IF_EQUAL, 0, 1, packet::ROUTER_SOLICITATION as u32),
    (RETURN, 0, 0, 0xffff),
    (RETURN, 0, 0, 0),
];

/// Over an IPv4 packet from its first byte: protocol UDP, no fragment, destination port 67.
const DHCP_FILTER: [Instruction; 9] = [
    (LOAD_BYTE, 0, 0, 9),
    (IF_EQUAL, 0, 6, 17),
    (LOAD_HALF, 0, 0, 6),
    (IF_BITS, 4, 0, 0x3fff),
    (HEADER_LENGTH_TO_INDEX, 0, 0, 0),
    (LOAD_HALF_INDEXED, 0, 0, 2),
    (IF_EQUAL, 0, 1, SERVER_PORT as u32),
    (RETURN, 0, 0, 0xffff),
    (RETURN, 0, 0, 0),
];

/// The socket; non-blocking.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
    link: libc::c_int,
    heard: Heard,
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl PacketSocket {
    /// Opens a socket on the link with this index.
    ///
    /// # Errors
    /// If the kernel refuses: without `CAP_NET_RAW`, or when there is no such link.
    pub(crate) fn open(link: u32, heard: Heard) -> io::Result<Self> {
        let link = libc::c_int::try_from(link).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        // Without a protocol it hears nothing until it is bound, by when the filter is in place.
        let fd = rustix::net::socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?;
        let socket = Self { fd, link, heard };
        socket.attach_filter()?;
        socket.bind()?;
        Ok(socket)
    }

    /// Lets the current runtime wait for packets.
    ///
    /// # Errors
    /// If the runtime's poller does not take the socket.
    pub(crate) fn register(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is owned by this value, never replaced, and closed only when this value is
        // dropped, which `AsyncFd` does after deregistering it; `as_raw_fd` always returns that same descriptor.
        Ok(unsafe { AsyncFd::register(self) }?)
    }

    /// Receives one packet into `buffer`: its length and who sent it. A longer packet is cut.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, MacAddress)> {
        let mut sender = self.address([0; 6]);
        let mut sender_bytes = ADDRESS_BYTES;
        // SAFETY: the buffer is writable for the length given, and the address and its length are live locals of
        // the size that the length says; all outlive the call.
        let received = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                (&raw mut sender).cast(),
                &raw mut sender_bytes,
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        let [a, b, c, d, e, f, ..] = sender.sll_addr;
        Ok((received, MacAddress::new([a, b, c, d, e, f])))
    }

    /// Sends one packet to the station `mac` on the link.
    ///
    /// # Errors
    /// If the kernel does not take it; nothing is kept for later.
    pub(crate) fn send(&self, packet: &[u8], mac: [u8; 6]) -> io::Result<()> {
        let destination = self.address(mac);
        // SAFETY: the packet is readable for the length given and the address is a live local of its length.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                libc::MSG_DONTWAIT,
                (&raw const destination).cast(),
                ADDRESS_BYTES,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn attach_filter(&self) -> io::Result<()> {
        let instruction = |&(code, jt, jf, k): &Instruction| libc::sock_filter {
            code: u16::try_from(code).expect("BPF codes are 16 bits"),
            jt,
            jf,
            k,
        };
        let mut instructions: Vec<_> = self.heard.filter().iter().map(instruction).collect();
        let program = libc::sock_fprog {
            len: u16::try_from(instructions.len()).expect("a few instructions"),
            filter: instructions.as_mut_ptr(),
        };
        let bytes = u32::try_from(mem::size_of_val(&program)).expect("a few bytes");
        // SAFETY: the program and the instructions it points to are live locals; the kernel copies both.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                bytes,
            )
        };
        succeeded(result)
    }

    fn bind(&self) -> io::Result<()> {
        let address = self.address([0; 6]);
        // SAFETY: the address is a live local of the length given.
        let result = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), ADDRESS_BYTES) };
        succeeded(result)
    }

    fn address(&self, mac: [u8; 6]) -> libc::sockaddr_ll {
        let [a, b, c, d, e, f] = mac;
        libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).expect("address families are small"),
            sll_protocol: self.heard.ethertype(),
            sll_ifindex: self.link,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [a, b, c, d, e, f, 0, 0],
        }
    }
}

fn succeeded(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
