//! Machines in host processes, reached as the worker reaches them: how long one takes to say its first byte with and
//! without a process that was kept ahead, and what memory the processes take.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use console_log::{ConsoleLimits, ConsoleRecorder};
use host_process::{Groups, HostProcessOptions, HostProcesses, JailDemand, JailSettings, Placement};
use machine_host::{MachineHandle, MachineHost, StopPolicy};
use tiny_guest::TinyGuest;
use tokio::time::{sleep, timeout};
use worker::vms::UserRange;

use crate::children;
use crate::machines::{PATIENCE, SETTLING, nanoseconds, request};

/// How long a process that is kept ahead takes to be there, generously.
const SPARE_STARTS: Duration = Duration::from_millis(150);

/// How often a guest leaves to its process, where that is timed.
pub(crate) const EXITS: u32 = 20_000;

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
    layers: Layers,
}

/// What keeps a process to what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layers {
    is_jailed: bool,
    is_filtered: bool,
}

impl Layers {
    /// No jail, as that needs root; filters as by default.
    const USUAL: Self = Self { is_jailed: false, is_filtered: true };

    /// 1 is the jail, 2 are the filters, 3 is both.
    pub(crate) fn from_count(count: usize) -> Result<Self> {
        anyhow::ensure!(count <= 3, "there are two layers: 0 to 3, and not {count}");
        Ok(Self { is_jailed: count & 1 != 0, is_filtered: count & 2 != 0 })
    }
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
        self.set_up(Setup { machines_each: NonZeroUsize::MIN, spare, layers: Layers::USUAL }).await?;
        if spare > 0 {
            sleep(SPARE_STARTS).await;
        }
        let (machine, took) = self.create().await?;
        sleep(SETTLING).await;
        end(machine).await?;
        Ok(vec![nanoseconds(took)])
    }

    /// Creates a machine in a process with these `layers`, and ends it. Answers the time until its first byte is known here,
    /// and that until all is given back.
    pub(crate) async fn boot_confined(&mut self, layers: Layers) -> Result<Vec<u64>> {
        self.set_up(Setup { machines_each: NonZeroUsize::MIN, spare: 0, layers }).await?;
        let (machine, took) = self.create().await?;
        sleep(SETTLING).await;
        let begun = Instant::now();
        end(machine).await?;
        Ok(vec![nanoseconds(took), nanoseconds(begun.elapsed())])
    }

    /// Has a guest write a byte [`EXITS`] times, each of which leaves the guest, in a process with these `layers`. Answers the time
    /// from the first one to the guest's end.
    pub(crate) async fn exits(&mut self, layers: Layers) -> Result<Vec<u64>> {
        self.set_up(Setup { machines_each: NonZeroUsize::MIN, spare: 0, layers }).await?;
        let kernel = self.folder.join("chatter");
        std::fs::write(&kernel, TinyGuest::chatter("x", EXITS).elf()).context("cannot write a guest")?;
        let idle = std::mem::replace(&mut self.kernel, kernel);
        let created = self.create().await;
        self.kernel = idle;
        let (machine, _) = created?;
        let begun = Instant::now();
        timeout(PATIENCE, machine.exited()).await.context("a guest did not end")?;
        let took = begun.elapsed();
        timeout(PATIENCE, machine.released()).await.context("a machine was not released")?;
        Ok(vec![nanoseconds(took)])
    }

    /// Has exactly `count` machines running, `each` to a process. Answers the proportional memory of all processes in bytes,
    /// and their threads.
    pub(crate) async fn memory(&mut self, count: usize, each: NonZeroUsize) -> Result<Vec<u64>> {
        self.set_up(Setup { machines_each: each, spare: 0, layers: Layers::USUAL }).await?;
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
        let mut program = self.program.clone();
        program.push(if setup.layers.is_filtered { "--seccomp=trap" } else { "--seccomp=off" }.into());
        let jail = JailSettings { users: UserRange::default(), demand: JailDemand::WhatTheHostHas };
        let host = HostProcesses::new(HostProcessOptions {
            program,
            directory: self.folder.join("processes"),
            machines_per_process: setup.machines_each,
            spare: setup.spare,
            placement: Placement::Beside,
            jail: setup.layers.is_jailed.then_some(jail),
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
