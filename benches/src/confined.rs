//! What jail and filters of system calls cost a machine in a process of its own: its creation, its memory, and the processor
//! time of what it does for a guest that works.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use console_log::{ConsoleLimits, ConsoleRecorder};
use host_network::Teardown;
use host_process::{Groups, HostProcessOptions, HostProcesses, JailDemand, JailSettings, Placement};
use machine_host::{LaunchRequest, MachineHandle, MachineHost, StopPolicy};
use test_frames::{ethernet, ipv4};
use tiny_guest::TinyGuest;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};
use vm_model::{DiskAccess, DiskFormat, DiskOptions, DiskSpec, NicOptions, NicSpec};
use worker::vms::UserRange;

use crate::machines::{PATIENCE, SETTLING, nanoseconds, request};
use crate::{children, network};

/// How long a guest's work is watched at a time.
const WINDOW: Duration = Duration::from_millis(500);
/// Bytes of the disk that is worked on.
const DISK: u64 = 1 << 20;
/// Echo requests that are under way at a time.
const ECHOES: usize = 16;

/// What keeps a process to what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layers {
    is_jailed: bool,
    is_filtered: bool,
}

impl Layers {
    /// 1 is the jail, 2 are the filters, 3 is both.
    pub(crate) fn from_count(count: usize) -> Result<Self> {
        ensure!(count <= 3, "there are two layers: 0 to 3, and not {count}");
        Ok(Self { is_jailed: count & 1 != 0, is_filtered: count & 2 != 0 })
    }
}

/// What is measured of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// An idle machine is created, for which the process is started. Answers the time until its first byte is known here, that until
    /// all is given back, both in nanoseconds, and the proportional memory of its process in bytes.
    Create,
    /// An idle machine is created in a process that was started ahead. Answers the time until its first byte is known here.
    CreateAhead,
    /// A guest writes to its disk and reads it. Answers the requests that were carried out, and the processor time of the process
    /// meanwhile in nanoseconds.
    Disk,
    /// A guest answers a neighbour's echo requests, in a network of its own. Answers the frames that it received and sent, and the
    /// processor time of the process meanwhile in nanoseconds.
    Network,
}

/// Whose processes are measured, and where their files lie.
#[derive(Clone)]
pub(crate) struct Confined {
    program: Vec<OsString>,
    folder: PathBuf,
    kernel: PathBuf,
    created: u64,
}

impl Confined {
    /// `program` is the command line of a process, `kernel` what an idle machine runs.
    pub(crate) fn new(program: Vec<OsString>, folder: &Path, kernel: &Path) -> Self {
        Self { program, folder: folder.join("confined"), kernel: kernel.to_owned(), created: 0 }
    }

    /// Measures what a process with these layers takes for `work`.
    pub(crate) fn measure(&mut self, runtime: &Runtime, work: Work, layers: Layers) -> Result<Vec<u64>> {
        match work {
            Work::Create => runtime.block_on(self.create(layers)),
            Work::CreateAhead => runtime.block_on(self.create_ahead(layers)),
            Work::Disk => runtime.block_on(self.disk(layers)),
            Work::Network => {
                let mut confined = self.clone();
                network::in_namespace(async move || confined.network(layers).await)
            }
        }
    }

    async fn create(&mut self, layers: Layers) -> Result<Vec<u64>> {
        let host = self.host(layers, 0)?;
        let (machine, took) = self.launch(&host).await?;
        sleep(SETTLING).await;
        let memory = children::memory(process_of(&host, &machine)?)?;
        let begun = Instant::now();
        machine.stop(StopPolicy::KILL).await?;
        timeout(PATIENCE, machine.released()).await.context("a machine was not released")?;
        let ended = begun.elapsed();
        shut_down(&host).await?;
        Ok(vec![nanoseconds(took), nanoseconds(ended), memory])
    }

    async fn create_ahead(&mut self, layers: Layers) -> Result<Vec<u64>> {
        let host = self.host(layers, 1)?;
        host.adopt(Arc::new(|_| Ok(()))).await;
        let begun = Instant::now();
        while children::all()?.is_empty() {
            ensure!(begun.elapsed() < PATIENCE, "no process was started ahead");
            sleep(Duration::from_millis(1)).await;
        }
        // It is in its jail and has been greeted by then.
        sleep(WINDOW).await;
        let (machine, took) = self.launch(&host).await?;
        machine.stop(StopPolicy::KILL).await?;
        timeout(PATIENCE, machine.released()).await.context("a machine was not released")?;
        shut_down(&host).await?;
        Ok(vec![nanoseconds(took)])
    }

    /// An idle machine, and how long it took until its first byte was known here.
    async fn launch(&mut self, host: &HostProcesses) -> Result<(MachineHandle, Duration)> {
        self.created += 1;
        let request = request(&self.kernel, self.created)?;
        let begun = Instant::now();
        let machine = host.launch(request).await?;
        let mut status = machine.status();
        let spoken = status.wait_for(|status| status.timings.first_console_byte.is_some());
        drop(timeout(PATIENCE, spoken).await.context("a guest said nothing")??);
        Ok((machine, begun.elapsed()))
    }

    async fn disk(&mut self, layers: Layers) -> Result<Vec<u64>> {
        let mut request = self.request_of("churn", &TinyGuest::churn())?;
        let path = self.folder.join("disk");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        file.set_len(DISK)?;
        request.spec.disks = vec![DiskSpec {
            id: "disk".to_owned(),
            file: file.into(),
            direct_file: None,
            format: DiskFormat::Raw,
            access: DiskAccess::ReadWrite,
            serial: None,
            queue_size: 128,
            options: DiskOptions::default(),
        }];
        let host = self.host(layers, 0)?;
        let machine = host.launch(request).await?;
        sleep(SETTLING).await;
        let requests = |machine: &MachineHandle| {
            machine.counters().disks.iter().map(|disk| disk.read_operations + disk.write_operations).sum()
        };
        let figures = work(&host, &machine, async || sleep(WINDOW).await, requests).await?;
        machine.stop(StopPolicy::KILL).await?;
        shut_down(&host).await?;
        Ok(figures)
    }

