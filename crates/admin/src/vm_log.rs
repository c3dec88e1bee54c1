//! What is logged about one VM: by the worker and by the process that runs it, each in a file of its own in the VM's
//! directory. Bounded: a file that has grown takes the place of the one before it.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a file is full and a new one is begun.
pub const VM_LOG_SIZE: u64 = 256 << 10;

/// Who logs about a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmLogSource {
    /// The worker.
    Worker,
    /// The process that runs the VM. Where that is the worker, its lines are the worker's.
    Vmm,
}

impl VmLogSource {
    /// The name of its file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker.log",
            Self::Vmm => "vmm.log",
        }
    }

    /// The file in the directory of the VM. A process that runs a VM writes to the directory of its console: it may write to
    /// no other.
    pub fn file(self, directory: &Path) -> PathBuf {
        match self {
            Self::Worker => directory.join(self.name()),
            Self::Vmm => directory.join("console").join(self.name()),
        }
    }

    /// Where to read: a process of an earlier release writes to the VM's own directory.
    fn written_file(self, directory: &Path) -> PathBuf {
        let (file, earlier) = (self.file(directory), directory.join(self.name()));
        if !file.exists() && earlier.exists() { earlier } else { file }
    }

    /// The one before it.
    pub fn older_file(self, directory: &Path) -> PathBuf {
        older(self.file(directory))
    }
}

fn older(file: PathBuf) -> PathBuf {
    let mut name = file.into_os_string();
    name.push(".1");
    name.into()
}

/// Lines of a VM's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmLogView {
    /// Whole lines, each with its line feed. They begin with the moment, in RFC 3339 and UTC.
    pub text: String,
    /// Where to ask on from.
    pub next: String,
}

/// A place in a log: which file, and how many bytes of it were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    inode: u64,
    offset: u64,
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('-').and_then(|(inode, offset)| {
            Some(Self { inode: inode.parse().ok()?, offset: offset.parse().ok()? })
        });
        parts.ok_or("the next of an answer before is accepted")
    }
}

/// What is kept of the log of the VM in `directory`, or what came after `after`. Reads files.
///
/// # Errors
/// The host refuses.
pub(crate) fn read(source: VmLogSource, directory: &Path, after: Option<Place>) -> io::Result<VmLogView> {
    let place = after.unwrap_or_default();
    let file = source.written_file(directory);
    let (older, newer) = (open(&older(file.clone()))?, open(&file)?);
    let inode = |file: &Option<(File, u64)>| file.as_ref().map(|(_, inode)| *inode);
    let mut bytes = Vec::new();
    // A place in neither file is one in a file that is no longer kept.
    let begin = |is_there: bool| if is_there { place.offset } else { 0 };
    let is_in_newer = after.is_some() && inode(&newer) == Some(place.inode);
    if let Some((file, found)) = older.filter(|_| !is_in_newer) {
        read_from(file, begin(found == place.inode), &mut bytes)?;
    }
    let read_before = bytes.len();
    let mut next = place;
    if let Some((file, found)) = newer {
        let offset = begin(found == place.inode);
        read_from(file, offset, &mut bytes)?;
        // A line that is being written comes next time.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1).max(read_before);
        bytes.truncate(whole);
        next = Place { inode: found, offset: offset + (whole - read_before) as u64 };
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(VmLogView { text, next: format!("{}-{}", next.inode, next.offset) })
}

/// The regular file `path`; `None` where there is none. Whoever writes there may mean harm: a link is not followed, and a pipe
/// not waited for.
fn open(path: &Path) -> io::Result<Option<(File, u64)>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path) {
        Ok(file) => {
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::new(ErrorKind::InvalidData, format!("{} is no file", path.display())));
            }
            Ok(Some((file, metadata.ino())))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_from(mut file: File, offset: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    // A writer keeps to the size, but for its last line.
    file.take(2 * VM_LOG_SIZE).read_to_end(bytes).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_log_is_followed_over_the_change_of_its_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        fs::create_dir(path.join("console")).expect("made");
        let ask = |after: Option<&str>| {
            let after = after.map(|after| after.parse().expect("a place"));
            read(VmLogSource::Vmm, path, after).expect("read")
        };
        let none = ask(None);
        assert_eq!(none.text, "");
        let file = VmLogSource::Vmm.file(path);
        fs::write(&file, "one\ntwo\nthr").expect("written");
        let first = ask(Some(&none.next));
        assert_eq!(first.text, "one\ntwo\n", "whole lines");
        fs::write(&file, "one\ntwo\nthree\n").expect("written");
        let second = ask(Some(&first.next));
        assert_eq!((second.text.as_str(), ask(Some(&second.next)).text.as_str()), ("three\n", ""));
        fs::write(&file, "one\ntwo\nthree\nfour\n").expect("written");
        fs::rename(&file, VmLogSource::Vmm.older_file(path)).expect("renamed");
        fs::write(&file, "five\n").expect("written");
        let third = ask(Some(&second.next));
        assert_eq!(third.text, "four\nfive\n");
        assert_eq!(ask(Some(&third.next)).text, "");
        assert_eq!(ask(None).text, "one\ntwo\nthree\nfour\nfive\n");
        "1".parse::<Place>().expect_err("no place");
    }

    #[test]
    fn only_a_file_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        fs::create_dir(path.join("console")).expect("made");
        let file = VmLogSource::Vmm.file(path);
        fs::write(path.join("secret"), "secret\n").expect("written");
        std::os::unix::fs::symlink(path.join("secret"), &file).expect("linked");
        read(VmLogSource::Vmm, path, None).expect_err("no link is followed");
        fs::remove_file(&file).expect("removed");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
        let refused = read(VmLogSource::Vmm, path, None).expect_err("a pipe is not waited for");
        assert!(refused.to_string().ends_with("is no file"), "{refused}");
        fs::remove_file(&file).expect("removed");
        fs::write(path.join("vmm.log"), "of an earlier release\n").expect("written");
        assert_eq!(read(VmLogSource::Vmm, path, None).expect("read").text, "of an earlier release\n");
    }
}
