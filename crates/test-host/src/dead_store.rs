//! A file system that shows a directory read-only and can cease to answer, as a server on a network does that is gone.
//!
//! It speaks the kernel's FUSE protocol (`linux/fuse.h`) as far as a store needs it.

use std::ffi::CString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const READLINK: u32 = 5;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

const ANSWERS: u8 = 0;
const HOLDS_READS: u8 = 1;
const DEAD: u8 = 2;
const GONE: u8 = 3;

/// How often the server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(10);
/// More than any request has.
const REQUEST: usize = 256 << 10;

/// A directory that is shown at another place until it ceases to answer. Whoever waits for it gets an error when it is
/// dropped.
#[derive(Debug)]
pub struct DeadStore {
    place: PathBuf,
    mode: Arc<AtomicU8>,
    server: Option<JoinHandle<()>>,
}

impl DeadStore {
    /// Shows the directory `shown` at `place`, which has to be a directory, in this thread's mount namespace. It answers.
    ///
    /// # Panics
    ///
    /// Where the kernel has no FUSE or the caller may not mount.
    #[must_use]
    pub fn mount(shown: &Path, place: &Path) -> Self {
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("a small number");
        let device = OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open("/dev/fuse");
        let device = device.expect("the kernel has FUSE");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let options = CString::new(options).expect("no zero in it");
        mount("store", place, "fuse", MountFlags::empty(), options.as_c_str()).expect("mounted");
        let mode = Arc::new(AtomicU8::new(ANSWERS));
        let mut server = Server { device, nodes: vec![shown.to_owned()], mode: Arc::clone(&mode) };
        let server = thread::spawn(move || server.serve());
        Self { place: place.to_owned(), mode, server: Some(server) }
    }

    /// From now on contents of files do not come; all else is answered.
    pub fn hold_reads(&self) {
        self.mode.store(HOLDS_READS, Ordering::SeqCst);
    }

    /// From now on everything is answered, also what was asked before.
    pub fn answer(&self) {
        self.mode.store(ANSWERS, Ordering::SeqCst);
    }

    /// From now on nothing is answered.
    pub fn die(&self) {
        self.mode.store(DEAD, Ordering::SeqCst);
    }
}

impl Drop for DeadStore {
    fn drop(&mut self) {
        self.mode.store(GONE, Ordering::SeqCst);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
        let _ = unmount(&self.place, UnmountFlags::DETACH);
    }
}

struct Server {
    /// Closing it ends the file system: what waits fails.
    device: File,
    /// What a node's number, less one, stands for.
    nodes: Vec<PathBuf>,
    mode: Arc<AtomicU8>,
}

type Answer = Result<Vec<u8>, Errno>;

impl Server {
    fn serve(&mut self) {
        let (mut buffer, mut held) = (vec![0; REQUEST], Vec::new());
        loop {
            let mode = self.mode.load(Ordering::SeqCst);
            if mode == GONE {
                return;
            }
            if mode == ANSWERS {
                held.drain(..).for_each(|request: Vec<u8>| self.carry_out(&request));
            }
            let Ok(length) = self.device.read(&mut buffer) else {
                thread::sleep(LOOK);
                continue;
            };
            let request = &buffer[..length];
            if mode == DEAD || (mode == HOLDS_READS && number(request, 4, 4) == u64::from(READ)) {
                held.push(request.to_vec());
            } else {
                self.carry_out(request);
            }
        }
    }

    fn carry_out(&mut self, request: &[u8]) {
        let opcode = u32::try_from(number(request, 4, 4)).expect("four bytes");
        if ![FORGET, BATCH_FORGET, INTERRUPT].contains(&opcode) {
            let node = usize::try_from(number(request, 16, 8)).expect("a small number");
            let answer = self.reply_to(opcode, node, &request[40..]);
            self.reply(number(request, 8, 8), &answer);
        }
    }

