//! What a prisoner tries. Each attempt is harmless where it succeeds.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{AtFlags, Mode, OFlags, mknodat, open, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::{
    Gid, Pid, PidfdFlags, PidfdGetfdFlags, Signal, Uid, kill_process, pidfd_getfd, pidfd_open,
    test_kill_process,
};
use rustix::thread::{CapabilitySet, UnshareFlags};

/// What the attempts are about.
pub(crate) struct Ground {
    /// A directory that is the prisoner's by right, and the tree that it lies in.
    own: OwnedFd,
    pub(crate) tree: PathBuf,
    /// A descriptor of the host's root, as one that was leaked would be.
    host_root: OwnedFd,
    directory: PathBuf,
    victim: Pid,
    tcp: SocketAddr,
}

/// How many process numbers are tried.
const NUMBERS: i32 = 1 << 16;

type Attempt = fn(&Ground) -> Result<(), Errno>;

/// Every attempt by its name.
pub(crate) const ALL: &[(&str, Attempt)] = &[
    ("own-file", own_file),
    ("own-socket", own_socket),
    ("own-status", |_| read("/proc/self/status")),
    ("own-main-thread", |_| reach_main_thread()),
    ("processors", |_| read("/sys/devices/system/cpu/online")),
    ("open-host-file", |_| read("/etc/passwd")),
    ("open-public-file", |ground| read(ground.directory.join("public"))),
    ("open-by-leaked-root", |ground| below(&ground.host_root, "etc/passwd")),
    ("open-sibling-file", |ground| below(&ground.own, "../sibling/secret")),
    ("open-outside-tree", |ground| below(&ground.own, "../../public")),
    ("reopen-directory", |ground| below(&ground.host_root, ".")),
    ("list-root", |_| std::fs::read_dir("/etc").map(drop).map_err(|error| errno(&error))),
    ("read-victims-status", |ground| read(format!("/proc/{}/status", ground.victim.as_raw_pid()))),
    ("read-victims-memory", |ground| read(format!("/proc/{}/mem", ground.victim.as_raw_pid()))),
    ("read-kernel-log", |_| read("/dev/kmsg")),
    ("find-mount-with-devices", |_| find_mount_without("nodev")),
    ("find-mount-with-programs", |_| find_mount_without("noexec")),
    ("find-mount-with-privileges", |_| find_mount_without("nosuid")),
    ("write-to-host", |_| write("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")),
    ("connect-unix", |ground| connect(ground.directory.join("open.sock"))),
    ("connect-closed-directory", connect_sibling),
    ("connect-abstract", connect_abstract),
    ("connect-tcp", |ground| TcpStream::connect(ground.tcp).map(drop).map_err(|error| errno(&error))),
    ("listen-tcp", |_| TcpListener::bind("127.0.0.1:0").map(drop).map_err(|error| errno(&error))),
    ("send-udp", send_udp),
    ("raw-socket", raw_socket),
    ("signal-victim", |ground| kill_process(ground.victim, Signal::CONT)),
    ("signal-parent", |_| {
        let parent = rustix::process::getppid();
        parent.map_or(Err(Errno::SRCH), |parent| kill_process(parent, Signal::CONT))
    }),
    ("find-any-process", |_| find_any_process()),
    ("trace-victim", trace),
    ("watch-victim", |ground| pidfd_open(ground.victim, PidfdFlags::empty()).map(drop)),
    ("take-victims-descriptor", take_descriptor),
    ("become-root", |_| rustix::thread::set_thread_uid(Uid::ROOT)),
    ("become-roots-group", |_| rustix::thread::set_thread_gid(Gid::ROOT)),
    ("gain-capabilities", gain_capabilities),
    ("user-namespace", |_| unshare_in_thread(UnshareFlags::NEWUSER)),
    ("mount-namespace", |_| unshare_in_thread(UnshareFlags::NEWNS)),
    ("make-device", make_device),
    ("load-bpf", load_bpf),
    ("execute-itself", execute),
    ("endless-descriptors", endless_descriptors),
    ("endless-threads", endless_threads),
    ("endless-locked-memory", endless_locked_memory),
];

