//! One attachment: from the worker to the screen, from the keyboard to the worker.

use std::time::Duration;

use admin::{ConsoleEnd, ConsoleInput, ConsoleOutput, ConsoleRequest, PenRequest, PenState, ServerFrame};
use anyhow::Result;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use worker::vms::ConsolePosition;

use super::keyboard::{Keyboard, Typed};
use super::output_thread::OutputThread;
use super::terminal::{Interruption, size};
use crate::cli::ConsoleFlags;

/// The most that is kept of what a person types ahead while the guest does not read.
const TYPED_AHEAD: usize = 64 << 10;

/// Why an attachment is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The user has left, all input was sent, or nobody reads the output.
    Left,
    /// The worker went away.
    WorkerLost,
    VmGone,
    /// Piped input cannot be typed, because somebody else has the pen.
    NoPen(String),
    /// A signal, by its name.
    Interrupted(&'static str),
    Failed(String),
}

/// What is known of the session over all its attachments.
pub(super) struct Relay {
    wish: PenRequest,
    linger: Duration,
    place: ConsolePosition,
    pen: Pen,
    /// Whether the user was told that typing does nothing, since somebody else has had the pen.
    told_no_pen: bool,
    pending: Vec<u8>,
    /// When the guest wrote last, or input ended, once it has.
    silent_since: Option<Instant>,
}

/// Who may type, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pen {
    /// The worker has been asked.
    Asked,
    Mine,
    Others,
}

/// To the worker, on a task of its own: it waits while the guest does not read.
enum Sent {
    AskPen,
    Bytes(Vec<u8>),
    Size(u16, u16),
}

/// The task that sends; it ends with the attachment.
struct Typist {
    sent: mpsc::Sender<Sent>,
    task: JoinHandle<()>,
}

impl Drop for Typist {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Typist {
    fn start(mut input: ConsoleInput) -> Self {
        let (sent, mut wanted) = mpsc::channel(4);
        let task = tokio::spawn(async move {
            while let Some(sent) = wanted.recv().await {
                let done = match sent {
                    Sent::AskPen => input.ask_pen().await,
                    Sent::Bytes(bytes) => input.type_in(&bytes).await,
                    Sent::Size(columns, rows) => input.resize(columns, rows).await,
                };
                // The reading half sees it, too.
                if done.is_err() {
                    return;
                }
            }
        });
        Self { sent, task }
    }

    fn tell_size(&self) {
        if let Some((columns, rows)) = size() {
            // What waits in front of it is typed first; the next change tells again.
            let _ = self.sent.try_send(Sent::Size(columns, rows));
        }
    }
}

impl Relay {
    pub(super) fn new(flags: &ConsoleFlags, wish: PenRequest) -> Self {
        Self {
            wish,
            linger: Duration::from_secs(flags.linger),
            place: ConsolePosition::default(),
            pen: Pen::Asked,
            told_no_pen: false,
            pending: Vec::new(),
            silent_since: None,
        }
    }

    /// What to ask the next worker for: to go on where this one ended, with the pen if this one gave it.
    pub(super) fn next_request(&self) -> ConsoleRequest {
        let pen = if self.pen == Pen::Mine { PenRequest::Ask } else { PenRequest::None };
        let ConsolePosition { boot, offset } = self.place;
        ConsoleRequest {
            pen,
            follow: true,
            boot: Some(i64::from(boot)),
            offset: Some(offset),
            ..ConsoleRequest::default()
        }
    }

    /// Moves bytes both ways until it is over.
    pub(super) async fn run(
        &mut self,
        (mut output, input): (ConsoleOutput, ConsoleInput),
        keyboard: &mut Keyboard,
        screen: &mut OutputThread,
        interruption: &mut Interruption,
    ) -> Result<Outcome> {
        let typist = Typist::start(input);
        let mut is_first = true;
        self.pen = Pen::Asked;
        loop {
            let takes_input = keyboard.is_terminal() || self.pending.is_empty();
            let quiet_at = self.silent_since.map(|since| since + self.linger);
            let frame = async {
                screen.has_room().await;
                output.next().await
            };
            // All arms are cancel-safe: each waits, and acts only when it is chosen.
            tokio::select! {
                frame = frame => match frame {
                    Ok(Some(ServerFrame::Place(place))) => self.move_to(place, std::mem::take(&mut is_first), screen).await,
                    Ok(Some(frame)) => if let Some(outcome) = self.take(frame, keyboard, &typist, screen).await {
                        return Ok(outcome);
                    },
                    Ok(None) | Err(_) => return Ok(Outcome::WorkerLost),
                },
                typed = keyboard.next(), if takes_input => for typed in typed {
                    if let Some(outcome) = self.take_typed(typed, keyboard, &typist) {
                        return Ok(outcome);
                    }
                },
                Ok(permit) = typist.sent.reserve(), if self.pen == Pen::Mine && !self.pending.is_empty() => {
                    permit.send(Sent::Bytes(std::mem::take(&mut self.pending)));
                }
                signal = interruption.next_or_resize() => match signal {
                    Some(name) => return Ok(Outcome::Interrupted(name)),
                    None => typist.tell_size(),
                },
                () = until(quiet_at), if self.pending.is_empty() => return Ok(Outcome::Left),
            }
            if screen.is_closed() {
                return Ok(Outcome::Left);
            }
        }
    }