    fn reply_to(&mut self, opcode: u32, node: usize, body: &[u8]) -> Answer {
        let path = self.nodes.get(node.wrapping_sub(1)).cloned().unwrap_or_default();
        let looked = |path: &Path| path.symlink_metadata().map_err(|_| Errno::NOENT);
        match opcode {
            INIT => Ok(init()),
            LOOKUP => {
                let name = std::ffi::OsStr::from_bytes(body.split(|byte| *byte == 0).next().unwrap_or(&[]));
                let path = path.join(name);
                let found = looked(&path)?;
                let node = self.number_of(path);
                Ok([&node.to_le_bytes()[..], &[0; 32], &attributes(node, &found)].concat())
            }
            GETATTR => {
                let found = looked(&path)?;
                Ok([&[0; 16][..], &attributes(node as u64, &found)].concat())
            }
            READLINK => {
                let target = fs::read_link(path).map_err(|_| Errno::INVAL)?;
                Ok(target.as_os_str().as_bytes().to_vec())
            }
            OPEN | OPENDIR => Ok(vec![0; 16]),
            READ => {
                let (offset, size) = (number(body, 8, 8), number(body, 16, 4));
                let mut bytes = vec![0; usize::try_from(size).expect("a small number")];
                let file = File::open(path).map_err(|_| Errno::IO)?;
                let count = file.read_at(&mut bytes, offset).map_err(|_| Errno::IO)?;
                bytes.truncate(count);
                Ok(bytes)
            }
            READDIR => Ok(if number(body, 8, 8) == 0 { entries(&path) } else { Vec::new() }),
            RELEASE | RELEASEDIR | FLUSH => Ok(Vec::new()),
            _ => Err(Errno::NOSYS),
        }
    }

    fn number_of(&mut self, path: PathBuf) -> u64 {
        let known = self.nodes.iter().position(|node| *node == path);
        let position = known.unwrap_or_else(|| {
            self.nodes.push(path);
            self.nodes.len() - 1
        });
        position as u64 + 1
    }

    fn reply(&mut self, unique: u64, answer: &Answer) {
        let (error, body) = match answer {
            Ok(body) => (0, &body[..]),
            Err(errno) => (-errno.raw_os_error(), &[][..]),
        };
        let length = u32::try_from(16 + body.len()).expect("a small number");
        let reply = [&length.to_le_bytes()[..], &error.to_le_bytes(), &unique.to_le_bytes(), body].concat();
        // Whoever asked may be gone.
        let _ = self.device.write_all(&reply);
    }
}

/// Protocol 7.31, without any option.
fn init() -> Vec<u8> {
    let mut answer = vec![0; 64];
    answer[0..4].copy_from_slice(&7_u32.to_le_bytes());
    answer[4..8].copy_from_slice(&31_u32.to_le_bytes());
    answer[20..24].copy_from_slice(&4096_u32.to_le_bytes());
    answer
}

/// `struct fuse_attr`.
fn attributes(node: u64, found: &Metadata) -> Vec<u8> {
    let wide = [node, found.len(), found.blocks()].into_iter();
    let times = [found.atime(), found.mtime(), found.ctime()].map(i64::cast_unsigned);
    let small = |number: i64| u32::try_from(number).expect("nanoseconds");
    let narrow = [
        small(found.atime_nsec()),
        small(found.mtime_nsec()),
        small(found.ctime_nsec()),
        found.mode(),
        1,
        0,
        0,
        0,
        4096,
        0,
    ];
    let wide = wide.chain(times).flat_map(u64::to_le_bytes);
    wide.chain(narrow.into_iter().flat_map(u32::to_le_bytes)).collect()
}

/// A directory's entries, each a `struct fuse_dirent`.
fn entries(path: &Path) -> Vec<u8> {
    let mut listed = Vec::new();
    for (position, entry) in fs::read_dir(path).into_iter().flatten().flatten().enumerate() {
        let name = entry.file_name();
        let kind = entry.metadata().map_or(0, |found| found.mode() >> 12);
        listed.extend((position as u64 + 1).to_le_bytes());
        listed.extend((position as u64 + 1).to_le_bytes());
        listed.extend(u32::try_from(name.len()).expect("a small number").to_le_bytes());
        listed.extend(kind.to_le_bytes());
        listed.extend(name.as_bytes());
        listed.resize(listed.len().next_multiple_of(8), 0);
    }
    listed
}

/// The little-endian number of `size` bytes at `offset`.
fn number(bytes: &[u8], offset: usize, size: usize) -> u64 {
    let mut number = [0; 8];
    number[..size].copy_from_slice(&bytes[offset..offset + size]);
    u64::from_le_bytes(number)
}