impl Ground {
    pub(crate) fn open(directory: &Path, victim: i32) -> io::Result<Self> {
        let open_directory =
            |path: &Path| open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let tree = directory.join("tree");
        let tcp = std::fs::read_to_string(directory.join("tcp"))?;
        Ok(Self {
            own: open_directory(&tree.join("own"))?,
            tree,
            host_root: open_directory(Path::new("/"))?,
            directory: directory.to_owned(),
            victim: Pid::from_raw(victim).ok_or(Errno::SRCH)?,
            tcp: tcp.parse().map_err(io::Error::other)?,
        })
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn read(path: impl AsRef<Path>) -> Result<(), Errno> {
    File::open(path).map(drop).map_err(|error| errno(&error))
}

/// Opens a file of the host to write to it, and leaves it as it is.
fn write(path: impl AsRef<Path>) -> Result<(), Errno> {
    File::options().write(true).open(path).map(drop).map_err(|error| errno(&error))
}

/// Succeeds where a mount that the process sees lacks `flag` (proc_pid_mountinfo(5)).
fn find_mount_without(flag: &str) -> Result<(), Errno> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|error| errno(&error))?;
    let has_it =
        |line: &str| line.split(' ').nth(5).is_some_and(|flags| flags.split(',').any(|one| one == flag));
    if mounts.lines().all(has_it) { Err(Errno::NOENT) } else { Ok(()) }
}

/// Locks more than the order in the test lets it.
#[expect(unsafe_code, reason = "the call is about memory by its address")]
fn endless_locked_memory(_: &Ground) -> Result<(), Errno> {
    let mut memory = vec![1_u8; 1 << 20];
    // SAFETY: the memory is this function's, and stays until after the lock is gone.
    unsafe { rustix::mm::mlock(memory.as_mut_ptr().cast(), memory.len()) }?;
    // SAFETY: as above.
    unsafe { rustix::mm::munlock(memory.as_mut_ptr().cast(), memory.len()) }
}

fn below(directory: &OwnedFd, path: &str) -> Result<(), Errno> {
    openat(directory, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(drop)
}

/// What the process needs it still has: a file in its own directory, and its removal.
fn own_file(ground: &Ground) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let file = openat(&ground.own, "file", flags, Mode::RUSR | Mode::WUSR)?;
    rustix::io::write(&file, b"x")?;
    unlinkat(&ground.own, "file", AtFlags::empty())
}

/// A socket in its own directory, by way of the descriptor.
fn own_socket(ground: &Ground) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}/socket", ground.own.as_raw_fd());
    let listener = UnixListener::bind(&path).map_err(|error| errno(&error))?;
    UnixStream::connect(&path).map_err(|error| errno(&error))?;
    drop(listener);
    unlinkat(&ground.own, "socket", AtFlags::empty())
}

fn connect(path: impl AsRef<Path>) -> Result<(), Errno> {
    UnixStream::connect(path).map(drop).map_err(|error| errno(&error))
}

fn connect_sibling(ground: &Ground) -> Result<(), Errno> {
    connect(format!("/proc/self/fd/{}/../sibling/closed.sock", ground.own.as_raw_fd()))
}

fn connect_abstract(ground: &Ground) -> Result<(), Errno> {
    let name = ground.directory.as_os_str().as_encoded_bytes();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).map_err(|error| errno(&error))?;
    UnixStream::connect_addr(&address).map(drop).map_err(|error| errno(&error))
}

fn send_udp(ground: &Ground) -> Result<(), Errno> {
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(|error| errno(&error))?;
    socket.send_to(b"x", ground.tcp).map(drop).map_err(|error| errno(&error))
}

fn raw_socket(_: &Ground) -> Result<(), Errno> {
    use rustix::net::{AddressFamily, SocketType, socket};
    socket(AddressFamily::PACKET, SocketType::RAW, None).map(drop)
}

/// Another thread reaches the first one by what the C library takes for its number.
#[expect(unsafe_code, reason = "the C library tells threads apart by bare values")]
fn reach_main_thread() -> Result<(), Errno> {
    // SAFETY: takes nothing and always succeeds.
    let main = unsafe { libc::pthread_self() };
    // SAFETY: the thread lives for as long as this one waits, and nothing is sent to it.
    let reached = thread::spawn(move || unsafe { libc::pthread_kill(main, 0) }).join();
    match reached.map_err(|_| Errno::IO)? {
        0 => Ok(()),
        number => Err(Errno::from_raw_os_error(number)),
    }
}

