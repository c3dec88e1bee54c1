//! Packets of a guest's sockets (virtio 1.2 §5.10.6), while host programs call, listen, write and hang up.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use devices::virtio::vsock::{SOCKET_NAME, VsockDevice, VsockDeviceConfig};
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

use crate::bench::Bench;
use crate::driver::any_address;
use crate::input::Input;

const GUEST_CID: u32 = 3;
const HOST_CID: u64 = 2;
/// The port that a host program listens on.
const PORT: u32 = 52;
/// The first port of the host's ends of connections that the host asked for.
const FIRST_LOCAL_PORT: u32 = 1 << 30;
const HEADER_BYTES: usize = 44;
/// The one type of socket (§5.10.6).
const STREAM: u16 = 1;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// Host programs around a device's directory.
pub(crate) struct Host {
    directory: TempDir,
    listener: UnixListener,
    streams: Vec<UnixStream>,
}

/// Packets of every kind to connections in every state, and buffers of any size for the answers.
pub(crate) fn packets(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (device, mut host) = device();
    let bench = Bench::new(Box::new(device));
    bench.start(input.quad_word());
    while !input.is_empty() {
        match input.below(8) {
            0..3 => send_packet(&mut input, &bench),
            3 | 4 => receive_buffer(&mut input, &bench),
            5 => host.act(&mut input),
            6 => bench.drivers[input.below(2)].write_something(&mut input),
            _ => bench.settle(),
        }
        bench.write(0x1000, &[0, 0]);
        bench.write(0x1004, &[1, 0]);
    }
    bench.settle();
}

/// A device, and a host program that listens.
pub(crate) fn device() -> (VsockDevice, Host) {
    let directory = tempfile::tempdir().expect("a directory");
    let opened = File::open(directory.path()).expect("it is there").into();
    let config = VsockDeviceConfig { cid: GUEST_CID, directory: opened };
    let device = VsockDevice::new(config).expect("a socket and a few descriptors");
    let path = directory.path().join(format!("{SOCKET_NAME}_{PORT}"));
    let listener = UnixListener::bind(path).expect("the name is free");
    listener.set_nonblocking(true).expect("a socket");
    (device, Host { directory, listener, streams: Vec::new() })
}

impl Host {
    fn act(&mut self, input: &mut Input<'_>) {
        match input.below(5) {
            0 => self.streams.extend(self.listener.accept().map(|(stream, _)| stream)),
            1 => {
                let call = UnixStream::connect(self.directory.path().join(SOCKET_NAME));
                self.streams.extend(call);
            }
            2 => {
                self.streams.pop();
            }
            choice => {
                let Some(stream) = self.streams.last_mut() else { return };
                stream.set_nonblocking(true).expect("a socket");
                // A full stream, a closed one or an empty one is as good as any.
                let _ = if choice == 3 {
                    let line = format!("CONNECT {}\n", u32::from(input.byte()) % 4 + PORT);
                    let text = if input.flag() { line.as_bytes() } else { input.piece(40) };
                    stream.write(text)
                } else {
                    stream.read(&mut [0; 4096])
                };
            }
        }
    }
}

/// A packet whose header is mostly possible.
fn send_packet(input: &mut Input<'_>, bench: &Bench) {
    let slot = u16::from(input.byte()) % 16;
    let header_at = 0x30000 + u64::from(slot) * 64;
    bench.memory.write_slice(&header(input), GuestAddress(header_at)).expect("headers are in memory");
    let queue = &bench.drivers[1];
    let pieces = u16::from(input.flag());
    queue.describe(slot, header_at, 44, NEXT * pieces, (slot + 1) % 16);
    if pieces > 0 {
        let (address, length) = (any_address(input), input.length());
        queue.describe((slot + 1) % 16, address, length, 0, 0);
    }
    queue.offer(slot);
}

fn header(input: &mut Input<'_>) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| header[offset..offset + bytes.len()].copy_from_slice(bytes);
    let possible = input.below(8) != 0;
    let cids =
        if possible { [u64::from(GUEST_CID), HOST_CID] } else { [input.quad_word(), input.quad_word()] };
    put(0, &cids[0].to_le_bytes());
    put(8, &cids[1].to_le_bytes());
    put(16, &(u32::from(input.byte()) % 4 + PORT).to_le_bytes());
    let host_ports = [PORT, FIRST_LOCAL_PORT, FIRST_LOCAL_PORT + 1, input.double_word()];
    put(20, &host_ports[input.below(host_ports.len())].to_le_bytes());
    put(24, &input.length().to_le_bytes());
    put(28, &(if possible { STREAM } else { input.word() }).to_le_bytes());
    put(30, &u16::from(input.byte() % 9).to_le_bytes());
    put(32, &u32::from(input.byte() % 8).to_le_bytes());
    put(36, &input.length().to_le_bytes());
    put(40, &input.length().to_le_bytes());
    header
}

fn receive_buffer(input: &mut Input<'_>, bench: &Bench) {
    let slot = u16::from(input.byte()) % 16;
    let (address, length) = (any_address(input), input.length());
    bench.drivers[0].describe(slot, address, length, WRITE, 0);
    bench.drivers[0].offer(slot);
}
