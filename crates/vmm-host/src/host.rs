//! The front door: machines in, handles out.

mod hosted_machines;
mod reaper;
mod watch_thread;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use console_log::{ConsoleFileWriter, ConsoleLimits, ConsoleRecorder, FileLimits};
use hypervisor::Hypervisor;
use machine_host::{
    Adoption, BoxFuture, HandleParts, HostCounts, LaunchError, LaunchFailure, LaunchRequest, MachineHandle,
    MachineHost, Recognize, ShutdownReport,
};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use vm_model::{MachineStatus, ThreadHealth, VmId};

use crate::containment::note_places_of_panics;
use crate::counters::CountersCell;
use crate::engine::{Engine, KvmEngine};
use crate::error::HostError;
use crate::handover::ToReaper;
use crate::heartbeat::Heartbeat;
use crate::launch::LaunchOutcome;
use crate::machine_thread::{MachineThread, thread_name};
use crate::mailbox::mailbox;
use crate::watch_alarm::WatchAlarm;
use hosted_machines::{Ending, HostRefusal, Hosted, HostedMachines, Vitals};
use reaper::{REAPER_THREAD, start_reaper};
use watch_thread::{WATCH_THREAD, WatchThread};

/// How long a machine that could not be launched is waited for until nothing of it is left.
const CLEAN_UP: Duration = Duration::from_secs(5);

/// The settings of a host.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The most machines at a time, ended ones that are not released yet included. Every machine slows down the page
    /// faults of all others in the process a little.
    pub machine_limit: usize,
    /// How long a machine may take from the request to its first instruction. Its memory may have to be
    /// prefaulted.
    pub launch_deadline: Duration,
    /// How long a machine may take to answer a command.
    pub command_deadline: Duration,
    /// Commands to one machine that may wait; a caller that sends more waits for room.
    pub mailbox_capacity: usize,
    /// How much of each console is kept in memory.
    pub console: ConsoleLimits,
    /// How long a machine's thread may stand still with work to do until it counts as hung.
    pub hung_after: Duration,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            machine_limit: 1024,
            launch_deadline: Duration::from_secs(60),
            command_deadline: Duration::from_secs(5),
            mailbox_capacity: 32,
            console: ConsoleLimits::default(),
            hung_after: Duration::from_secs(5),
        }
    }
}

/// Hosts many machines in this process, each on threads of its own.
///
/// Dropping a host leaves its machines to their handles; [`VmmHost::shut_down`] ends them.
pub struct VmmHost {
    engine: Arc<dyn Engine>,
    options: HostOptions,
    machines: Arc<HostedMachines>,
    /// Writes consoles to files. Its thread ends after this host and its machines.
    console_files: ConsoleFileWriter,
    /// Taken by the shutdown. Held for a clone or a take.
    reaper: Mutex<Option<(ToReaper, JoinHandle<()>)>>,
    /// Taken by the shutdown. Held for a take.
    watch: Mutex<Option<WatchThread>>,
    /// Raised by machines that have something to serve.
    alarm: Arc<WatchAlarm>,
}

impl VmmHost {
    /// A host without machines.
    ///
    /// Adds to the process's panic hook, so that the place of a panic on a machine's thread can be named.
    ///
    /// # Errors
    /// The thread that disposes of machines cannot be started.
    pub fn new(hypervisor: Hypervisor, options: HostOptions) -> Result<Self, HostError> {
        Self::with_engine(Arc::new(KvmEngine::new(hypervisor)), options)
    }

    pub(crate) fn with_engine(engine: Arc<dyn Engine>, options: HostOptions) -> Result<Self, HostError> {
        note_places_of_panics();
        let machines = Arc::new(HostedMachines::new(options.machine_limit));
        let reaper =
            start_reaper(machines.clone()).map_err(|source| HostError { thread: REAPER_THREAD, source })?;
        let watch = WatchThread::start(machines.clone(), options.hung_after)
            .map_err(|source| HostError { thread: WATCH_THREAD, source })?;
        let console_files = ConsoleFileWriter::start(FileLimits::default())
            .map_err(|source| HostError { thread: ConsoleFileWriter::THREAD, source })?;
        let alarm = watch.alarm().clone();
        let (reaper, watch) = (Mutex::new(Some(reaper)), Mutex::new(Some(watch)));
        Ok(Self { engine, options, machines, console_files, reaper, watch, alarm })
    }

    /// Launches a machine, and returns when its first vCPU is entered, or parked where it was to begin paused.
    ///
    /// A launch that is given up (its future dropped) kills its machine.
    ///
    /// # Errors
    /// Says what kept the machine from running. Nothing of it is left then, except where its thread is stuck.
    pub async fn launch(&self, request: LaunchRequest) -> Result<MachineHandle, LaunchError> {
        let vm = request.id.clone();
        let (handle, under_way) = self.start(request, Instant::now())?;
        let deadline = self.options.launch_deadline;
        let failure = match timeout(deadline, under_way).await {
            Ok(Ok(Ok(()))) => return Ok(handle),
            Ok(Ok(Err(failure))) => failure,
            Ok(Err(_)) => LaunchFailure::Panicked("its thread ended without a word".to_owned()),
            Err(_) => return Err(LaunchError::Deadline { vm, deadline }),
        };
        if timeout(CLEAN_UP, handle.released()).await.is_err() {
            tracing::error!(vm_id = %vm, "a machine that could not be launched is not released yet");
        }
        Err(LaunchError::Machine { vm, source: failure })
    }

    /// Whether something of a machine of `vm` is there: it is being launched, runs, or is not released yet.
    pub fn hosts(&self, vm: &VmId) -> bool {
        self.machines.contains(vm)
    }

    /// How many machines there are.
    pub fn counts(&self) -> HostCounts {
        self.machines.counts()
    }

