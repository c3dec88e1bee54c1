//! A TAP for machines under test.
#![expect(clippy::print_stdout, reason = "a skipped test says so")]
#![expect(unsafe_code, reason = "a TAP is made by an ioctl that no crate wraps, in a namespace of its own")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// A TAP in a network namespace that nothing else is in, so that no frame comes and none gets anywhere. `None` where
/// the environment says that there may be no root.
pub(crate) fn tap_of_no_network() -> Option<OwnedFd> {
    if std::env::var_os("PROCURATOR_SKIP_ROOT_TESTS").is_some_and(|value| value == "1") {
        println!("SKIPPED: PROCURATOR_SKIP_ROOT_TESTS=1, and a TAP needs root");
        return None;
    }
    // On a thread of its own: the rest of the process stays in its namespace.
    let thread = std::thread::spawn(|| {
        // SAFETY: a new network namespace changes no descriptor and no memory of this thread or others.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
            .expect("a network namespace needs root; PROCURATOR_SKIP_ROOT_TESTS=1 leaves network cards out");
        tap()
    });
    Some(thread.join().expect("it makes a TAP"))
}

fn tap() -> OwnedFd {
    let file = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    // SAFETY: an all-zero request is a valid value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).expect("flags are 16 bits wide");
    // SAFETY: the kernel reads and writes one request, which outlives the call. Without a name it picks one.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(made, 0, "{}", io::Error::last_os_error());
    file.into()
}
