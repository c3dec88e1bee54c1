//! Changes in a directory, as the host tells of them (inotify).

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Result, bail};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A directory that is watched.
pub(super) struct Changes {
    inotify: AsyncFd<OwnedFd>,
}

impl Changes {
    /// Begins to watch `directory`. Must be called on a runtime.
    ///
    /// # Errors
    /// It is not there, or the host refuses.
    pub(super) fn of(directory: &Path) -> Result<Self> {
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

    /// Returns when something happened to the entry `name`, or when events were lost. Cancel-safe but for the news of
    /// changes, which may be lost.
    pub(super) async fn next(&self, name: &OsStr) -> Result<()> {
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
