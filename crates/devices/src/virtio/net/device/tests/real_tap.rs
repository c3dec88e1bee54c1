//! The card on a TAP of the kernel's, in a network namespace of the test's own.
#![expect(unsafe_code, reason = "TAPs are made by an ioctl")]

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::commands::{SEVERAL, Several};
use super::*;
use crate::virtio::net::{NetDeviceError, Tap, TapError};

const HOST_ADDRESS: [u8; 4] = [192, 0, 2, 1];
const GUEST_ADDRESS: [u8; 4] = [192, 0, 2, 2];
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Runs `test` on a thread of its own in a fresh network namespace.
fn in_namespace(test: fn()) {
    if std::env::var_os("PROCURATOR_SKIP_ROOT_TESTS").is_some_and(|value| value == "1") {
        println!("SKIPPED: PROCURATOR_SKIP_ROOT_TESTS=1, and a TAP needs root");
        return;
    }
    let thread = std::thread::spawn(move || {
        // SAFETY: a new network namespace changes no descriptor and no memory of this thread or others.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
            .expect("a network namespace needs root; PROCURATOR_SKIP_ROOT_TESTS=1 leaves this test out");
        // The kernel sends frames of its own accord where it speaks IPv6. One that does not has no such setting.
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        test();
    });
    thread.join().expect("the test in the namespace succeeds");
}

fn open_tap(flags: libc::c_int) -> OwnedFd {
    open_named("tap0", flags)
}

fn open_named(name: &str, flags: libc::c_int) -> OwnedFd {
    let file = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    // SAFETY: an all-zero request is a valid value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap();
    // SAFETY: the kernel reads and writes one request, which outlives the call.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(made, 0, "{}", io::Error::last_os_error());
    file.into()
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("the command ip");
    assert!(status.success(), "ip {arguments}");
}

fn tap_with_address() -> Tap {
    let tap = Tap::new(open_tap(FLAGS)).unwrap();
    ip("address add 192.0.2.1/24 dev tap0");
    ip("link set tap0 up");
    tap
}

/// Serves the card until a received frame satisfies `wanted`: that frame with its header.
fn receive_frame(guest: &mut Guest, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        for (head, written) in guest.receive.drain_used() {
            let frame = guest.received_bytes(u64::from(head) * 0x1000, usize::try_from(written).unwrap());
            if wanted(&frame[12..]) {
                return frame;
            }
        }
        assert!(Instant::now() < deadline, "the frame comes in time");
        let patience = Timespec { tv_sec: 1, tv_nsec: 0 };
        let mut watched = [PollFd::from_borrowed_fd(guest.device.port(), PollFlags::IN)];
        poll(&mut watched, Some(&patience)).unwrap();
        guest.device.event(PORT_READABLE);
    }
}

fn guest_on_tap(features: u64) -> Guest {
    let mut guest = Guest::new(Box::new(tap_with_address()), features);
    for position in 0..64 {
        guest.add_receive_buffer(position * 0x1000, 0x1000);
    }
    guest.device.doorbell(RECEIVE_QUEUE);
    guest
}

fn who_has_the_host() -> Vec<u8> {
    let mut request = vec![0xff; 6];
    request.extend(MAC.octets());
    request.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    request.extend(MAC.octets());
    request.extend(GUEST_ADDRESS);
    request.extend([0; 6]);
    request.extend(HOST_ADDRESS);
    request
}

#[test]
fn the_host_answers_the_guest() {
    in_namespace(|| {
        let mut guest = guest_on_tap(0);
        guest.send(&who_has_the_host());
        assert_eq!(guest.counts().transmit_frames, 1);
        let reply = receive_frame(&mut guest, |frame| frame[12..14] == [0x08, 0x06] && frame[21] == 2);
        assert_eq!(reply[12..18], MAC.octets());
        assert_eq!(reply[12 + 28..12 + 32], HOST_ADDRESS);
    });
}