    async fn network(&mut self, layers: Layers) -> Result<Vec<u64>> {
        let (neighbour, guest) = (network::attachment(0)?, network::attachment(1)?);
        let mut request = self.request_of("answers", &TinyGuest::network_host(Some(guest.address)))?;
        let network = network::start().await?;
        let wire = network.attach(neighbour.clone()).await?;
        let tap = network.attach(guest.clone()).await?;
        request.spec.nics = vec![NicSpec {
            id: "net0".to_owned(),
            taps: tap.fds,
            mac: guest.mac,
            mtu: None,
            queue_size: 256,
            vhost: None,
            options: NicOptions::default(),
        }];
        let asked = echo_request(neighbour.address, guest.address);
        let asked = network::on_wire(&ethernet(guest.mac.octets(), neighbour.mac.octets(), 0x0800, &asked));
        let host = self.host(layers, 0)?;
        let machine = host.launch(request).await?;
        // The first answers need the bridge to forward and the guest's driver to be up.
        let begun = Instant::now();
        while exchange(&wire.fds[0], &asked, Duration::from_millis(20)).await? == 0 {
            ensure!(begun.elapsed() < PATIENCE, "no echo came back");
        }
        let frames = |machine: &MachineHandle| {
            machine.counters().nics.iter().map(|nic| nic.receive_frames + nic.transmit_frames).sum()
        };
        let asking = async || drop(exchange(&wire.fds[0], &asked, WINDOW).await);
        let figures = work(&host, &machine, asking, frames).await?;
        machine.stop(StopPolicy::KILL).await?;
        shut_down(&host).await?;
        drop(wire);
        network.shutdown(Teardown::Remove).await?;
        Ok(figures)
    }

    fn request_of(&mut self, name: &str, guest: &TinyGuest) -> Result<LaunchRequest> {
        fs::create_dir_all(&self.folder).context("cannot make a folder")?;
        let kernel = self.folder.join(name);
        fs::write(&kernel, guest.elf()).context("cannot write a guest")?;
        self.created += 1;
        request(&kernel, self.created)
    }

    fn host(&self, layers: Layers, spare: usize) -> Result<HostProcesses> {
        let mut program = self.program.clone();
        program.push(if layers.is_filtered { "--seccomp=trap" } else { "--seccomp=off" }.into());
        // A part of a jail would be another thing than what is told.
        let jail = JailSettings { users: UserRange::default(), demand: JailDemand::Whole };
        Ok(HostProcesses::new(HostProcessOptions {
            program,
            directory: self.folder.join("processes"),
            machines_per_process: NonZeroUsize::MIN,
            spare,
            placement: Placement::Beside,
            jail: layers.is_jailed.then_some(jail),
            groups: Groups::Unavailable("nothing is limited while it is timed".to_owned()),
            launch_deadline: PATIENCE,
            command_deadline: PATIENCE,
            consoles: Arc::new(|_| ConsoleRecorder::new(ConsoleLimits::default()).0),
        })?)
    }
}

fn process_of(host: &HostProcesses, machine: &MachineHandle) -> Result<u32> {
    Ok(host.process_of(machine.id()).context("a machine has no process")?.pid)
}

async fn shut_down(host: &HostProcesses) -> Result<()> {
    let report = host.shut_down(PATIENCE).await;
    ensure!(report.remaining.is_empty(), "machines remain: {:?}", report.remaining);
    Ok(())
}

/// How much of what `count` counts is done during `meanwhile`, and the processor time of the machine's process for it.
async fn work(
    host: &HostProcesses,
    machine: &MachineHandle,
    meanwhile: impl AsyncFnOnce(),
    count: impl Fn(&MachineHandle) -> u64,
) -> Result<Vec<u64>> {
    let process = process_of(host, machine)?;
    machine.refresh_counters().await;
    let (before, begun) = (count(machine), children::processor_time(process)?);
    meanwhile().await;
    machine.refresh_counters().await;
    let (done, took) = (count(machine) - before, children::processor_time(process)? - begun);
    ensure!(done > 0, "the guest did nothing");
    Ok(vec![done, took])
}

/// RFC 792.
fn echo_request(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    // The checksum of its type alone: all else is zero.
    let mut message = vec![8, 0, 0xf7, 0xff];
    message.resize(64, 0);
    ipv4(from, to, 1, &message)
}

/// Keeps [`ECHOES`] requests under way for so long. Answers how many frames of their length came back.
async fn exchange(wire: &OwnedFd, asked: &[u8], patience: Duration) -> Result<usize> {
    let begun = Instant::now();
    let (mut answered, mut under_way) = (0, 0_usize);
    let mut last = begun;
    let mut buffer = [0; 2048];
    while begun.elapsed() < patience {
        // What is lost would never be made up for.
        if last.elapsed() > Duration::from_millis(10) {
            under_way = 0;
        }
        while under_way < ECHOES {
            rustix::io::write(wire.as_fd(), asked).context("the TAP takes no frame")?;
            under_way += 1;
        }
        while let Ok(length) = rustix::io::read(wire.as_fd(), &mut buffer) {
            if length == asked.len() {
                (answered, under_way, last) = (answered + 1, under_way.saturating_sub(1), Instant::now());
            }
        }
        tokio::task::yield_now().await;
    }
    Ok(answered)
}
