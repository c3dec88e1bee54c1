//! Consoles of VMs for those who follow them and type at them.
//!
//! What a guest writes is followed in its VM's directory, where the process that runs the machine writes it. So a place in
//! it means the same after a restart of the guest, of the machine and of the worker, and nobody who reads slowly is on
//! the way of anybody who writes.

use std::io;
use std::path::{Path, PathBuf};

use console_log::{
    ConsoleFiles, ConsoleFilesError, ConsolePiece, ConsolePosition, DirectoryWatch, WatchNews,
};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::task::spawn_blocking;
use vm_model::VmId;

use crate::records::open_console;

/// The most that a follower is handed at a time.
const PIECE: usize = 32 << 10;

/// Why a console cannot be followed any further.
#[derive(Debug, Error)]
pub enum FollowError {
    /// The VM's directory cannot be used.
    #[error("the console directory of VM {id} cannot be watched")]
    Watch {
        /// The VM.
        id: VmId,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
    /// The files cannot be read.
    #[error("the console of VM {id} cannot be read")]
    Read {
        /// The VM.
        id: VmId,
        /// The underlying error.
        #[source]
        source: ConsoleFilesError,
    },
    /// The task that reads was lost: the runtime is ending.
    #[error("the console of VM {id} is not read any more")]
    Lost {
        /// The VM.
        id: VmId,
    },
}

/// Reads a VM's console as it grows, over boots and restarts. It costs two descriptors, and nothing while nothing is
/// written.
#[derive(Debug)]
pub struct ConsoleFollower {
    id: VmId,
    directory: PathBuf,
    watch: AsyncFd<DirectoryWatch>,
    position: ConsolePosition,
}

impl ConsoleFollower {
    /// Follows the console that lies in `console` of the VM's directory `vm`, from `position` on. Must be called on a
    /// runtime; may make the directory.
    pub(crate) fn new(
        id: VmId,
        vm: &Path,
        console: PathBuf,
        position: ConsolePosition,
    ) -> Result<Self, FollowError> {
        let watched = || -> io::Result<_> {
            // A VM that never ran has none yet.
            drop(open_console(vm)?);
            registered(DirectoryWatch::new(&console)?)
        };
        match watched() {
            Ok(watch) => Ok(Self { id, directory: console, watch, position }),
            Err(source) => Err(FollowError::Watch { id, source }),
        }
    }

    /// The place after the last piece.
    pub fn position(&self) -> ConsolePosition {
        self.position
    }

    /// What is written by now, at most a few ten KiB of it; a piece without bytes at the end. A follower that is too slow
    /// is told in [`ConsolePiece::missed`] what it lost. Cancel-safe.
    ///
    /// # Errors
    /// The files cannot be read.
    pub async fn read(&mut self) -> Result<ConsolePiece, FollowError> {
        let (directory, position) = (self.directory.clone(), self.position);
        let read = spawn_blocking(move || ConsoleFiles::open(&directory)?.read_next(position, PIECE));
        let lost = |_| FollowError::Lost { id: self.id.clone() };
        let read = read.await.map_err(lost)?;
        let piece = read.map_err(|source| FollowError::Read { id: self.id.clone(), source })?;
        self.position = piece.next_position();
        Ok(piece)
    }

    /// The next piece as soon as there is one: one with bytes, or the beginning of another boot. `None` when the VM's
    /// console is gone, as it is with the VM. Cancel-safe.
    ///
    /// # Errors
    /// The files cannot be read.
    pub async fn next(&mut self) -> Result<Option<ConsolePiece>, FollowError> {
        loop {
            let boot = self.position.boot;
            // What is written while it looks wakes it again.
            let piece = self.read().await?;
            if !piece.bytes.is_empty() || piece.position.boot != boot {
                return Ok(Some(piece));
            }
            match self.news().await {
                Ok(WatchNews::Changed) => {}
                Ok(WatchNews::Gone) => return Ok(None),
                Err(source) => return Err(FollowError::Watch { id: self.id.clone(), source }),
            }
        }
    }

    async fn news(&self) -> io::Result<WatchNews> {
        let mut ready = self.watch.readable().await?;
        let news = self.watch.get_ref().take_news();
        ready.clear_ready();
        news
    }
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe because a type may change which descriptor it is; this one never does"
)]
fn registered(watch: DirectoryWatch) -> io::Result<AsyncFd<DirectoryWatch>> {
    AsyncFd::new(watch)
}
