//! What follows the end of a machine: the next one in its place gets a thread, or what is left is taken apart. That is done
//! one after the other, because closing several at once takes longer than one by one, but none waits for longer than a moment
//! for another.
//!
//! ```text
//!            Ended                start                    TakenApart
//! machine ─────────→ reaper ───────────────→ "vm-apart" ───────────────→ reaper: released
//!                      │   the next one starts when this one is done,
//!                      └── or has taken longer than PATIENCE
//! ```
//!
//! Taking apart may wait for the host, and then for as long as that takes: for I/O in flight on a disk that does not
//! answer, for the machine's thread, which the kernel keeps until its I/O has ended, for a network file system on closing
//! a file. So each has a thread of its own. A machine stays hosted until it is taken apart, which bounds such threads by
//! the host's limit of machines.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use syscall_filter::ThreadKind;
use vm_model::VmId;

use super::hosted_machines::{HostedMachines, Obstacle};
use crate::containment::{contain, dispose};
use crate::engine::Unsettled;
use crate::handover::{EndedMachine, Message, ReleaseSignal, ToReaper, handover};
use crate::machine_thread::{NextMachine, thread_name};

/// The reaper's name.
pub(super) const REAPER_THREAD: &str = "vm-reaper";
/// The name of a thread that takes one machine apart.
const APART_THREAD: &str = "vm-apart";
/// How long the next machine waits for one that is being taken apart.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long to wait at a time for I/O in flight.
const SETTLE_STEP: Duration = Duration::from_secs(1);

/// A machine to take apart, and who is to be told when it is.
type Ended = (EndedMachine, ToReaper);

/// Starts the reaper.
pub(super) fn start_reaper(machines: Arc<HostedMachines>) -> io::Result<(ToReaper, JoinHandle<()>)> {
    let (to_reaper, messages) = handover();
    let builder = thread::Builder::new().name(REAPER_THREAD.to_owned());
    let thread = builder.spawn(move || {
        syscall_filter::enter(ThreadKind::Reaper, "");
        Reaper::new(machines).reap(&messages);
    })?;
    Ok((to_reaper, thread))
}

struct Reaper {
    machines: Arc<HostedMachines>,
    waiting: VecDeque<Ended>,
    /// The one that the next one waits for, and until when.
    current: Option<(VmId, Instant)>,
    threads: BTreeMap<VmId, JoinHandle<()>>,
}

impl Reaper {
    fn new(machines: Arc<HostedMachines>) -> Self {
        Self { machines, waiting: VecDeque::new(), current: None, threads: BTreeMap::new() }
    }

    fn reap(mut self, messages: &Receiver<Message>) {
        loop {
            let message = match &self.current {
                Some((_, until)) => messages.recv_timeout(until.saturating_duration_since(Instant::now())),
                None => messages.recv().map_err(RecvTimeoutError::from),
            };
            match message {
                Ok(Message::Ended(ended, to_reaper)) => self.waiting.push_back((ended, to_reaper)),
                Ok(Message::Next(next)) => self.begin(*next),
                Ok(Message::TakenApart { id, release }) => self.release(&id, &release),
                Err(RecvTimeoutError::Timeout) => self.leave_current(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while self.current.is_none()
                && let Some(ended) = self.waiting.pop_front()
            {
                self.start(ended);
            }
        }
    }

    /// Starts the thread of a machine that takes the place of one that has ended.
    fn begin(&mut self, next: NextMachine) {
        let id = next.id().clone();
        // As in `start`; and the thread may not end before it is known to be the machine's.
        let (hand, taken) = sync_channel::<(NextMachine, Option<JoinHandle<()>>)>(1);
        let builder = thread::Builder::new().name(thread_name(&id));
        match builder.spawn(move || taken.into_iter().for_each(|(next, before)| next.run(before))) {
            Ok(thread) => {
                let before = self.machines.replace_thread(&id, thread);
                let _ = hand.send((next, before));
            }
            Err(error) => self.waiting.push_back(next.give_up(&error)),
        }
    }

    /// Has `ended` taken apart on a thread of its own, or on this one where the host gives no other.
    fn start(&mut self, ended: Ended) {
        let id = ended.0.id.clone();
        // What is handed to a thread that does not start is lost, so it is handed over after it has started.
        let (hand, taken) = sync_channel::<Ended>(1);
        let machines = self.machines.clone();
        let builder = thread::Builder::new().name(APART_THREAD.to_owned());
        let started = builder.spawn(move || {
            syscall_filter::enter(ThreadKind::Undertaker, "");
            taken.into_iter().for_each(|ended| take_apart(ended, &machines));
        });
        match started {
            Ok(thread) => {
                self.current = Some((id.clone(), Instant::now() + PATIENCE));
                self.threads.insert(id, thread);
                // The thread waits for it.
                let _ = hand.send(ended);
            }
            Err(error) => {
                tracing::error!(vm_id = %id, %error, "no thread to take a machine apart; others wait for this one");
                take_apart(ended, &self.machines);
            }
        }
    }

    /// Lets the next one wait no longer.
    fn leave_current(&mut self) {
        if let Some((id, _)) = self.current.take() {
            self.machines.note_unsettled(&id);
            let obstacle = self.machines.obstacle(&id).map(|(obstacle, _)| obstacle.to_string());
            tracing::warn!(vm_id = %id, obstacle, "an ended machine is not released yet; others do not wait for it");
        }
    }

    fn release(&mut self, id: &VmId, release: &ReleaseSignal) {
        if self.current.as_ref().is_some_and(|(current, _)| current == id) {
            self.current = None;
        } else {
            tracing::info!(vm_id = %id, "an ended machine is released at last");
        }
        // It told so as its last act: the join is short.
        if self.threads.remove(id).is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(vm_id = %id, "taking a machine apart panicked outside of its containment");
        }
        self.machines.remove(id);
        release.send_replace(true);
    }
}

/// Waits until nothing of the machine goes on by itself, and gives back what it held.
fn take_apart((ended, to_reaper): Ended, machines: &HostedMachines) {
    let EndedMachine { id, mut remains, lock, status, release } = ended;
    machines.note_ended(&id, status);
    let settled = contain(|| {
        // A look first, so that it is known at once what is waited for.
        let mut step = Duration::ZERO;
        while let Some(Err(Unsettled { device })) =
            remains.as_mut().map(|remains| remains.settle(Instant::now() + step))
        {
            step = SETTLE_STEP;
            machines.note_obstacle(&id, Obstacle::Io { device });
        }
    });
    if let Err(panic) = settled {
        tracing::error!(vm_id = %id, panic, "waiting for a machine's I/O failed");
    }
    machines.note_obstacle(&id, Obstacle::Closing);
    dispose(remains);
    machines.note_obstacle(&id, Obstacle::Thread);
    if let Some(thread) = machines.thread_of(&id)
        && thread.join().is_err()
    {
        tracing::error!(vm_id = %id, "a machine's thread panicked outside of its containment");
    }
    // Only now may another process start the VM.
    drop(lock);
    to_reaper.taken_apart(id, release);
}