    /// Takes no machine in any more and kills those there are. Waits for nothing; see [`VmmHost::shut_down`].
    pub fn kill_all(&self) {
        drop(self.machines.close());
    }

    /// Takes no machine in any more, kills those there are, and waits until they are released.
    ///
    /// Guests that are to end in order are stopped before, through their handles.
    pub async fn shut_down(&self, deadline: Duration) -> ShutdownReport {
        let begun = Instant::now();
        let mut report = ShutdownReport::default();
        for (id, mut released) in self.machines.close() {
            // A signal that is gone was dropped with everything else.
            let left = deadline.saturating_sub(begun.elapsed());
            match timeout(left, released.wait_for(|released| *released)).await {
                Ok(_) => report.released.push(id),
                Err(_) => report.remaining.push(id),
            }
        }
        // The health of those that remain is of no use any more.
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(watch) = watch {
            watch.end();
        }
        let reaper = self.reaper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((to_reaper, thread)) = reaper
            && report.remaining.is_empty()
        {
            drop(to_reaper);
            // Nobody can reach the reaper any more and its queue is empty: it is about to end.
            if thread.join().is_err() {
                tracing::error!("the reaper panicked");
            }
        }
        report
    }

    /// Starts the machine's thread.
    fn start(
        &self,
        request: LaunchRequest,
        requested: Instant,
    ) -> Result<(MachineHandle, UnderWay), LaunchError> {
        let vm = request.id.clone();
        let reaper = self.to_reaper().ok_or_else(|| LaunchError::ShuttingDown { vm: vm.clone() })?;
        let (outbox, inbox) = mailbox(self.options.mailbox_capacity, self.alarm.clone())
            .map_err(|error| no_host(&vm, format!("no eventfd for its commands: {error}")))?;
        let (console, console_writer) =
            ConsoleRecorder::with_alarm(self.options.console, outbox.console_alarm());
        let (status, status_seen) = watch::channel(MachineStatus::booting());
        let (health, health_seen) = watch::channel(ThreadHealth::default());
        let (release, released) = watch::channel(false);
        let (under_way, waiting) = oneshot::channel();
        let counters = Arc::new(CountersCell::default());
        let heartbeat = Arc::new(Heartbeat::new(self.alarm.clone()));
        let hosted = Hosted {
            thread: None,
            kill_switch: outbox.kill_switch(),
            status: status_seen.clone(),
            released: released.clone(),
            ending: Ending::default(),
            vitals: Vitals { heartbeat: heartbeat.clone(), health, standstill: None },
        };
        let machine_thread = MachineThread {
            request,
            requested,
            engine: self.engine.clone(),
            console: console_writer,
            console_files: self.console_files.clone(),
            counters: counters.clone(),
            inbox,
            status,
            heartbeat,
            under_way,
            reaper,
            release,
        };
        self.spawn(machine_thread, hosted)?;
        let handle = MachineHandle::from_parts(HandleParts {
            id: vm,
            port: Box::new(outbox),
            status: status_seen,
            health: health_seen,
            released,
            counters,
            console,
            command_deadline: self.options.command_deadline,
        });
        Ok((handle, waiting))
    }

    fn to_reaper(&self) -> Option<ToReaper> {
        let reaper = self.reaper.lock().unwrap_or_else(PoisonError::into_inner);
        reaper.as_ref().map(|(to_reaper, _)| to_reaper.clone())
    }

    fn spawn(&self, machine_thread: MachineThread, hosted: Hosted) -> Result<(), LaunchError> {
        let vm = machine_thread.request.id.clone();
        let thread_name = thread_name(&vm);
        let admitted = self.machines.admit(&vm, || {
            let builder = thread::Builder::new().name(thread_name.clone());
            let thread = builder.spawn(move || machine_thread.run())?;
            Ok::<_, io::Error>(Hosted { thread: Some(thread), ..hosted })
        });
        admitted.map_err(|refusal| match refusal {
            HostRefusal::Closed => LaunchError::ShuttingDown { vm },
            HostRefusal::Taken => LaunchError::AlreadyHosted { vm },
            HostRefusal::Unsettled { obstacle, waited } => {
                LaunchError::Unsettled { vm, obstacle: obstacle.to_string(), waited }
            }
            HostRefusal::Full { limit } => LaunchError::Full { vm, limit },
            HostRefusal::NotStarted(error) => {
                no_host(&vm, format!("cannot start its thread {thread_name}: {error}"))
            }
        })
    }
}

fn no_host(vm: &VmId, problem: String) -> LaunchError {
    LaunchError::Host { vm: vm.clone(), problem }
}

impl MachineHost for VmmHost {
    fn launch(&self, request: LaunchRequest) -> BoxFuture<'_, Result<MachineHandle, LaunchError>> {
        Box::pin(self.launch(request))
    }

    /// None: machines of this process ended with the process before it.
    fn adopt(&self, _recognize: Recognize) -> BoxFuture<'_, Adoption> {
        Box::pin(std::future::ready(Adoption::default()))
    }

    fn counts(&self) -> HostCounts {
        self.counts()
    }

    fn kill_all(&self) {
        self.kill_all();
    }

    fn shut_down(&self, deadline: Duration) -> BoxFuture<'_, ShutdownReport> {
        Box::pin(self.shut_down(deadline))
    }

    /// Ends them: they cannot go on without it.
    fn leave(&self) {
        self.kill_all();
    }

    fn machines_outlive_it(&self) -> bool {
        false
    }

    fn isolates(&self) -> bool {
        false
    }
}

/// Resolves when a machine is under way, or with what kept it.
type UnderWay = oneshot::Receiver<LaunchOutcome>;

#[cfg(test)]
mod tests;
