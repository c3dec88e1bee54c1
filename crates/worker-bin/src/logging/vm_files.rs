//! Lines about a VM, beside the log: each in a file of that VM, where they stay when the log has moved on. The worker finds its
//! directories by their paths; a process that runs VMs writes to those that it was handed, and finds nothing else.
//!
//! A thread of its own writes them. Nobody waits for it: what it cannot take, or the host does not, is left out here and
//! stands in the log all the same.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use admin::{VM_LOG_SIZE, VmLogSource};
use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, openat, renameat};
use rustix::io::Errno;
use syscall_filter::ThreadKind;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::layer::Context as LayerContext;
use tracing_subscriber::registry::LookupSpan;
use vm_model::{Timestamp, VmId};

use super::fields::PrintableFields;
use super::span_fields::vm_of;

/// What makes a directory a VM's.
const RECORD: &str = "record.json";
/// Lines that may wait.
const WAITING: usize = 1024;

/// Where lines about VMs go.
#[derive(Clone, Debug)]
pub(crate) enum VmFiles {
    /// The worker's lines: to each VM's directory below this one.
    Below(PathBuf),
    /// Those of a process that runs VMs: to the directory that it was handed for each.
    Handed(HandedDirectories),
}

/// The directories that a process was handed, by VM.
#[derive(Clone, Debug, Default)]
pub(crate) struct HandedDirectories(Arc<Mutex<BTreeMap<VmId, OwnedFd>>>);

impl HandedDirectories {
    /// Lines about `vm` go to `directory` from now on; nowhere where there is none.
    pub(crate) fn keep(&self, vm: &VmId, directory: Option<BorrowedFd<'_>>) {
        // Without a descriptor to spare its lines are in the log alone.
        match directory.and_then(|directory| directory.try_clone_to_owned().ok()) {
            Some(directory) => drop(self.lock().insert(vm.clone(), directory)),
            None => drop(self.lock().remove(vm)),
        }
    }

    /// Held for map operations and the writing of a line, by the thread that writes lines and the one that keeps directories;
    /// a poisoned lock is used on.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<VmId, OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands lines about VMs to the thread.
pub(super) struct VmLines {
    lines: SyncSender<(VmId, String)>,
}

impl VmLines {
    /// Starts the thread that writes to `files`.
    pub(super) fn start(files: VmFiles) -> Result<Self> {
        let (lines, waiting) = sync_channel(WAITING);
        thread::Builder::new()
            .name("vm-log".to_owned())
            .spawn(move || {
                syscall_filter::enter(ThreadKind::Log, "");
                write_lines(&files, &waiting);
            })
            .context("cannot start the thread that writes VMs' logs")?;
        Ok(Self { lines })
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for VmLines {
    fn on_event(&self, event: &Event<'_>, context: LayerContext<'_, S>) {
        let Some(vm) = vm_of(event, &context).and_then(|id| VmId::parse(&id).ok()) else { return };
        let mut line = format!("{} {:5} ", Timestamp::now(), event.metadata().level());
        if PrintableFields.format_fields(Writer::new(&mut line), event).is_ok() {
            line.push('\n');
            // Full: it stands in the log.
            let _ = self.lines.try_send((vm, line));
        }
    }
}

fn write_lines(files: &VmFiles, lines: &Receiver<(VmId, String)>) {
    while let Ok((vm, line)) = lines.recv() {
        // A VM that is not on record yet, or no more, has no log; a full disk has the worker's.
        let _ = write_line(files, &vm, &line);
    }
}

fn write_line(files: &VmFiles, vm: &VmId, line: &str) -> io::Result<()> {
    match files {
        VmFiles::Below(directory) => {
            let directory = directory.join(vm.as_str());
            // The first file of a VM is its record: a directory with others alone is taken for somebody's data.
            fs::metadata(directory.join(RECORD))?;
            append(&File::open(directory)?, VmLogSource::Worker.name(), line)
        }
        VmFiles::Handed(directories) => match directories.lock().get(vm) {
            Some(directory) => append(directory, VmLogSource::Vmm.name(), line),
            None => Ok(()),
        },
    }
}

/// Appends to the file `name` of `directory`, or to a new one where that is full, or another user's.
fn append(directory: impl AsFd, name: &str, line: &str) -> io::Result<()> {
    let open = || {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // What waits there for a reader, in place of a file, holds nobody up.
        let flags = flags | OFlags::NONBLOCK;
        openat(&directory, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
    };
    let mut file = match open() {
        Ok(file) if file.metadata()?.len() < VM_LOG_SIZE => file,
        // What ran the VM before ran as another user.
        Ok(_) | Err(Errno::ACCESS) => {
            renameat(&directory, name, &directory, format!("{name}.1"))?;
            open()?
        }
        Err(errno) => return Err(errno.into()),
    };
    file.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn lines_about_a_vm_go_to_its_directory_and_are_bounded() {
        let folder = tempfile::tempdir().expect("a directory");
        let directory = folder.path().to_owned();
        fs::create_dir(directory.join("web-1")).expect("made");
        fs::write(directory.join("web-1").join(RECORD), "{}").expect("written");
        let files = VmFiles::Below(directory.clone());
        let (sender, waiting) = sync_channel(WAITING);
        let subscriber = tracing_subscriber::registry().with(VmLines { lines: sender });
        tracing::subscriber::with_default(subscriber, || {
            let vm = VmId::new("web-1");
            tracing::info!(vm_id = %vm, phase = "running", "now\nrunning");
            tracing::warn!(vm_id = "web-1", "disk");
            tracing::info!(vm_id = %VmId::new("gone"), "nowhere");
            tracing::info!("nobody");
        });
        write_lines(&files, &waiting);
        let web = directory.join("web-1");
        let text = fs::read_to_string(VmLogSource::Worker.file(&web)).expect("written");
        let lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').expect("a moment").1).collect();
        assert_eq!(
            lines,
            ["INFO  now\\nrunning vm_id=web-1 phase=\"running\"", "WARN  disk vm_id=\"web-1\""]
        );
        assert!(!directory.join("gone").exists(), "a VM's directory is not made by its log");

        let long = format!("{}\n", "x".repeat(1023));
        for _ in 0..600 {
            write_line(&files, &VmId::new("web-1"), &long).expect("written");
        }
        let size = |path: PathBuf| fs::metadata(path).expect("there").len();
        assert!(size(VmLogSource::Worker.file(&web)) <= VM_LOG_SIZE + 1024);
        assert!(size(VmLogSource::Worker.older_file(&web)) <= VM_LOG_SIZE + 1024);
        assert_eq!(fs::read_dir(&web).expect("listed").count(), 3, "two of the log, and the record");
    }

    #[test]
    fn a_process_writes_where_it_was_handed_a_directory() {
        let folder = tempfile::tempdir().expect("a directory");
        let (vm, directories) = (VmId::new("web-1"), HandedDirectories::default());
        let files = VmFiles::Handed(directories.clone());
        write_line(&files, &vm, "nowhere\n").expect("left out");
        let opened = File::open(folder.path()).expect("opened");
        directories.keep(&vm, Some(opened.as_fd()));
        write_line(&files, &vm, "here\n").expect("written");
        directories.keep(&vm, None);
        write_line(&files, &vm, "nowhere\n").expect("left out");
        assert_eq!(fs::read_to_string(folder.path().join("vmm.log")).expect("read"), "here\n");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
    }
}
