//! The assignments file: read at start and whenever it changes.
//!
//! The file's directory is watched, not the file: editors and programs replace files by renaming. Because a file can
//! also change where no watch sees it (behind a link, or in a directory that was replaced), it is looked at now and
//! then as well. A content that cannot be used is logged once, and what was in force stays so.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info, warn};
use vm_model::AssignmentSet;
use worker::node::NodeMessage;

/// Larger files are refused.
const MAX_BYTES: u64 = 16 << 20;
/// A file that is being written is read when it has been quiet for so long.
const SETTLE: Duration = Duration::from_millis(50);
/// How often the file is looked at although nothing was heard of a change.
const LOOK: Duration = Duration::from_secs(5);

/// An assignments file that is being watched.
pub(crate) struct Watch {
    file: PathBuf,
    directory: PathBuf,
    name: OsString,
    /// `None` while the directory cannot be watched.
    changes: Option<Changes>,
}

impl Watch {
    /// Begins to watch `file`, which need not be there yet. Must be called on a runtime.
    ///
    /// # Errors
    /// It is no file, or its directory is not there.
    pub(crate) fn start(file: PathBuf) -> Result<Self> {
        let directory = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            Some(_) | None => PathBuf::from("."),
        };
        let name = file
            .file_name()
            .with_context(|| {
                format!("invalid assignments file {}: a file's name is accepted", file.display())
            })?
            .to_owned();
        let changes = Changes::of(&directory).with_context(|| {
            format!("cannot watch the directory {} of the assignments file", directory.display())
        })?;
        if file.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            bail!("invalid assignments file {}: it is no regular file", file.display());
        }
        Ok(Self { file, directory, name, changes: Some(changes) })
    }

    /// Sends what the file says, now and after each change, until the receiver is gone.
    pub(crate) async fn run(mut self, messages: mpsc::Sender<NodeMessage>) {
        let mut last = Seen::Nothing;
        loop {
            if self.changes.is_none() {
                self.changes = Changes::of(&self.directory).ok();
            }
            let seen = self.look().await;
            if seen != last {
                match &seen {
                    Seen::Nothing => warn!(file = %self.file.display(), "waiting for the assignments file"),
                    Seen::Unusable(problem) => error!(error = problem, "the assignments were not taken"),
                    Seen::Text(text) => match self.parse(text) {
                        Ok(set) => {
                            if send(&messages, set).await.is_err() {
                                return;
                            }
                        }
                        Err(problem) => {
                            error!(error = format!("{problem:#}"), "the assignments were not taken");
                        }
                    },
                }
                last = seen;
            }
            // Losing the first arm loses news of changes at most, and the file is looked at anyway.
            tokio::select! {
                () = next_change(&mut self.changes, &self.name) => sleep(SETTLE).await,
                () = sleep(LOOK) => {}
                () = messages.closed() => return,
            }
        }
    }

    /// What there is now.
    async fn look(&self) -> Seen {
        let file = self.file.clone();
        // A disk or a network may take its time: not on the runtime's thread.
        match spawn_blocking(move || read(&file)).await {
            Ok(Ok(Some(text))) => Seen::Text(text),
            Ok(Ok(None)) => Seen::Nothing,
            Ok(Err(problem)) => Seen::Unusable(format!("{problem:#}")),
            Err(lost) => Seen::Unusable(lost.to_string()),
        }
    }

    fn parse(&self, text: &str) -> Result<AssignmentSet> {
        serde_json::from_str(text).with_context(|| format!("invalid assignments in {}", self.file.display()))
    }
}

/// What a look at the file has shown.
#[derive(PartialEq, Eq)]
enum Seen {
    Nothing,
    Unusable(String),
    Text(String),
}

/// Hands a desired state over and logs the verdict.
async fn send(messages: &mpsc::Sender<NodeMessage>, desired: AssignmentSet) -> Result<(), ()> {
    let (answer, verdict) = oneshot::channel();
    messages.send(NodeMessage::Assignment { desired, answer: Some(answer) }).await.map_err(drop)?;
    match verdict.await.map_err(drop)? {
        Ok(generation) => info!(%generation, "assignments taken"),
        Err(refusal) => error!(%refusal, "assignments refused"),
    }
    Ok(())
}

/// The file's content; `None` where there is no file.
fn read(file: &Path) -> Result<Option<String>> {
    let opened = match open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", file.display())),
    };
    let failed = || format!("cannot read {}", file.display());
    if !opened.metadata().with_context(failed)?.is_file() {
        bail!("cannot read {}: it is no regular file", file.display());
    }
    let mut text = String::new();
    opened.take(MAX_BYTES + 1).read_to_string(&mut text).with_context(failed)?;
    if text.len() as u64 > MAX_BYTES {
        bail!("{} has more than {MAX_BYTES} bytes", file.display());
    }
    Ok(Some(text))
}

/// Opens without waiting for the other end of what turns out to be a pipe.
fn open(file: &Path) -> std::io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(file)
}