    /// Output goes on at another place. The first one of an attachment is where it was told to begin.
    async fn move_to(&mut self, place: ConsolePosition, is_first: bool, screen: &OutputThread) {
        if place.boot != self.place.boot && !is_first {
            screen.note(&format!("boot {} begins", place.boot)).await;
        }
        self.place = place;
    }

    async fn take(
        &mut self,
        frame: ServerFrame,
        keyboard: &Keyboard,
        typist: &Typist,
        screen: &OutputThread,
    ) -> Option<Outcome> {
        match frame {
            ServerFrame::Output(bytes) => {
                self.place.offset = self.place.offset.saturating_add(bytes.len() as u64);
                self.silent_since = self.silent_since.map(|_| Instant::now());
                screen.write(bytes).await;
            }
            ServerFrame::Place(place) => self.place = place,
            ServerFrame::Missed(count) => screen.note(&format!("{count} bytes are not kept")).await,
            ServerFrame::InputDropped(count) => {
                screen.note(&format!("{count} bytes were not typed: the guest does not read them")).await;
            }
            ServerFrame::Pen(state) => return self.take_pen(state, keyboard, typist, screen).await,
            ServerFrame::End(ConsoleEnd::WorkerEnding) => return Some(Outcome::WorkerLost),
            ServerFrame::End(ConsoleEnd::VmGone) => return Some(Outcome::VmGone),
            ServerFrame::End(ConsoleEnd::Complete) => return Some(Outcome::Left),
            ServerFrame::End(ConsoleEnd::Failed(why)) => return Some(Outcome::Failed(why)),
        }
        None
    }

    async fn take_pen(
        &mut self,
        state: PenState,
        keyboard: &Keyboard,
        typist: &Typist,
        screen: &OutputThread,
    ) -> Option<Outcome> {
        let was_asked_for_keys = !self.pending.is_empty();
        self.pen = if state == PenState::Yours { Pen::Mine } else { Pen::Others };
        match state {
            PenState::Yours => {
                self.told_no_pen = false;
                typist.tell_size();
            }
            // What was typed meanwhile is a wish for the pen.
            PenState::ReadOnly if self.wish != PenRequest::None && was_asked_for_keys => self.ask_pen(typist),
            PenState::ReadOnly => {}
            PenState::Held(who) if keyboard.is_terminal() && was_asked_for_keys => {
                self.pending.clear();
                if !std::mem::replace(&mut self.told_no_pen, true) {
                    let told =
                        format!("{who} has the pen: what you type goes nowhere (--steal takes the pen)");
                    screen.note(&told).await;
                }
            }
            PenState::Held(who) if keyboard.is_terminal() => {
                screen.note(&format!("{who} types at this console; you read (--steal takes the pen)")).await;
            }
            PenState::Stolen(who) if keyboard.is_terminal() => {
                screen.note(&format!("{who} has taken the pen; you go on reading")).await;
            }
            PenState::Held(who) | PenState::Stolen(who) => return Some(Outcome::NoPen(who)),
        }
        None
    }

    fn take_typed(&mut self, typed: Typed, keyboard: &Keyboard, typist: &Typist) -> Option<Outcome> {
        match typed {
            Typed::Leave => return Some(Outcome::Left),
            Typed::End if keyboard.is_terminal() => return Some(Outcome::Left),
            Typed::End => self.silent_since = Some(Instant::now()),
            Typed::Bytes(_) if self.wish == PenRequest::None => {}
            // It waits for the answer to whether it may be typed.
            Typed::Bytes(bytes) => {
                let room = TYPED_AHEAD.saturating_sub(self.pending.len());
                self.pending.extend(bytes.into_iter().take(room));
                if self.pen == Pen::Others {
                    // It may have become free.
                    self.ask_pen(typist);
                }
            }
        }
        None
    }

    fn ask_pen(&mut self, typist: &Typist) {
        // Where there is no room, the next key asks again.
        if typist.sent.try_send(Sent::AskPen).is_ok() {
            self.pen = Pen::Asked;
        }
    }
}

/// Returns at `moment`; never where there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
