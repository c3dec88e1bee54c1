//! Tells when the files of a console change, so that whoever follows it sleeps until there is more.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// Room for a few events at a time; each carries a file's name.
const EVENTS: usize = 4096;

/// An inotify instance on one directory. Its descriptor is readable when there is news.
#[derive(Debug)]
pub struct DirectoryWatch {
    inotify: OwnedFd,
}

/// What happened to a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchNews {
    /// Files in it may have been made, removed or written to.
    Changed,
    /// It is gone. One of the same name may have taken its place.
    Gone,
}

impl DirectoryWatch {
    /// Watches `directory` from now on.
    ///
    /// # Errors
    /// There is no such directory, or the host allows no more watches.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let wanted = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&inotify, directory, wanted)?;
        Ok(Self { inotify })
    }

    /// Takes all news there is, without waiting for any.
    ///
    /// # Errors
    /// The host refuses to tell.
    pub fn take_news(&self) -> io::Result<WatchNews> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); EVENTS];
        let mut events = Reader::new(&self.inotify, &mut buffer);
        let ends = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED;
        let mut news = WatchNews::Changed;
        loop {
            match events.next() {
                Ok(event) if event.events().intersects(ends) => news = WatchNews::Gone,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(news),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for DirectoryWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl AsRawFd for DirectoryWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn has_news(watch: &DirectoryWatch) -> bool {
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut polled = [PollFd::new(watch, PollFlags::IN)];
        poll(&mut polled, Some(&none)).expect("polled") == 1
    }

    #[test]
    fn each_change_is_news_and_so_is_the_end() {
        let folder = tempfile::tempdir().expect("a directory");
        let directory = folder.path().join("console");
        DirectoryWatch::new(&directory).expect_err("it is not there");
        std::fs::create_dir(&directory).expect("made");
        let watch = DirectoryWatch::new(&directory).expect("watched");
        assert!(!has_news(&watch));
        std::fs::write(directory.join("file"), "more").expect("written");
        assert!(has_news(&watch));
        assert_eq!(watch.take_news().expect("read"), WatchNews::Changed);
        assert!(!has_news(&watch));
        std::fs::remove_dir_all(&directory).expect("removed");
        assert!(has_news(&watch));
        assert_eq!(watch.take_news().expect("read"), WatchNews::Gone);
    }
}