/// Succeeds where some number is another process': one that may not be signalled is there.
fn find_any_process() -> Result<(), Errno> {
    let own = rustix::process::getpid();
    let others = (1..=NUMBERS).filter_map(Pid::from_raw).filter(|one| *one != own);
    let mut found = others.filter(|one| test_kill_process(*one) != Err(Errno::SRCH));
    found.next().map(drop).ok_or(Errno::SRCH)
}

fn take_descriptor(ground: &Ground) -> Result<(), Errno> {
    let victim = pidfd_open(ground.victim, PidfdFlags::empty())?;
    pidfd_getfd(victim, 0, PidfdGetfdFlags::empty()).map(drop)
}

fn gain_capabilities(_: &Ground) -> Result<(), Errno> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.permitted |= CapabilitySet::SYS_ADMIN;
    sets.effective |= CapabilitySet::SYS_ADMIN;
    rustix::thread::set_capabilities(None, sets)
}

/// On a thread of its own, so that what follows is tried as before.
#[expect(unsafe_code, reason = "the call can also take descriptors away from threads")]
fn unshare_in_thread(namespace: UnshareFlags) -> Result<(), Errno> {
    // A user namespace wants a process of one thread: a child that is nothing but a copy of this one.
    if namespace == UnshareFlags::NEWUSER {
        return in_child(|| {
            // SAFETY: a user namespace is no table of descriptors.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }
        });
    }
    // SAFETY: none of the namespaces asked for is the table of descriptors.
    let unshare = move || unsafe { rustix::thread::unshare_unsafe(namespace) };
    thread::spawn(unshare).join().map_err(|_| Errno::IO)?
}

/// What `attempt` says in a forked process.
#[expect(unsafe_code, reason = "no safe call forks")]
fn in_child(attempt: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    // SAFETY: this process has one thread by now, and the child only makes system calls until it ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let code = attempt().map_or_else(Errno::raw_os_error, |()| 0);
        // SAFETY: ends the child without running what the parent is to run at its end.
        unsafe { libc::_exit(code) }
    }
    let child = Pid::from_raw(child).ok_or(Errno::AGAIN)?;
    let (_, status) =
        rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())?.ok_or(Errno::CHILD)?;
    match status.exit_status() {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw_os_error(code)),
        None => Err(Errno::IO),
    }
}

fn make_device(ground: &Ground) -> Result<(), Errno> {
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(&ground.own, "device", rustix::fs::FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3))?;
    unlinkat(&ground.own, "device", AtFlags::empty())
}

#[expect(unsafe_code, reason = "no safe call traces a process")]
fn trace(ground: &Ground) -> Result<(), Errno> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the request takes no memory of this process.
    let traced = unsafe { libc::ptrace(libc::PTRACE_SEIZE, ground.victim.as_raw_pid(), nothing, nothing) };
    if traced != 0 {
        return Err(errno(&io::Error::last_os_error()));
    }
    Ok(())
}

#[expect(unsafe_code, reason = "no safe call loads a program into the kernel")]
fn load_bpf(_: &Ground) -> Result<(), Errno> {
    // `BPF_MAP_CREATE` of an array with one entry (bpf(2)).
    let attributes: [u32; 5] = [2, 4, 4, 1, 0];
    // SAFETY: the kernel reads the attributes, which are as long as said.
    let descriptor =
        unsafe { libc::syscall(libc::SYS_bpf, 0, attributes.as_ptr(), std::mem::size_of_val(&attributes)) };
    if descriptor < 0 {
        return Err(errno(&io::Error::last_os_error()));
    }
    Ok(())
}

fn execute(_: &Ground) -> Result<(), Errno> {
    let child = std::process::Command::new("/proc/self/exe").stderr(std::process::Stdio::piped()).spawn();
    child.and_then(|mut child| child.wait()).map(drop).map_err(|error| errno(&error))
}

/// Fails as it should where the bound of the order in the test is met.
fn endless_descriptors(_: &Ground) -> Result<(), Errno> {
    let mut held = Vec::new();
    for _ in 0..512 {
        held.push(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?);
    }
    Ok(())
}

fn endless_threads(_: &Ground) -> Result<(), Errno> {
    let (keep, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
    let mut threads = Vec::new();
    let mut outcome = Ok(());
    for _ in 0..128 {
        let wait = wait.clone();
        match thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(move || drop(wait.lock().map(|wait| wait.recv())))
        {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                outcome = Err(errno(&error));
                break;
            }
        }
    }
    drop(keep);
    for thread in threads {
        let _ = thread.join();
    }
    outcome
}
