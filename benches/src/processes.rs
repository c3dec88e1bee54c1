//! Machines in host processes, reached as the worker reaches them: how long one takes to say its first byte with and
//! without a process that was kept ahead, and what memory the processes take.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use console_log::{ConsoleLimits, ConsoleRecorder};
use host_process::{Groups, HostProcessOptions, HostProcesses, Placement};
use machine_host::{MachineHandle, MachineHost, StopPolicy};
use tokio::time::{sleep, timeout};

use crate::children;
use crate::machines::{PATIENCE, SETTLING, nanoseconds, request};

/// How long a process that is kept ahead takes to be there, generously.
const SPARE_STARTS: Duration = Duration::from_millis(150);

/// Machines in processes that this program started.
pub(crate) struct Processes {
    program: Vec<OsString>,
    folder: PathBuf,
    kernel: PathBuf,
    created: u64,
    /// The processes in use, and how they are set up.
    current: Option<(Setup, HostProcesses)>,
    held: Vec<MachineHandle>,
}

/// How processes are set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setup {
    machines_each: NonZeroUsize,
    spare: usize,
}

impl Processes {
    /// No process yet. `program` is the command line of one, `kernel` what its machines run.
    pub(crate) fn new(program: Vec<OsString>, folder: &Path, kernel: &Path) -> Self {
        let (folder, kernel) = (folder.to_owned(), kernel.to_owned());
        Self { program, folder, kernel, created: 0, current: None, held: Vec::new() }
    }

    /// Creates a machine in a process of its own, of which `spare` are kept ahead, and ends it. Answers the time until
    /// its first byte is known here.
    pub(crate) async fn boot(&mut self, spare: usize) -> Result<Vec<u64>> {
        self.set_up(Setup { machines_each: NonZeroUsize::MIN, spare }).await?;
        if spare > 0 {
            sleep(SPARE_STARTS).await;
        }
        let (machine, took) = self.create().await?;
        sleep(SETTLING).await;
        end(machine).await?;
        Ok(vec![nanoseconds(took)])
    }

    /// Has exactly `count` machines running, `each` to a process. Answers the proportional memory of all processes in bytes,
    /// and their threads.
    pub(crate) async fn memory(&mut self, count: usize, each: NonZeroUsize) -> Result<Vec<u64>> {
        self.set_up(Setup { machines_each: each, spare: 0 }).await?;
        while self.held.len() < count {
            let (machine, _) = self.create().await?;
            self.held.push(machine);
        }
        sleep(SETTLING).await;
        let (mut memory, mut threads) = (0, 0);
        for child in children::all()? {
            memory += children::memory(child)?;
            threads += children::threads(child)?;
        }
        Ok(vec![memory, threads])
    }

    /// Ends all machines and processes.
    pub(crate) async fn end(&mut self) -> Result<()> {
        self.held.clear();
        if let Some((_, host)) = self.current.take() {
            let report = host.shut_down(PATIENCE).await;
            anyhow::ensure!(report.remaining.is_empty(), "machines remain: {:?}", report.remaining);
        }
        Ok(())
    }

    async fn set_up(&mut self, setup: Setup) -> Result<()> {
        if self.current.as_ref().is_some_and(|(current, _)| *current == setup) {
            return Ok(());
        }
        self.end().await?;
        let host = HostProcesses::new(HostProcessOptions {
            program: self.program.clone(),
            directory: self.folder.join("processes"),
            machines_per_process: setup.machines_each,
            spare: setup.spare,
            placement: Placement::Beside,
            jail: None,
            groups: Groups::Unavailable("nothing is limited while it is timed".to_owned()),
            launch_deadline: PATIENCE,
            command_deadline: PATIENCE,
            consoles: Arc::new(|_| ConsoleRecorder::new(ConsoleLimits::default()).0),
        })?;
        // Starts those that are kept ahead.
        host.adopt(Arc::new(|_| Ok(()))).await;
        self.current = Some((setup, host));
        Ok(())
    }

    async fn create(&mut self) -> Result<(MachineHandle, Duration)> {
        self.created += 1;
        let request = request(&self.kernel, self.created)?;
        let (_, host) = self.current.as_ref().context("there are no processes")?;
        let begun = Instant::now();
        let machine = host.launch(request).await?;
        let mut status = machine.status();
        let spoken = status.wait_for(|status| status.timings.first_console_byte.is_some());
        drop(timeout(PATIENCE, spoken).await.context("a guest said nothing")??);
        let took = begun.elapsed();
        Ok((machine, took))
    }
}

async fn end(machine: MachineHandle) -> Result<()> {
    machine.stop(StopPolicy::KILL).await?;
    timeout(PATIENCE, machine.released()).await.context("a machine was not released")
}
