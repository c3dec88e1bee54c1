//! One attached client: what the guest writes goes to it, what it types goes to the guest, and neither waits for the
//! other.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, split};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use vm_model::{Caller, error_chain};
use worker::vms::{ConsoleFollower, ConsolePiece, FollowError, VmInfo, VmManager};

use super::desk::{PenDesk, named};
use super::pens::Pen;
use crate::console::{ClientFrame, ConsoleEnd, FrameReader, PenState, ServerFrame, WireFrame};

/// How long a guest may read nothing of what is typed before the rest of a frame is dropped.
const UNREAD: Duration = Duration::from_secs(5);
/// The pause before more is typed at a guest whose buffer was full. A serial port has room for 64 bytes.
const FULL: Duration = Duration::from_millis(5);

/// What a session is made of.
pub(super) struct Session {
    pub(super) desk: PenDesk,
    pub(super) follower: ConsoleFollower,
    /// Closed when the VM is gone: its directory may be kept for longer.
    pub(super) info: watch::Receiver<VmInfo>,
    pub(super) extent: Extent,
    pub(super) pen: Option<Pen>,
    pub(super) pen_state: PenState,
    /// Closed when the worker ends.
    pub(super) ended: watch::Receiver<()>,
}

/// How far a session goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// On and on.
    Follow,
    /// Up to what is written by now.
    ToTheEnd,
    /// As far, and not into another boot.
    OneBoot,
}

impl Session {
    /// Serves the client behind `stream` until either has had enough.
    pub(super) async fn run(self, stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let Self { desk, follower, info, extent, pen, pen_state, ended } = self;
        let (from_client, to_client) = split(stream);
        // More than one notice waits only while the client does not read.
        let (notices, noted) = mpsc::channel(4);
        let thief = pen.as_ref().map(Pen::thief);
        let vm_manager = Arc::clone(&desk.vm_manager);
        let output = Output { to_client, vm_manager, follower, info, noted, thief, ended };
        let input = Input { desk, pen, notices };
        // Whichever ends first: a client that sends no more is gone.
        tokio::select! {
            done = output.run(extent, pen_state) => done,
            done = input.run(FrameReader::new(from_client)) => done,
        }
    }
}

/// From the half that types to the half that sends.
enum Notice {
    /// So many bytes of input were dropped.
    InputDropped(u64),
    /// What became of the client's wish for the pen; and who takes the pen away, where the client has it now.
    Pen(PenState, Option<watch::Receiver<Option<Caller>>>),
}

/// The half that sends.
struct Output<W> {
    to_client: W,
    vm_manager: Arc<VmManager>,
    follower: ConsoleFollower,
    info: watch::Receiver<VmInfo>,
    noted: mpsc::Receiver<Notice>,
    thief: Option<watch::Receiver<Option<Caller>>>,
    ended: watch::Receiver<()>,
}

/// What there is to send.
enum Next {
    Piece(Result<Option<ConsolePiece>, FollowError>),
    Frame(ServerFrame),
    Notice(Notice),
    WorkerEnds,
    VmGone,
}

impl<W: AsyncWrite + Unpin> Output<W> {
    async fn run(mut self, extent: Extent, pen: PenState) -> io::Result<()> {
        let mut place = self.follower.position();
        let first_boot = place.boot;
        self.send(&ServerFrame::Place(place)).await?;
        self.send(&ServerFrame::Pen(pen)).await?;
        let end = loop {
            let piece = match self.next(extent).await {
                Next::Frame(frame) => {
                    self.send(&frame).await?;
                    continue;
                }
                Next::Notice(Notice::InputDropped(count)) => {
                    self.send(&ServerFrame::InputDropped(count)).await?;
                    continue;
                }
                Next::Notice(Notice::Pen(state, thief)) => {
                    self.thief = thief;
                    self.send(&ServerFrame::Pen(state)).await?;
                    continue;
                }
                Next::WorkerEnds => break ConsoleEnd::WorkerEnding,
                Next::Piece(Err(problem)) => break ConsoleEnd::Failed(error_chain(&problem)),
                // A worker that ends looks after no VM any more.
                Next::VmGone | Next::Piece(Ok(None)) if self.vm_manager.is_ending() => {
                    break ConsoleEnd::WorkerEnding;
                }
                Next::VmGone | Next::Piece(Ok(None)) => break ConsoleEnd::VmGone,
                Next::Piece(Ok(Some(piece))) => piece,
            };
            let is_at_end = piece.bytes.is_empty() && piece.position.boot == place.boot;
            let leaves_boot = piece.position.boot != first_boot;
            match extent {
                Extent::OneBoot if is_at_end || leaves_boot => break ConsoleEnd::Complete,
                Extent::ToTheEnd if is_at_end => break ConsoleEnd::Complete,
                Extent::Follow | Extent::ToTheEnd | Extent::OneBoot => {}
            }
            if piece.missed > 0 {
                self.send(&ServerFrame::Missed(piece.missed)).await?;
            }
            if piece.position != place {
                self.send(&ServerFrame::Place(piece.position)).await?;
            }
            place = piece.next_position();
            if !piece.bytes.is_empty() {
                self.send(&ServerFrame::Output(piece.bytes)).await?;
            }
        };
        self.send(&ServerFrame::End(end)).await?;
        self.to_client.shutdown().await
    }