/// Returns when something happened to the entry `name`; never where nothing is watched.
async fn next_change(changes: &mut Option<Changes>, name: &OsStr) {
    match changes {
        Some(watched) => {
            if let Err(problem) = watched.next(name).await {
                warn!(error = format!("{problem:#}"), "the assignments file is looked at now and then only");
                *changes = None;
            }
        }
        None => std::future::pending().await,
    }
}

/// Changes in a directory.
struct Changes {
    inotify: AsyncFd<OwnedFd>,
}

impl Changes {
    fn of(directory: &Path) -> Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let flags =
            WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::MOVED_FROM;
        inotify::add_watch(&inotify, directory, flags | WatchFlags::ONLYDIR)?;
        #[expect(
            deprecated,
            reason = "its hazard is types that lie about their descriptor; an OwnedFd does not"
        )]
        let inotify = AsyncFd::with_interest(inotify, Interest::READABLE)?;
        Ok(Self { inotify })
    }

    /// Returns when something happened to the entry `name`, or when events were lost.
    async fn next(&self, name: &OsStr) -> Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            if drain(self.inotify.get_ref(), name)? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

/// Takes all waiting events; whether one concerns `name`.
fn drain(inotify: &OwnedFd, name: &OsStr) -> Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    let mut concerned = false;
    loop {
        match reader.next() {
            Ok(event) => {
                let same = event.file_name().is_some_and(|entry| entry.to_bytes() == name.as_encoded_bytes());
                concerned |= same || event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                if event.events().contains(ReadFlags::IGNORED) {
                    bail!("its directory is gone");
                }
            }
            Err(Errno::WOULDBLOCK) => return Ok(concerned),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::timeout;
    use vm_model::Generation;

    use super::*;

    async fn next(channel: &mut mpsc::Receiver<NodeMessage>) -> Option<Generation> {
        let NodeMessage::Assignment { desired, answer } =
            timeout(Duration::from_secs(10), channel.recv()).await.expect("in time").expect("open");
        answer.expect("asked").send(Ok(Generation::new(1))).expect("awaited");
        desired.generation
    }

    fn content(number: u32) -> String {
        format!(r#"{{"generation": {number}, "vms": []}}"#)
    }

    #[tokio::test]
    async fn changes_are_seen_however_the_file_is_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("vms.json");
        let (messages, mut channel) = mpsc::channel(1);
        let watching = tokio::spawn(Watch::start(file.clone()).expect("watched").run(messages));

        fs::write(&file, content(1)).expect("created");
        assert_eq!(next(&mut channel).await, Some(Generation::new(1)));
        fs::write(&file, "{ half").expect("damaged");
        fs::write(directory.path().join("other"), "x").expect("written");
        fs::write(directory.path().join("new"), content(2)).expect("written");
        fs::rename(directory.path().join("new"), &file).expect("replaced");
        assert_eq!(next(&mut channel).await, Some(Generation::new(2)));

        drop(channel);
        timeout(Duration::from_secs(10), watching).await.expect("ends").expect("whole");
    }

    #[tokio::test]
    async fn a_change_behind_a_link_and_in_a_new_directory_is_seen() {
        let directory = tempfile::tempdir().expect("a directory");
        let (inner, outer) = (directory.path().join("inner"), directory.path().join("outer"));
        fs::create_dir(&outer).expect("created");
        fs::write(&inner, content(1)).expect("written");
        std::os::unix::fs::symlink(&inner, outer.join("vms.json")).expect("linked");
        let (messages, mut channel) = mpsc::channel(1);
        let watching = tokio::spawn(Watch::start(outer.join("vms.json")).expect("watched").run(messages));
        assert_eq!(next(&mut channel).await, Some(Generation::new(1)));
        fs::write(&inner, content(2)).expect("written");
        assert_eq!(next(&mut channel).await, Some(Generation::new(2)));
        fs::remove_dir_all(&outer).expect("removed");
        fs::create_dir(&outer).expect("created again");
        fs::write(outer.join("vms.json"), content(3)).expect("written");
        assert_eq!(next(&mut channel).await, Some(Generation::new(3)));
        drop(channel);
        timeout(Duration::from_secs(10), watching).await.expect("ends").expect("whole");
    }

    #[tokio::test]
    async fn what_can_never_be_an_assignments_file_is_refused_at_once() {
        let refused = |path: PathBuf| format!("{:#}", Watch::start(path).err().expect("refused"));
        assert!(refused("/nonexistent/vms.json".into()).contains("/nonexistent"));
        let directory = tempfile::tempdir().expect("a directory");
        assert!(refused(directory.path().to_owned()).contains("no regular file"));
        assert!(refused("..".into()).contains("a file's name"));
    }

    #[test]
    fn a_pipe_in_the_place_of_the_file_keeps_nobody_waiting() {
        let directory = tempfile::tempdir().expect("a directory");
        let pipe = directory.path().join("vms.json");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("made");
        let error = read(&pipe).expect_err("refused");
        assert!(error.to_string().contains("no regular file"), "{error}");
    }
}
