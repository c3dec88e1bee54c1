//! What no host process says to its worker.
//!
//! What has no descriptors is written, as every thread may; the rest is sent, as the first thread may.

use std::os::fd::RawFd;
use std::time::Duration;

use host_process::wire::{CallId, FromHost, MachineListing, Message, PACKET_BYTES_MAX, VERSIONS, Welcome};
use vm_model::{MachineCounters, MachineExit, MachinePhase, MachineStatus, Reply, ThreadHealth, VmId};

use crate::calls::{Errno, call};

/// The most that a packet has.
pub(crate) const PACKET_MAX: usize = PACKET_BYTES_MAX;
/// A message in which nothing names a descriptor.
pub(crate) const RELEASED: &[u8] = br#"{"type":"released","vm":"nobody"}"#;
/// All of a packet whose message is said to be in its first descriptor.
pub(crate) const IN_A_FILE: &[u8] = b"file";
/// The seals of such a file: `F_SEAL_SEAL`, `F_SEAL_SHRINK`, `F_SEAL_GROW` and `F_SEAL_WRITE`.
pub(crate) const SEALED: i32 = 0xf;
/// The VM that another process runs.
const SIBLING: &str = "sibling";

/// Says these bytes.
pub(crate) fn say(worker: RawFd, bytes: &[u8]) -> Result<(), Errno> {
    loop {
        let length = i64::try_from(bytes.len()).map_err(|_| libc::EINVAL)?;
        match call!(libc::SYS_write, worker, bytes.as_ptr(), length) {
            // It has not read what was said before.
            Err(libc::EAGAIN) => {}
            outcome => return outcome.map(drop),
        }
    }
}

/// Says these bytes with `count` descriptors, each of which is the connection itself.
pub(crate) fn pass(worker: RawFd, bytes: &[u8], count: usize) -> Result<(), Errno> {
    send(worker, bytes, &vec![worker; count])
}

/// Says that a message is in a file of `length` bytes that has these seals.
pub(crate) fn hand_over(worker: RawFd, length: i64, seals: i32) -> Result<(), Errno> {
    const ALLOW_SEALING: i32 = 2;
    let file = call!(libc::SYS_memfd_create, c"message", ALLOW_SEALING)?;
    call!(libc::SYS_ftruncate, file, length)?;
    call!(libc::SYS_fcntl, file, libc::F_ADD_SEALS, seals)?;
    send(worker, IN_A_FILE, &[i32::try_from(file).map_err(|_| libc::EBADF)?])
}

/// `sendmsg` with a message of descriptors (cmsg(3)), of which the kernel takes 253 at most.
fn send(worker: RawFd, bytes: &[u8], descriptors: &[RawFd]) -> Result<(), Errno> {
    let payload = 4 * descriptors.len();
    // A length, a level, a kind, and what they are about.
    let mut control = vec![(16 + payload) as u64, libc::SOL_SOCKET as u64 | (libc::SCM_RIGHTS as u64) << 32];
    let pairs = descriptors.chunks(2).map(|pair| {
        let [low, high] = [0, 1].map(|index| u64::from(pair.get(index).map_or(0, |fd| fd.unsigned_abs())));
        low | high << 32
    });
    control.extend(pairs);
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: zero is a valid value of every field, which are numbers and pointers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    if !descriptors.is_empty() {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = 16 + payload;
    }
    call!(libc::SYS_sendmsg, worker, &raw const message, libc::MSG_NOSIGNAL).map(drop)
}

fn tell(worker: RawFd, message: FromHost) -> Result<(), Errno> {
    let packed = message.pack().map_err(|_| libc::EINVAL)?;
    say(worker, packed.bytes())
}

/// Says a message in which lists are in lists, as deep as a packet has room for.
pub(crate) fn nest(worker: RawFd) -> Result<(), Errno> {
    let mut message = br#"{"type":"released","vm":"#.to_vec();
    message.resize(PACKET_MAX, b'[');
    say(worker, &message)
}

/// Says a word at great length that is none.
pub(crate) fn mistake(worker: RawFd) -> Result<(), Errno> {
    let health = "x".repeat(PACKET_MAX / 2);
    say(worker, format!(r#"{{"type":"health","vm":"hostile","health":"{health}"}}"#).as_bytes())
}

/// Ends the connection with a long reason in many lines.
pub(crate) fn refuse(worker: RawFd) -> Result<(), Errno> {
    tell(worker, FromHost::Refused { reason: "no\n".repeat(PACKET_MAX / 8) })
}

/// Says a second welcome, in which the sibling is a machine of this process that is no more.
pub(crate) fn welcome_again(worker: RawFd) -> Result<(), Errno> {
    let sibling = MachineListing {
        vm: VmId::new(SIBLING),
        status: MachineStatus::booting(),
        counters: None,
        health: ThreadHealth::Hung,
        notes: String::new(),
        launched_ago: Duration::ZERO,
        released: true,
        launching: false,
    };
    let welcome = Welcome {
        version: VERSIONS[0],
        pid: std::process::id(),
        start_time: 0,
        build: String::new(),
        jail: None,
        is_filtered: false,
        filter: None,
        machines: vec![sibling],
    };
    tell(worker, FromHost::Welcome(welcome))
}

/// Answers calls that nobody made.
pub(crate) fn answer_nothing(worker: RawFd) -> Result<(), Errno> {
    let call = CallId(u64::MAX);
    tell(worker, FromHost::Launched { call, failure: None })?;
    tell(worker, FromHost::Reply { call, reply: Reply::Done })?;
    tell(worker, FromHost::NotTaken { call })?;
    tell(worker, FromHost::Counters { call, counters: MachineCounters::default() })
}

/// Says that a VM has ended and is released that another process runs.
pub(crate) fn end_sibling(worker: RawFd) -> Result<(), Errno> {
    let vm = VmId::new(SIBLING);
    let phase = MachinePhase::Exited(MachineExit::PoweredOff);
    let status = MachineStatus { phase, ..MachineStatus::booting() };
    tell(worker, FromHost::Health { vm: vm.clone(), health: ThreadHealth::Hung })?;
    tell(worker, FromHost::Status { vm: vm.clone(), status, counters: None })?;
    tell(worker, FromHost::Released { vm })
}

/// Says what means nothing, as long as somebody listens: messages that take longer to read than to say, from two threads, so
/// that there is always one.
pub(crate) fn flood(worker: RawFd) -> Result<(), Errno> {
    let mut message = br#"{"type":"nothing that is known","list":[0"#.to_vec();
    while message.len() < PACKET_MAX - 4 {
        message.extend_from_slice(b",0");
    }
    message.extend_from_slice(b"]}");
    let pour = || -> Result<(), Errno> {
        loop {
            say(worker, &message)?;
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(pour);
        pour()
    })
}