/// What UDP checksum work the kernel leaves in a frame to a guest with `features`: the header's flags.
fn checksum_flags(features: u64) -> u8 {
    let mut guest = guest_on_tap(features);
    ip("neighbour add 192.0.2.2 lladdr 52:54:00:12:34:56 dev tap0");
    let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
    socket.send_to(b"to the guest", "192.0.2.2:9").unwrap();
    let frame =
        receive_frame(&mut guest, |frame| frame[12..14] == [0x08, 0x00] && frame.ends_with(b"to the guest"));
    frame[0]
}

#[test]
fn a_guest_that_accepts_partial_checksums_gets_them() {
    in_namespace(|| assert_eq!(checksum_flags(1 << 1 | MERGEABLE) & 1, 1));
}

#[test]
fn a_guest_that_does_not_gets_whole_ones() {
    in_namespace(|| assert_eq!(checksum_flags(0) & 1, 0));
}

#[test]
fn a_frame_to_an_interface_that_is_down_is_dropped_and_counted() {
    in_namespace(|| {
        let mut guest = guest_on_tap(0);
        ip("link set tap0 down");
        guest.send(&who_has_the_host());
        assert_eq!((guest.counts().transmit_frames, guest.counts().transmit_dropped), (0, 1));
    });
}

#[test]
fn descriptors_that_are_no_fitting_tap_are_refused() {
    in_namespace(|| {
        let plain = Tap::new(open_tap(libc::IFF_TAP | libc::IFF_NO_PI));
        assert!(matches!(plain, Err(TapError::Flags { .. })));
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        assert!(matches!(Tap::new(file), Err(TapError::Call { call: "TUNGETIFF", .. })));
    });
}

/// What the kernel does with datagrams in one packet to a guest with `features`: the header's kind of segmentation.
fn segmentation_kind(features: u64) -> u8 {
    let mut guest = guest_on_tap(features);
    ip("neighbour add 192.0.2.2 lladdr 52:54:00:12:34:56 dev tap0");
    let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
    let size: libc::c_int = 500;
    let length = libc::socklen_t::try_from(size_of_val(&size)).unwrap();
    // SAFETY: the kernel reads one number from ours, which outlives the call.
    let set = unsafe {
        let option = (&raw const size).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, option, length)
    };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    socket.send_to(&[0xda; 2000], "192.0.2.2:9").unwrap();
    receive_frame(&mut guest, |frame| frame[12..14] == [0x08, 0x00] && frame.ends_with(&[0xda; 500]))[1]
}

fn kernel_has_udp_segmentation() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(2))
}

#[test]
fn udp_segmentation_is_offered_where_the_kernel_has_it() {
    in_namespace(|| {
        let guest = Guest::new(Box::new(tap_with_address()), 0);
        let udp = if kernel_has_udp_segmentation() { 7 << 54 } else { 0 };
        assert_eq!(guest.device.offered_features() & 7 << 54, udp);
    });
}

#[test]
fn a_guest_that_accepts_datagrams_in_one_packet_gets_them() {
    in_namespace(|| {
        let (accepted, expected) = if kernel_has_udp_segmentation() { (7 << 54, 5) } else { (0, 0) };
        assert_eq!(segmentation_kind(1 << 1 | accepted), expected);
    });
}

#[test]
fn a_guest_that_accepts_checksums_alone_gets_each_datagram() {
    in_namespace(|| assert_eq!(segmentation_kind(1 << 1), 0));
}

