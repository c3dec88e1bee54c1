//! Everything that code of an attacker is had to do here.
//!
//! What must become of each stands in the test that goes through them (`tests/hostile.rs`). Where one succeeds, it does no
//! harm.

use std::ffi::CStr;
use std::os::fd::RawFd;

use crate::calls::{Errno, call, exit};
use crate::ground::Ground;
use crate::ring::{CONNECT, OPENAT, Request, Ring, SOCKET};
use crate::words;

/// What is done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Something that nobody may do who runs guests.
    Attempt(fn(&Ground) -> Result<(), Errno>),
    /// Something is said to the worker that no host process says.
    Words(fn(RawFd) -> Result<(), Errno>),
}

use Act::{Attempt, Words};

/// All acts by their names. A command is a place in this list.
pub(crate) const ALL: &[(&str, Act)] = &[
    ("open-file", Attempt(|_| open(HOST_FILE))),
    ("open-file-the-old-way", Attempt(|_| done(call!(libc::SYS_open, HOST_FILE, libc::O_RDONLY)))),
    ("open-siblings-memory", Attempt(|ground| open(&ground.sibling_memory))),
    ("open-siblings-guest", Attempt(|ground| open(&ground.sibling_guest))),
    ("read-siblings-memory", Attempt(read_sibling)),
    ("take-siblings-descriptor", Attempt(take_descriptor)),
    ("trace-sibling", Attempt(|ground| done(call!(libc::SYS_ptrace, PTRACE_SEIZE, ground.sibling, 0, 0)))),
    ("signal-sibling", Attempt(|ground| done(call!(libc::SYS_kill, ground.sibling, libc::SIGCONT)))),
    ("signal-siblings-thread", Attempt(signal_thread)),
    ("move-sibling", Attempt(move_sibling)),
    ("signal-worker", Attempt(|ground| done(call!(libc::SYS_kill, ground.worker_pid, libc::SIGCONT)))),
    ("connect-unix", Attempt(|ground| connect_unix(ground.open_socket.to_bytes()))),
    ("connect-abstract", Attempt(|ground| connect_unix(&[b"\0", &*ground.abstract_name].concat()))),
    ("connect-tcp", Attempt(connect_tcp)),
    ("packet-socket", Attempt(|_| done(call!(libc::SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0)))),
    ("fork", Attempt(|_| in_parent(call!(libc::SYS_fork)))),
    ("fork-as-thread", Attempt(|_| in_parent(call!(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)))),
    ("fork-the-new-way", Attempt(fork_by_clone3)),
    ("start-thread", Attempt(start_thread)),
    ("execute-file", Attempt(execute_file)),
    ("execute-memory", Attempt(execute_memory)),
    ("mount", Attempt(mount)),
    ("mount-the-new-way", Attempt(|_| done(call!(libc::SYS_fsopen, c"tmpfs", 0)))),
    ("new-namespace", Attempt(|_| done(call!(libc::SYS_unshare, libc::CLONE_NEWNET)))),
    ("become-root", Attempt(|_| done(call!(libc::SYS_setresuid, 0, 0, 0)))),
    ("load-bpf", Attempt(load_bpf)),
    ("executable-memory", Attempt(executable_memory)),
    ("executable-stack", Attempt(executable_stack)),
    ("own-ring-open", Attempt(|_| ask_to_open(&Ring::new()?))),
    ("own-ring-connect", Attempt(|ground| ask_to_connect(&Ring::new()?, ground.port))),
    ("disks-ring-open", Attempt(|ground| ask_to_open(&Ring::of_disk(ground.rings)?))),
    ("disks-ring-freed", Attempt(|ground| free_ring(&Ring::of_disk(ground.rings)?))),
    ("too-many-descriptors", Attempt(|ground| words::pass(ground.worker, words::RELEASED, 254))),
    ("garbage", Words(|worker| words::say(worker, b"\0\xff\x7f"))),
    ("half-a-message", Words(|worker| words::say(worker, &words::RELEASED[..20]))),
    ("a-long-packet", Words(|worker| words::say(worker, &[b' '; words::PACKET_MAX + 1]))),
    ("a-deep-message", Words(words::nest)),
    ("a-long-mistake", Words(words::mistake)),
    ("a-long-refusal", Words(words::refuse)),
    ("an-empty-packet", Words(|worker| words::pass(worker, b"", 0))),
    ("a-descriptor", Words(|worker| words::pass(worker, words::RELEASED, 1))),
    ("many-descriptors", Words(|worker| words::pass(worker, words::RELEASED, 253))),
    ("no-descriptor", Words(|worker| words::say(worker, words::IN_A_FILE))),
    ("the-wrong-descriptor", Words(|worker| words::pass(worker, words::IN_A_FILE, 1))),
    ("a-file-that-changes", Words(|worker| words::hand_over(worker, 2, 0))),
    ("an-endless-file", Words(|worker| words::hand_over(worker, 1 << 40, words::SEALED))),
    ("a-hello", Words(|worker| words::say(worker, br#"{"type":"hello","versions":[1],"build":"x"}"#))),
    ("a-second-welcome", Words(words::welcome_again)),
    ("answers-to-nothing", Words(words::answer_nothing)),
    ("siblings-end", Words(words::end_sibling)),
    ("flood", Words(words::flood)),
];

const HOST_FILE: &CStr = c"/etc/passwd";
/// `PTRACE_SEIZE`, which stops nobody.
const PTRACE_SEIZE: i32 = 0x4206;

fn done<T>(outcome: Result<T, Errno>) -> Result<(), Errno> {
    outcome.map(drop)
}

fn open(path: &CStr) -> Result<(), Errno> {
    done(call!(libc::SYS_openat, libc::AT_FDCWD, path, libc::O_RDONLY))
}

fn read_sibling(ground: &Ground) -> Result<(), Errno> {
    let mut byte = 0_u8;
    let here = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let there =
        libc::iovec { iov_base: std::ptr::without_provenance_mut(ground.sibling_address), iov_len: 1 };
    done(call!(libc::SYS_process_vm_readv, ground.sibling, &raw const here, 1, &raw const there, 1, 0))
}

fn take_descriptor(ground: &Ground) -> Result<(), Errno> {
    let process = call!(libc::SYS_pidfd_open, ground.sibling, 0)?;
    done(call!(libc::SYS_pidfd_getfd, process, 0, 0))
}

/// By the call and with a signal that threads of one process may use among themselves; the sibling has no thread of that number.
fn signal_thread(ground: &Ground) -> Result<(), Errno> {
    done(call!(libc::SYS_tgkill, ground.sibling, i32::MAX, libc::SIGABRT))
}

fn move_sibling(ground: &Ground) -> Result<(), Errno> {
    let everywhere = [u64::MAX; 16];
    let length = i64::try_from(size_of_val(&everywhere)).unwrap_or_default();
    done(call!(libc::SYS_sched_setaffinity, ground.sibling, length, everywhere.as_ptr()))
}

/// An address of a Unix socket (unix(7)); one that begins with a zero byte is abstract.
fn connect_unix(name: &[u8]) -> Result<(), Errno> {
    let socket = call!(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let mut address = libc::AF_UNIX.to_ne_bytes()[..2].to_vec();
    address.extend_from_slice(name);
    let length = i64::try_from(address.len()).unwrap_or_default();
    done(call!(libc::SYS_connect, socket, address.as_ptr(), length))
}

/// An address of this host (ip(7)).
fn address_of(port: u16) -> [u8; 16] {
    let mut address = [0; 16];
    address[..2].copy_from_slice(&libc::AF_INET.to_ne_bytes()[..2]);
    address[2..4].copy_from_slice(&port.to_be_bytes());
    address[4..8].copy_from_slice(&[127, 0, 0, 1]);
    address
}

fn connect_tcp(ground: &Ground) -> Result<(), Errno> {
    let socket = call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0)?;
    done(call!(libc::SYS_connect, socket, address_of(ground.port).as_ptr(), 16))
}

/// Ends the child where there is one.
fn in_parent(forked: Result<i64, Errno>) -> Result<(), Errno> {
    match forked? {
        0 => exit(0),
        _ => Ok(()),
    }
}

fn fork_by_clone3(_: &Ground) -> Result<(), Errno> {
    // `struct clone_args`: nothing but the signal at its end.
    let arguments = [0, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0_u64];
    in_parent(call!(libc::SYS_clone3, arguments.as_ptr(), 64))
}

/// As the standard library does.
fn start_thread(_: &Ground) -> Result<(), Errno> {
    let thread = std::thread::Builder::new().spawn(|| ());
    let thread = thread.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
    thread.join().map_err(|_| libc::EIO)
}

fn execute_file(_: &Ground) -> Result<(), Errno> {
    let arguments = [c"true".as_ptr(), std::ptr::null()];
    done(call!(libc::SYS_execve, c"/bin/true", arguments.as_ptr(), arguments[1..].as_ptr()))
}

/// Nothing that could run, so that it is seen whether that is looked at.
fn execute_memory(_: &Ground) -> Result<(), Errno> {
    let file = call!(libc::SYS_memfd_create, c"program", 0)?;
    call!(libc::SYS_write, file, c"no program", 10)?;
    let nothing = [std::ptr::null::<u8>()];
    let none = nothing.as_ptr();
    done(call!(libc::SYS_execveat, file, c"", none, none, libc::AT_EMPTY_PATH))
}

/// Where the test has a directory for it; in a jail there is but the root.
fn mount(ground: &Ground) -> Result<(), Errno> {
    let on = |place: &CStr| {
        call!(libc::SYS_mount, c"none", place, c"tmpfs", 0, 0)?;
        done(call!(libc::SYS_umount2, place, libc::MNT_DETACH))
    };
    match on(&ground.mount_point) {
        Err(libc::ENOENT) => on(c"/"),
        outcome => outcome,
    }
}

/// `BPF_MAP_CREATE` of an array with one entry (bpf(2)).
fn load_bpf(_: &Ground) -> Result<(), Errno> {
    let attributes = [2_u32, 4, 4, 1, 0];
    done(call!(libc::SYS_bpf, 0, attributes.as_ptr(), 20))
}

fn executable_memory(_: &Ground) -> Result<(), Errno> {
    let access = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    done(call!(libc::SYS_mmap, 0, 4096, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0))
}

fn executable_stack(_: &Ground) -> Result<(), Errno> {
    let here = 0_u8;
    let page = (&raw const here).expose_provenance() & !0xfff;
    let access = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    done(call!(libc::SYS_mprotect, i64::try_from(page).map_err(|_| libc::EFAULT)?, 4096, access))
}

fn address<T: ?Sized>(value: &T) -> u64 {
    std::ptr::from_ref(value).expose_provenance() as u64
}

fn ask_to_open(ring: &Ring) -> Result<(), Errno> {
    let address = address(HOST_FILE.to_bytes_with_nul());
    let request = Request { operation: OPENAT, descriptor: libc::AT_FDCWD, address, ..Request::default() };
    done(ring.ask(request))
}

fn ask_to_connect(ring: &Ring, port: u16) -> Result<(), Errno> {
    let (family, kind) = (libc::AF_INET, libc::SOCK_STREAM.unsigned_abs().into());
    let socket = Request { operation: SOCKET, descriptor: family, offset: kind, ..Request::default() };
    let socket = ring.ask(socket)?;
    let name = address_of(port);
    let request = Request { operation: CONNECT, descriptor: socket, offset: 16, ..Request::default() };
    done(ring.ask(Request { address: address(&name), ..request }))
}

/// Asks the kernel to allow a ring more than it did: by registering what it is restricted to once more.
fn free_ring(ring: &Ring) -> Result<(), Errno> {
    const REGISTER_RESTRICTIONS: i32 = 11;
    // `struct io_uring_restriction`: any operation of this number is allowed.
    let restriction = [1, u16::from(OPENAT), 0, 0, 0, 0, 0, 0];
    done(call!(
        libc::SYS_io_uring_register,
        ring.descriptor(),
        REGISTER_RESTRICTIONS,
        restriction.as_ptr(),
        1
    ))
}
