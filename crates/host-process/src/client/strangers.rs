//! Finds the host processes that a worker before this one left, and goes on asking those that could not be taken over.
//!
//! ```text
//!   adopt: every socket at once, 2 s ──▶ taken over
//!                                   └──▶ stranger ──▶ asked again, 10 s ──▶ taken over, or gone
//!                                           ▲   ◀── 10 s later ─────┘
//! ```
//!
//! A process whose host is short of processors or memory may be late, and its guests run meanwhile. Nobody else waits for it:
//! each is asked by a task of its own, and where there is no stranger there is no task.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use machine_host::{Adoption, Recognize, Stranger};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::adopting::{Greeted, take_over};
use super::looking::{Found, HELLO_PATIENCE, look};
use super::pool::Pool;

/// How long a process that was silent at first may take to answer each later hello.
const LATE_PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before a stranger is asked once more.
const PAUSE: Duration = Duration::from_secs(10);

/// Processes that could not be taken over.
#[derive(Default)]
pub(super) struct Strangers {
    /// By the names of their sockets. Those that answered are asked no more.
    known: BTreeMap<String, Vec<Stranger>>,
    /// The sockets that are being looked behind.
    looks: JoinSet<(String, Found)>,
    recognize: Option<Recognize>,
}

impl std::fmt::Debug for Strangers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Strangers").field("known", &self.known).finish_non_exhaustive()
    }
}

impl Strangers {
    /// Looks behind every socket of the pool's directory, at all of them at the same time.
    pub(super) async fn adopt(&mut self, pool: &Arc<Pool>, recognize: Recognize) -> Adoption {
        self.recognize = Some(recognize);
        let mut adoption = Adoption::default();
        let reader = pool.clone();
        let names = tokio::task::spawn_blocking(move || reader.directory.names()).await;
        let names = match names.map_err(io::Error::other).flatten() {
            Ok(names) => names,
            Err(error) => {
                let problem = format!("its sockets cannot be listed: {error}");
                let place = pool.directory.place("");
                adoption.strangers.push(Stranger { vms: Vec::new(), pid: None, place, problem });
                return adoption;
            }
        };
        for name in names {
            self.look(pool, name, Duration::ZERO, HELLO_PATIENCE);
        }
        let mut silent = Vec::new();
        while let Some((name, found)) = self.next_look().await {
            if matches!(found, Found::Stranger { .. }) {
                silent.push(name.clone());
            }
            adoption.machines.extend(self.settle(pool, name, found).await);
        }
        for name in silent {
            self.look(pool, name, Duration::ZERO, LATE_PATIENCE);
        }
        adoption.strangers = self.list();
        adoption
    }

    /// Asks strangers again until something has changed: see [`machine_host::MachineHost::adopt_late`].
    pub(super) async fn adopt_late(&mut self, pool: &Arc<Pool>) -> Adoption {
        loop {
            let before = self.list();
            let Some((name, found)) = self.next_look().await else { return std::future::pending().await };
            if matches!(found, Found::Stranger { .. }) {
                self.look(pool, name.clone(), PAUSE, LATE_PATIENCE);
            }
            let machines = self.settle(pool, name, found).await;
            let strangers = self.list();
            if !machines.is_empty() || strangers != before {
                return Adoption { machines, strangers };
            }
        }
    }

    fn list(&self) -> Vec<Stranger> {
        self.known.values().flatten().cloned().collect()
    }

    fn look(&mut self, pool: &Arc<Pool>, name: String, pause: Duration, patience: Duration) {
        let pool = pool.clone();
        self.looks.spawn(async move {
            sleep(pause).await;
            let found = look(&pool.directory, &name, patience).await;
            (name, found)
        });
    }

    /// What the next look has found; `None` where nobody looks. Cancel-safe.
    async fn next_look(&mut self) -> Option<(String, Found)> {
        loop {
            match self.looks.join_next().await? {
                Ok(found) => return Some(found),
                Err(error) => tracing::error!(%error, "looking for a host process failed"),
            }
        }
    }

    /// Takes over what was found behind the socket `name`, or takes note of who is a stranger there.
    async fn settle(&mut self, pool: &Arc<Pool>, name: String, found: Found) -> Vec<machine_host::Adopted> {
        let before = self.known.remove(&name).unwrap_or_default();
        match found {
            Found::Nobody => pool.directory.remove(&name),
            Found::Stranger { pid, problem } => {
                // One whose queue of connections is full is not named by the kernel any more.
                let pid = pid.or_else(|| before.first().and_then(|stranger| stranger.pid));
                let place = pool.directory.place(&name);
                self.known.insert(name, vec![Stranger { vms: Vec::new(), pid, place, problem }]);
            }
            Found::Process { process, connection, welcome } => {
                let Some(recognize) = &self.recognize else { return Vec::new() };
                let found = Greeted { name: name.clone(), process, connection, welcome: *welcome };
                let Adoption { machines, strangers } = take_over(pool, found, recognize).await;
                if !strangers.is_empty() {
                    self.known.insert(name, strangers);
                }
                return machines;
            }
        }
        Vec::new()
    }
}
