//! Which machines a host has: from before their thread starts until all they held is given back.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use machine_host::HostCounts;
use tokio::sync::watch;
use vm_model::{MachineStatus, ThreadHealth, VmId};

use crate::heartbeat::{Heartbeat, Look, Standstill, judge};
use crate::mailbox::KillSwitch;

/// The machines of one host.
pub(crate) struct HostedMachines {
    /// Held for a map operation, a look at each machine, and while a thread is started (tens of microseconds): a
    /// thread must be in the map before it can end. Entries go in and out whole: a poisoned lock is used on.
    state: Mutex<State>,
    limit: usize,
}

struct State {
    is_open: bool,
    machines: BTreeMap<VmId, Hosted>,
}

/// One machine, as its host knows it.
pub(crate) struct Hosted {
    /// Taken by who joins it.
    pub(crate) thread: Option<JoinHandle<()>>,
    pub(crate) kill_switch: KillSwitch,
    pub(crate) status: watch::Receiver<MachineStatus>,
    pub(crate) released: watch::Receiver<bool>,
    pub(crate) vitals: Vitals,
    pub(crate) ending: Ending,
}

/// How far an ended machine is from its release.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// What is waited for, and since when.
    obstacle: Option<(Obstacle, Instant)>,
    /// It takes so long that others do not wait for it any more.
    unsettled: bool,
    /// Where that is told.
    status: Option<watch::Sender<MachineStatus>>,
}

/// What keeps an ended machine from being released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// Nothing, as far as is known yet.
    Settling,
    /// I/O of this device is in flight.
    Io {
        /// The disk's name, mostly.
        device: String,
    },
    /// The kernel has not closed its descriptors and mappings.
    Closing,
    /// The kernel has not let its thread go.
    Thread,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settling => formatter.write_str("it has just ended"),
            Self::Io { device } => {
                write!(formatter, "the host does not end the I/O that is in flight on its disk {device}")
            }
            Self::Closing => formatter.write_str("the host does not finish closing its files and memory"),
            Self::Thread => formatter.write_str("the host does not let its thread end"),
        }
    }
}

/// How a machine's thread is found to stand still, and where that is told.
pub(crate) struct Vitals {
    pub(crate) heartbeat: Arc<Heartbeat>,
    pub(crate) health: watch::Sender<ThreadHealth>,
    pub(crate) standstill: Option<Standstill>,
}

/// What was seen of all machines at one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// Whether a machine's thread has something to serve.
    pub(crate) any_work: bool,
    /// Moved on by every turn of any machine.
    pub(crate) turns: u64,
}

/// Why a machine is not taken in.
#[derive(Debug)]
pub(crate) enum HostRefusal<E> {
    Closed,
    Taken,
    /// Its last machine has ended and is not released yet.
    Unsettled {
        obstacle: Obstacle,
        waited: Duration,
    },
    Full {
        limit: usize,
    },
    NotStarted(E),
}

impl HostedMachines {
    pub(crate) fn new(limit: usize) -> Self {
        Self { state: Mutex::new(State { is_open: true, machines: BTreeMap::new() }), limit }
    }

    /// Takes a machine in, if it may be, by starting it.
    pub(crate) fn admit<E>(
        &self,
        id: &VmId,
        start: impl FnOnce() -> Result<Hosted, E>,
    ) -> Result<(), HostRefusal<E>> {
        let mut state = self.lock();
        if !state.is_open {
            return Err(HostRefusal::Closed);
        }
        if let Some(hosted) = state.machines.get(id) {
            return Err(match &hosted.ending.obstacle {
                Some((obstacle, since)) => {
                    HostRefusal::Unsettled { obstacle: obstacle.clone(), waited: since.elapsed() }
                }
                None => HostRefusal::Taken,
            });
        }
        if state.machines.len() >= self.limit {
            return Err(HostRefusal::Full { limit: self.limit });
        }
        let hosted = start().map_err(HostRefusal::NotStarted)?;
        state.machines.insert(id.clone(), hosted);
        Ok(())
    }

    /// The thread of the machine `id`, to be joined.
    pub(crate) fn thread_of(&self, id: &VmId) -> Option<JoinHandle<()>> {
        self.lock().machines.get_mut(id)?.thread.take()
    }

    /// `thread` runs the machine `id` from now on; answers with the thread that ran the one before.
    pub(crate) fn replace_thread(&self, id: &VmId, thread: JoinHandle<()>) -> Option<JoinHandle<()>> {
        self.lock().machines.get_mut(id)?.thread.replace(thread)
    }

    /// The machine `id` has ended and is taken apart; what it waits for is told in `status`.
    pub(crate) fn note_ended(&self, id: &VmId, status: watch::Sender<MachineStatus>) {
        if let Some(hosted) = self.lock().machines.get_mut(id) {
            hosted.ending.status = Some(status);
        }
        self.note_obstacle(id, Obstacle::Settling);
    }