    /// All arms are cancel-safe.
    async fn next(&mut self, extent: Extent) -> Next {
        let Self { follower, info, noted, thief, ended, .. } = self;
        let piece = async {
            match extent {
                Extent::Follow => follower.next().await,
                Extent::ToTheEnd | Extent::OneBoot => follower.read().await.map(Some),
            }
        };
        tokio::select! {
            piece = piece => Next::Piece(piece),
            Some(notice) = noted.recv() => Next::Notice(notice),
            by = stolen(thief) => Next::Frame(ServerFrame::Pen(PenState::Stolen(named(by)))),
            _ = ended.changed() => Next::WorkerEnds,
            () = gone(info) => Next::VmGone,
        }
    }

    async fn send(&mut self, frame: &ServerFrame) -> io::Result<()> {
        self.to_client.write_all(&frame.encoded()).await
    }
}

/// Returns when the VM is gone. Cancel-safe.
async fn gone(info: &mut watch::Receiver<VmInfo>) {
    while info.changed().await.is_ok() {}
}

/// Returns once when the pen is taken away, with who took it; never where there is none.
async fn stolen(thief: &mut Option<watch::Receiver<Option<Caller>>>) -> Caller {
    if let Some(watched) = thief {
        let by = watched.wait_for(Option::is_some).await.ok().and_then(|by| *by);
        *thief = None;
        if let Some(by) = by {
            return by;
        }
    }
    std::future::pending().await
}

/// The half that types.
struct Input {
    desk: PenDesk,
    pen: Option<Pen>,
    notices: mpsc::Sender<Notice>,
}

impl Input {
    async fn run(mut self, mut frames: FrameReader<impl AsyncRead + Unpin>) -> io::Result<()> {
        while let Some(frame) = frames.next().await? {
            match frame {
                ClientFrame::AskPen => self.ask_pen(),
                // It knows that it has no pen.
                ClientFrame::Input(_) | ClientFrame::Resize { .. } if !self.may_type() => {}
                ClientFrame::Input(bytes) => {
                    let dropped = self.type_all(bytes).await;
                    if dropped > 0 {
                        // Full while the client does not read, which then does not miss this one.
                        let _ = self.notices.try_send(Notice::InputDropped(dropped));
                    }
                }
                ClientFrame::Resize { columns, rows } => {
                    // A serial port has no size, and a VM may be off: nobody is told.
                    let PenDesk { vm_manager, vm, .. } = &self.desk;
                    let _ = vm_manager.resize_console_async(vm, columns, rows).await;
                }
            }
        }
        Ok(())
    }

    /// Takes the pen where it is free. A client that does not read hears of nothing and gets nothing.
    fn ask_pen(&mut self) {
        let Ok(permit) = self.notices.try_reserve() else { return };
        if self.may_type() {
            return;
        }
        let (pen, state) = self.desk.ask();
        permit.send(Notice::Pen(state, pen.as_ref().map(Pen::thief)));
        self.pen = pen;
    }

    fn may_type(&self) -> bool {
        self.pen.as_ref().is_some_and(Pen::is_held)
    }

    /// Types `bytes` as the guest takes them; answers how many it did not take.
    async fn type_all(&self, bytes: Vec<u8>) -> u64 {
        let PenDesk { vm_manager, vm, .. } = &self.desk;
        let mut rest = bytes.as_slice();
        let mut taken_at = Instant::now();
        while !rest.is_empty() && self.may_type() {
            match vm_manager.write_console_async(vm, rest.to_vec()).await {
                Ok(0) if taken_at.elapsed() >= UNREAD => break,
                Ok(0) => sleep(FULL).await,
                Ok(taken) => {
                    rest = rest.get(taken..).unwrap_or_default();
                    taken_at = Instant::now();
                }
                Err(_) => break,
            }
        }
        rest.len() as u64
    }
}
