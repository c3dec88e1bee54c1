//! An admin socket that comes back: somebody may remove its file under a running worker, or the directory that it lies in, of
//! which nobody could be told any more.

use std::fs::{self, Permissions};
use std::future::{Future, ready};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{UnixListener, UnixStream};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::warn;
use vm_model::Caller;
use worker::vms::refuse_directory_of_others;

use super::BindError;
use super::listening::{Door, ListenError, Listening, PAUSE};
use super::socket::{BoundSocket, SocketGroup};
use crate::serving::Listener;

/// A socket, made again where its file is gone.
#[derive(Debug)]
pub(super) struct KeptSocket {
    path: PathBuf,
    group: Option<SocketGroup>,
    /// The permissions of the directory that it lies in.
    around: Option<Permissions>,
    door: Door,
    listening: Listening,
    /// Held to take it or to put another in its place.
    socket: Mutex<Arc<BoundSocket>>,
}

impl KeptSocket {
    /// Keeps `socket`, which was bound to `path` for `group`.
    pub(super) fn new(
        socket: BoundSocket,
        (path, group): (PathBuf, Option<SocketGroup>),
        (door, listening): (Door, Listening),
    ) -> Self {
        let around = path.parent().and_then(|around| fs::metadata(around).ok());
        let around = around.map(|around| around.permissions());
        tell_group(&listening, door, &socket);
        Self { path, group, around, door, listening, socket: Mutex::new(Arc::new(socket)) }
    }

    fn current(&self) -> Arc<BoundSocket> {
        Arc::clone(&self.socket.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the socket again where its file is not there. One that another has put there stays.
    async fn restore(&self, socket: Arc<BoundSocket>) {
        let (path, group, around) = (self.path.clone(), self.group.clone(), self.around.clone());
        let waited_for_group = socket.without_group.is_some();
        let attempt = spawn_blocking(move || {
            // One for which there was no group is made again as soon as there is.
            let has_group = || group.as_ref().is_some_and(|group| group.resolve().is_ok());
            let is_as_wanted = socket.without_group.is_none() || !has_group();
            if socket.is_in_place() {
                if is_as_wanted {
                    return Ok(None);
                }
                socket.remove();
            }
            make_around(&path, around).map_err(ListenError::Socket)?;
            BoundSocket::bind(&path, group.as_ref()).map(Some).map_err(ListenError::Socket)
        });
        match attempt.await.unwrap_or_else(|lost| Err(ListenError::Lost(lost))) {
            Ok(made) => {
                if let Some(made) = made {
                    tell_group(&self.listening, self.door, &made);
                    *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(made);
                    if !waited_for_group {
                        warn!(socket = %self.path.display(), "the admin socket was removed, and was made again");
                    }
                }
                self.listening.is_open(self.door);
            }
            Err(problem) => self.listening.is_closed(self.door, &problem),
        }
    }
}

/// Tells whether the socket behind `door` is its owner's alone, for want of its group.
fn tell_group(listening: &Listening, door: Door, socket: &BoundSocket) {
    let door = door.of_group();
    match &socket.without_group {
        Some(group) => listening.is_closed(door, &ListenError::Group { group: group.clone() }),
        None => listening.is_open(door),
    }
}

/// Makes the directory that `path` lies in where it is gone, with the `permissions` that it had.
fn make_around(path: &Path, permissions: Option<Permissions>) -> Result<(), BindError> {
    let (Some(around), Some(permissions)) = (path.parent(), permissions) else { return Ok(()) };
    let made = if around.exists() {
        // Another may have made one in the meantime, to have the socket there under his hands.
        refuse_directory_of_others(around)
    } else {
        fs::create_dir_all(around).and_then(|()| fs::set_permissions(around, permissions))
    };
    made.map_err(|source| BindError::Io { operation: "make the directory of", path: path.to_owned(), source })
}

impl Listener for KeptSocket {
    type Socket = UnixStream;
    type Stream = UnixStream;
    const NAME: &'static str = UnixListener::NAME;

    async fn next(&self) -> io::Result<UnixStream> {
        loop {
            let socket = self.current();
            // Nobody comes by a file that is gone, so that this is over in time.
            match timeout(PAUSE, socket.listener.next()).await {
                Ok(accepted) => return accepted,
                Err(_) => self.restore(socket).await,
            }
        }
    }

    fn caller(stream: &UnixStream) -> Caller {
        UnixListener::caller(stream)
    }

    fn refuse(stream: &UnixStream) {
        UnixListener::refuse(stream);
    }

    fn open(&self, stream: UnixStream) -> impl Future<Output = io::Result<UnixStream>> + Send + 'static {
        ready(Ok(stream))
    }
}
