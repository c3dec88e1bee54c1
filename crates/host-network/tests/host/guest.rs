//! A guest without a machine: a network namespace whose `eth0` is joined to a TAP that was attached, frame by frame. What
//! it runs is as real as what a guest runs, and comes by the same wire.

#![expect(unsafe_code, reason = "making a TAP takes ioctls that have no safe wrapper")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use host_network::{NicAttachment, Tap};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::namespaces::Host;

/// How often the join looks whether it is over.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// The guest; its wire is cut when it goes.
pub(crate) struct Guest {
    pub(crate) host: Host,
    is_over: Arc<AtomicBool>,
    join: Option<JoinHandle<()>>,
}

impl Guest {
    /// The guest of an attachment, with `eth0` up and without an address.
    pub(crate) async fn behind(tap: &Tap, nic: &NicAttachment) -> Self {
        let host = Host::new();
        let mac = nic.mac.to_string();
        let own = host.on(|| make_tap("eth0").unwrap()).await;
        host.run(&["ip", "link", "set", "eth0", "address", &mac, "up"]).await.unwrap();
        let wire = tap.fds[0].try_clone().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let join = thread::spawn(move || join(&own, &wire, &over));
        Self { host, is_over, join: Some(join) }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(join) = self.join.take() {
            // It has failed only if its test has.
            let _ = join.join();
        }
    }
}

/// Passes frames on in both directions, each behind its virtio-net header.
fn join(one: &OwnedFd, other: &OwnedFd, is_over: &AtomicBool) {
    let mut frame = vec![0; 70_000];
    while !is_over.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(one, PollFlags::IN), PollFd::new(other, PollFlags::IN)];
        if poll(&mut ready, Some(&TICK)).is_err() {
            continue;
        }
        for (from, to) in [(one, other), (other, one)] {
            while let Ok(length) = rustix::io::read(from, &mut frame) {
                // A wire that is cut loses frames.
                let _ = rustix::io::write(to, &frame[..length]);
            }
        }
    }
}

/// A TAP as the attached one is: with a virtio-net header of ten bytes and two more, and nothing left to the far end.
pub(crate) fn make_tap(name: &str) -> io::Result<OwnedFd> {
    let device =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: i16::try_from(flags).unwrap() },
    };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte.cast_signed();
    }
    let size = libc::c_int::from(host_network::VNET_HEADER_BYTES);
    // SAFETY: TUNSETIFF reads and writes one `ifreq`; the pointer is to a live one.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: TUNSETVNETHDRSZ reads one `int`; the pointer is to a live one.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(device.into())
}
