//! Frames to and from a running network card (virtio 1.2 §5.1.6), over a socket in place of a TAP.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use devices::virtio::net::{
    FramePort, MacAddress, NetDevice, NetDeviceConfig, OffloadOffers, Offloads, UdpSegmentation,
};
use devices::virtio::{QueueSize, RateLimits};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use vm_memory::{Bytes, GuestAddress};

use crate::bench::Bench;
use crate::driver::any_address;
use crate::input::Input;

/// The longest frame with its headers that may leave the card.
const FRAME_BYTES_MAX: usize = 65_562 + 4;
/// The shortest: a header of virtio's and one of Ethernet's.
const FRAME_BYTES_MIN: usize = 12 + 14;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// One end of a pair of sockets that keep frames apart.
struct Port(OwnedFd);

impl FramePort for Port {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn set_offloads(&self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn udp_segmentation(&self) -> UdpSegmentation {
        UdpSegmentation::Supported
    }
}

/// A card and the other end of its link.
pub(crate) fn device() -> (NetDevice, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("two descriptors");
    let config = NetDeviceConfig {
        port: Box::new(Port(theirs)),
        mac: MacAddress([2, 0, 0, 0, 0, 1]),
        mtu: Some(1500),
        queue_size: QueueSize::default(),
        rate_limits: RateLimits::default(),
        offloads: OffloadOffers::default(),
    };
    (NetDevice::new(config).expect("a few descriptors"), ours)
}

/// Buffers to receive into, frames to send, and frames that come, of any size and place.
pub(crate) fn frames(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (device, link) = device();
    let bench = Bench::new(Box::new(device));
    bench.start(input.quad_word());
    while !input.is_empty() {
        match input.below(8) {
            0 | 1 => receive_buffer(&mut input, &bench),
            2 | 3 => transmit_frame(&mut input, &bench),
            4 => {
                let frame = vec![input.byte(); input.below(1 << 16)];
                // A full link loses frames.
                let _lost = send(&link, &frame, SendFlags::NOSIGNAL);
            }
            5 => bench.drivers[input.below(2)].write_something(&mut input),
            6 => bench.drivers[input.below(2)].offer_something(&mut input),
            _ => {
                bench.settle();
                take_frames(&link);
            }
        }
        bench.write(0x1000, &[0, 0]);
        bench.write(0x1004, &[1, 0]);
    }
    bench.settle();
    take_frames(&link);
}

fn receive_buffer(input: &mut Input<'_>, bench: &Bench) {
    let slot = u16::from(input.byte()) % 16;
    let (address, length) = (any_address(input), input.length());
    bench.drivers[0].describe(slot, address, length, WRITE, 0);
    bench.drivers[0].offer(slot);
}

/// A frame in up to four buffers, its header as the input says.
fn transmit_frame(input: &mut Input<'_>, bench: &Bench) {
    let (first, pieces) = (u16::from(input.byte()) % 16, u16::from(input.byte()) % 4);
    let header_at = 0x30000 + u64::from(first) * 16;
    bench.memory.write_slice(input.piece(12), GuestAddress(header_at)).expect("headers are in memory");
    let more = |piece| if piece < pieces { NEXT } else { 0 };
    bench.drivers[1].describe(first, header_at, 12, more(0), (first + 1) % 16);
    for piece in 1..=pieces {
        let slot = (first + piece) % 16;
        let (address, length) = (any_address(input), input.length());
        bench.drivers[1].describe(slot, address, length, more(piece), (slot + 1) % 16);
    }
    bench.drivers[1].offer(first);
}

/// Everything that the card sent has a possible size.
fn take_frames(link: &OwnedFd) {
    let mut frame = vec![0; FRAME_BYTES_MAX + 1];
    while let Ok((length, _)) = recv(link, &mut frame, RecvFlags::empty()) {
        if length == 0 {
            return;
        }
        assert!((FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&length), "a frame of {length} bytes");
    }
}