    /// The ended machine `id` waits for `obstacle` from now on, unless it did so before.
    pub(crate) fn note_obstacle(&self, id: &VmId, obstacle: Obstacle) {
        if let Some(hosted) = self.lock().machines.get_mut(id) {
            let since = match hosted.ending.obstacle.take() {
                // What was not known to be I/O was that all the time.
                Some((Obstacle::Settling, since)) if matches!(obstacle, Obstacle::Io { .. }) => since,
                Some((before, since)) if before == obstacle => since,
                Some(_) | None => Instant::now(),
            };
            hosted.ending.obstacle = Some((obstacle, since));
            hosted.ending.tell();
        }
    }

    /// What the ended machine `id` waits for, and since when.
    pub(crate) fn obstacle(&self, id: &VmId) -> Option<(Obstacle, Instant)> {
        self.lock().machines.get(id)?.ending.obstacle.clone()
    }

    /// Nobody waits for the ended machine `id` any more.
    pub(crate) fn note_unsettled(&self, id: &VmId) {
        if let Some(hosted) = self.lock().machines.get_mut(id) {
            hosted.ending.unsettled = true;
            hosted.ending.tell();
        }
    }

    pub(crate) fn contains(&self, id: &VmId) -> bool {
        self.lock().machines.contains_key(id)
    }

    pub(crate) fn remove(&self, id: &VmId) {
        let removed = self.lock().machines.remove(id);
        // Outside of the lock.
        drop(removed);
    }

    /// Takes no machine in any more and kills those there are; answers when each is released.
    pub(crate) fn close(&self) -> Vec<(VmId, watch::Receiver<bool>)> {
        let mut state = self.lock();
        state.is_open = false;
        state
            .machines
            .iter()
            .map(|(id, hosted)| {
                hosted.kill_switch.pull();
                (id.clone(), hosted.released.clone())
            })
            .collect()
    }

    /// Looks at every machine once and tells whether its thread stands still with work to do, for longer than
    /// `patience`.
    pub(crate) fn update_health(&self, now: Instant, patience: Duration) -> Activity {
        let mut changed = Vec::new();
        let mut seen = Activity::default();
        for (id, hosted) in &mut self.lock().machines {
            let look = hosted.look();
            seen.any_work |= look.has_work;
            seen.turns = seen.turns.wrapping_add(look.generation);
            let health = hosted.judge(look, now, patience);
            if hosted.vitals.health.send_if_modified(|told| std::mem::replace(told, health) != health) {
                changed.push((id.clone(), health));
            }
        }
        // Outside of the lock.
        for (id, health) in changed {
            match health {
                ThreadHealth::Hung => {
                    tracing::error!(vm_id = %id, "the machine's thread has work to do and stands still");
                }
                ThreadHealth::Turning => {
                    tracing::info!(vm_id = %id, "the machine's thread does not stand still any more");
                }
            }
        }
        seen
    }

    /// Whether any machine's thread has something to serve.
    pub(crate) fn any_work(&self) -> bool {
        self.lock().machines.values().any(|hosted| hosted.look().has_work)
    }

    pub(crate) fn counts(&self) -> HostCounts {
        let state = self.lock();
        let has_ended = |hosted: &&Hosted| hosted.status.borrow().phase.exit().is_some();
        let is_unsettled = |hosted: &&Hosted| hosted.ending.unsettled;
        HostCounts {
            hosted: state.machines.len(),
            ended: state.machines.values().filter(has_ended).count(),
            unsettled: state.machines.values().filter(is_unsettled).count(),
            unjailed: 0,
            unfiltered: 0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ending {
    /// Tells what is waited for, where somebody may want to know: most machines are released within a moment.
    fn tell(&self) {
        let (true, Some((obstacle, _)), Some(status)) = (self.unsettled, &self.obstacle, &self.status) else {
            return;
        };
        let obstacle = Some(obstacle.to_string());
        status.send_if_modified(|told| {
            let is_new = told.obstacle != obstacle;
            told.obstacle = obstacle;
            is_new
        });
    }
}

impl Hosted {
    /// What is seen of the machine's thread now. One without an event loop has nothing to serve.
    fn look(&self) -> Look {
        // The phase comes last: who rings after it has changed is seen together with it.
        let look = self.vitals.heartbeat.look(self.kill_switch.rings());
        Look { has_work: look.has_work && self.status.borrow().phase.has_event_loop(), ..look }
    }

    /// How the thread is at `now`, by this `look` and those before it.
    fn judge(&mut self, look: Look, now: Instant, patience: Duration) -> ThreadHealth {
        let (health, standstill) = judge(self.vitals.standstill, look, now, patience);
        self.vitals.standstill = standstill;
        health
    }
}