/// What `ip` says of the queues of the TAP: those in use, and those that are not.
fn queues_of_tap() -> (u32, u32) {
    let output = Command::new("ip").args(["-details", "-json", "link", "show", "tap0"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let after = |name: &str| {
        let (_before, rest) = text.split_once(&format!("\"{name}\":")).expect("ip tells of a TAP's queues");
        rest.split([',', '}']).next().unwrap().trim().parse().unwrap()
    };
    (after("numqueues"), after("numdisabled"))
}

fn card_on_queues(count: usize) -> Several {
    let queues = (0..count).map(|_| open_tap(FLAGS | libc::IFF_MULTI_QUEUE)).collect();
    let card = card_on(queues);
    ip("address add 192.0.2.1/24 dev tap0");
    ip("link set tap0 up");
    card
}

fn card_on(queues: Vec<OwnedFd>) -> Several {
    let port = |queue| Box::new(Tap::new(queue).unwrap()) as Box<dyn FramePort>;
    Several::on_ports(queues.into_iter().map(port).collect(), SEVERAL, RateLimits::default())
}

#[test]
fn a_card_on_the_queues_of_an_earlier_one_begins_as_the_first_did() {
    in_namespace(|| {
        let open = || -> Vec<_> { (0..3).map(|_| open_tap(FLAGS | libc::IFF_MULTI_QUEUE)).collect() };
        let kept = open();
        let copies = || kept.iter().map(|queue| queue.try_clone().unwrap()).collect();
        let mut first = card_on(copies());
        ip("address add 192.0.2.1/24 dev tap0");
        ip("link set tap0 up");
        ip("neighbour add 192.0.2.2 lladdr 52:54:00:12:34:56 dev tap0");
        let send = || UdpSocket::bind("192.0.2.1:0").unwrap().send_to(b"frame", "192.0.2.2:9").unwrap();
        for pairs in [1, 3, 2] {
            assert_eq!(first.use_pairs(pairs), 0);
            send();
            drop(first);
            // A frame that nobody fetched is none for the next guest.
            first = card_on(copies());
            assert_eq!(queues_of_tap(), (1, 2));
            assert!(rustix::io::read(&kept[0], &mut [0; 64]).is_err());
        }
        send();
        assert!(rustix::io::read(&kept[0], &mut [0; 64]).is_ok_and(|bytes| bytes > 0));
        assert_eq!(first.use_pairs(3), 0);
        assert_eq!(queues_of_tap(), (3, 0));
    });
}

#[test]
fn the_kernel_spreads_frames_over_the_pairs_in_use() {
    in_namespace(|| {
        let mut several = card_on_queues(4);
        assert_eq!(queues_of_tap(), (1, 3));
        assert_eq!(several.use_pairs(4), 0);
        assert_eq!(queues_of_tap(), (4, 0));
        for pair in 0..4u16 {
            let queue = &mut several.queues[2 * usize::from(pair)];
            for slot in 0..16 {
                let address = GuestAddress(RECEIVE_DATA.0 + 0x1_0000 * u64::from(pair) + 0x1000 * slot);
                queue.add_chain(&[Buffer::Writable(address, 0x1000)]);
            }
            several.device.doorbell(2 * pair);
        }
        ip("neighbour add 192.0.2.2 lladdr 52:54:00:12:34:56 dev tap0");
        for _flow in 0..40 {
            UdpSocket::bind("192.0.2.1:0").unwrap().send_to(b"one of many", "192.0.2.2:9").unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut received = [0; 4];
        while received.iter().filter(|count| **count > 0).count() < 2 {
            assert!(Instant::now() < deadline, "frames come over several pairs: {received:?}");
            for (pair, count) in (0..).zip(&mut received) {
                several.device.event(PORTS + 2 * pair);
                *count = several.queues[2 * usize::from(pair)].used_index();
            }
        }
        assert_eq!(several.use_pairs(1), 0);
        assert_eq!(queues_of_tap(), (1, 3));
    });
}

#[test]
fn pairs_need_a_tap_with_several_queues() {
    in_namespace(|| {
        let single = |name| Box::new(Tap::new(open_named(name, FLAGS)).unwrap()) as Box<dyn FramePort>;
        let config = NetDeviceConfig {
            ports: ["tap0", "tap1"].map(single).into(),
            mac: MAC,
            mtu: None,
            queue_size: QueueSize::default(),
            rate_limits: RateLimits::default(),
            offloads: NicOffloads::default(),
            kernel: None,
        };
        assert!(matches!(NetDevice::new(config), Err(NetDeviceError::Host(_))));
    });
}

#[test]
fn putting_ports_to_use_and_out_of_it_takes_little_time() {
    in_namespace(|| {
        let mut several = card_on_queues(32);
        let start = Instant::now();
        assert_eq!((several.use_pairs(32), several.use_pairs(1)), (0, 0));
        println!("62 changes took {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(10));
    });
}
