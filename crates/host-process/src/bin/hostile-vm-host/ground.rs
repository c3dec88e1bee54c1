//! What the acts are about: a sibling, sockets and files of the host.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::ring::Layout;

/// What somebody knows who looked around before the process was confined, as one may of a host that is like another.
#[derive(Debug)]
pub(crate) struct Ground {
    /// The descriptor that connects the process with its worker.
    pub(crate) worker: RawFd,
    /// The process that is the worker's.
    pub(crate) worker_pid: i32,
    /// The process of a sibling, whose id the test wrote to `sibling`.
    pub(crate) sibling: i32,
    /// The memory of the sibling's process, and the file that its guest's memory is.
    pub(crate) sibling_memory: CString,
    pub(crate) sibling_guest: CString,
    /// An address at which the sibling's process has memory.
    pub(crate) sibling_address: usize,
    /// A Unix socket that anybody may connect to, and the name of an abstract one.
    pub(crate) open_socket: CString,
    pub(crate) abstract_name: Vec<u8>,
    /// A port of the host's own address.
    pub(crate) port: u16,
    /// A directory to mount something on.
    pub(crate) mount_point: CString,
    /// How this kernel lays out rings.
    pub(crate) rings: Layout,
}

impl Ground {
    /// Looks at what the test laid out in `directory`.
    pub(crate) fn survey(directory: &Path) -> io::Result<Self> {
        let sibling: i32 = number(&directory.join("sibling"))?;
        let process = Path::new("/proc").join(sibling.to_string());
        let maps = fs::read_to_string(process.join("maps"))?;
        let address = maps.split('-').next().and_then(|start| usize::from_str_radix(start, 16).ok());
        Ok(Self {
            worker: -1,
            worker_pid: std::os::unix::process::parent_id().cast_signed(),
            sibling,
            sibling_memory: text(&process.join("mem"))?,
            sibling_guest: text(&guest_memory(&process)?)?,
            sibling_address: address.ok_or(io::ErrorKind::InvalidData)?,
            open_socket: text(&directory.join("open.sock"))?,
            abstract_name: directory.as_os_str().as_bytes().to_vec(),
            port: number(&directory.join("port"))?,
            mount_point: text(&directory.join("mount"))?,
            rings: Layout::of_this_kernel()?,
        })
    }

    pub(crate) fn with_worker(self, worker: RawFd) -> Self {
        Self { worker, ..self }
    }
}

/// The file in memory that a guest's memory is: the largest that its process has.
fn guest_memory(process: &Path) -> io::Result<std::path::PathBuf> {
    let mut largest = None;
    for entry in fs::read_dir(process.join("fd"))? {
        let path = entry?.path();
        if fs::read_link(&path).is_ok_and(|link| link.to_string_lossy().starts_with("/memfd:")) {
            let size = fs::metadata(&path)?.len();
            largest = largest.max(Some((size, path)));
        }
    }
    largest.map(|(_, path)| path).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn number<N: std::str::FromStr>(path: &Path) -> io::Result<N> {
    fs::read_to_string(path)?.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
