//! The sockets that last words are written to.
#![expect(unsafe_code, reason = "a handler of signals writes to bare descriptors")]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// The most sockets at a time.
pub const LISTENERS_MAX: usize = 8;

/// No descriptor.
const NONE: i32 = -1;

/// The process' sockets. Statics, because a handler of signals is told nothing else.
static SOCKETS: [AtomicI32; LISTENERS_MAX] = [const { AtomicI32::new(NONE) }; LISTENERS_MAX];

/// Has a socket told the last words of this process, until it is dropped, which is to be before the socket is closed.
#[derive(Debug)]
pub struct Listener {
    place: &'static AtomicI32,
}

/// Has `socket`, which is connected and does not wait, told the last words; `None` where as many listen as may.
#[must_use]
pub fn listen(socket: BorrowedFd<'_>) -> Option<Listener> {
    let socket = socket.as_raw_fd();
    let taken = |place: &&AtomicI32| {
        place.compare_exchange(NONE, socket, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    };
    SOCKETS.iter().find(taken).map(|place| Listener { place })
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.place.store(NONE, Ordering::Release);
    }
}

/// Writes `message` to every listener; whether one took it. Safe in a handler of signals.
pub(crate) fn tell_all(message: &[u8]) -> bool {
    let mut any = false;
    for place in &SOCKETS {
        let socket = place.load(Ordering::Acquire);
        if socket != NONE {
            any |= write_once(socket, message);
        }
    }
    any
}

/// Writes `message` to a descriptor as far as it goes at once; whether anything was taken.
pub(crate) fn write_once(descriptor: i32, message: &[u8]) -> bool {
    // SAFETY: the message is live for its length. A descriptor that is no more is answered by an error.
    let written = unsafe { libc::write(descriptor, message.as_ptr().cast(), message.len()) };
    written > 0
}
