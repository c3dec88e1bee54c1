//! Frames to and from a running network card (virtio 1.2 §5.1.6), over a socket in place of a TAP.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use devices::virtio::net::{
    FramePort, NetDevice, NetDeviceConfig, NetHandle, Offloads, PortUse, UdpSegmentation,
};
use devices::virtio::{BucketLimits, QueueSize, RateLimits};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use vm_memory::{Bytes, GuestAddress};

use vm_model::{LinkState, MacAddress, NicOffloads};

use crate::bench::Bench;
use crate::driver::{Driver, any_address};
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

    fn set_use(&self, _port_use: PortUse) -> io::Result<()> {
        Ok(())
    }

    fn set_carrier(&self, _link: LinkState) -> io::Result<()> {
        Ok(())
    }

    fn udp_segmentation(&self) -> UdpSegmentation {
        UdpSegmentation::Supported
    }
}

/// Pairs of queues of the card.
const PAIRS: usize = 2;
/// Frames that pass at once where the card has a limit; the next would come in days.
const LIMIT: u64 = 40;

/// A card, limited or not, and the other ends of its links.
pub(crate) fn device(limited: bool) -> (NetDevice, Vec<OwnedFd>) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let link =
        || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("two descriptors");
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..PAIRS).map(|_| link()).unzip();
    let day = Duration::from_secs(24 * 60 * 60);
    let frames = limited.then(|| BucketLimits::new(LIMIT, 0, day).expect("a possible limit"));
    let config = NetDeviceConfig {
        ports: theirs.into_iter().map(|socket| Box::new(Port(socket)) as Box<dyn FramePort>).collect(),
        mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
        mtu: Some(1500),
        queue_size: QueueSize::default(),
        rate_limits: RateLimits { bandwidth: None, operations: frames },
        offloads: NicOffloads::default(),
        kernel: None,
    };
    (NetDevice::new(config).expect("a few descriptors"), ours)
}

/// Buffers to receive into, frames to send, frames that come, and commands, of any size and place.
pub(crate) fn frames(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let limited = input.flag();
    let (device, links) = device(limited);
    let handle = device.handle();
    let bench = Bench::new(Box::new(device));
    bench.start(input.quad_word());
    let mut sent = 0;
    while !input.is_empty() {
        let pair = input.below(PAIRS);
        match input.below(10) {
            0 | 1 => receive_buffer(&mut input, &bench, pair),
            2 | 3 => transmit_frame(&mut input, &bench, pair),
            4 => {
                let frame = vec![input.byte(); input.below(1 << 16)];
                // A full link loses frames.
                let _lost = send(&links[pair], &frame, SendFlags::NOSIGNAL);
            }
            5 => any_queue(&mut input, &bench).write_something(&mut input),
            6 => any_queue(&mut input, &bench).offer_something(&mut input),
            7 => command(&mut input, &bench),
            8 => change_link(&mut input, &handle, &bench),
            _ => {
                bench.settle();
                sent += take_frames(&links);
            }
        }
        for queue in 0..bench.drivers.len() as u64 {
            bench.write(0x1000 + 4 * queue, &[0, 0]);
        }
    }
    bench.settle();
    sent += take_frames(&links);
    assert!(!limited || sent <= LIMIT, "{sent} frames passed a limit of {LIMIT}");
}

/// What the host may do to a link.
fn change_link(input: &mut Input<'_>, handle: &NetHandle, bench: &Bench) {
    match input.below(4) {
        0 => handle.set_link(LinkState::Down),
        1 | 2 => handle.set_link(LinkState::Up),
        _ => {
            let _asked = handle.ask_for_announcement();
        }
    }
    bench.device().announce_config_change();
    let mut status = [0; 2];
    bench.read(0x206, &mut status);
}

fn any_queue<'bench>(input: &mut Input<'_>, bench: &'bench Bench) -> &'bench Driver {
    &bench.drivers[input.below(bench.drivers.len())]
}

fn receive_buffer(input: &mut Input<'_>, bench: &Bench, pair: usize) {
    let slot = u16::from(input.byte()) % 16;
    let (address, length) = (any_address(input), input.length());
    let driver = &bench.drivers[2 * pair];
    driver.describe(slot, address, length, WRITE, 0);
    driver.offer(slot);
}

/// A frame in up to four buffers, its header as the input says.
fn transmit_frame(input: &mut Input<'_>, bench: &Bench, pair: usize) {
    let driver = &bench.drivers[2 * pair + 1];
    let (first, pieces) = (u16::from(input.byte()) % 16, u16::from(input.byte()) % 4);
    let header_at = 0x30000 + u64::from(first) * 16;
    bench.memory.write_slice(input.piece(12), GuestAddress(header_at)).expect("headers are in memory");
    let more = |piece| if piece < pieces { NEXT } else { 0 };
    driver.describe(first, header_at, 12, more(0), (first + 1) % 16);
    for piece in 1..=pieces {
        let slot = (first + piece) % 16;
        let (address, length) = (any_address(input), input.length());
        driver.describe(slot, address, length, more(piece), (slot + 1) % 16);
    }
    driver.offer(first);
}

/// A command whose class and number often exist, with data of any length and an answer of any.
fn command(input: &mut Input<'_>, bench: &Bench) {
    // Behind the pairs that the driver knows of: one or all.
    let control = if input.flag() { 2 } else { 2 * PAIRS };
    let driver = &bench.drivers[control];
    let slot = u16::from(input.byte()) % 16;
    let (command_at, answer_at) = (0x38000 + u64::from(slot) * 16, 0x39000 + u64::from(slot));
    let mut bytes = [0; 10];
    bytes[0] = input.byte() % 8;
    bytes[1] = input.byte() % 4;
    for byte in &mut bytes[2..] {
        *byte = input.byte() % 4;
    }
    bench.memory.write_slice(&bytes, GuestAddress(command_at)).expect("commands are in memory");
    let answer_slot = (slot + 1) % 16;
    let length = u32::try_from(input.below(12)).expect("a short length");
    driver.describe(slot, command_at, length, NEXT, answer_slot);
    driver.describe(answer_slot, answer_at, u32::from(input.byte() % 3), WRITE, 0);
    driver.offer(slot);
}

/// Everything that the card sent has a possible size; how many frames that were.
fn take_frames(links: &[OwnedFd]) -> u64 {
    let mut frame = vec![0; FRAME_BYTES_MAX + 1];
    let mut count = 0;
    for link in links {
        while let Ok((length, _)) = recv(link, &mut frame, RecvFlags::empty()) {
            if length == 0 {
                break;
            }
            assert!((FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&length), "a frame of {length} bytes");
            count += 1;
        }
    }
    count
}
