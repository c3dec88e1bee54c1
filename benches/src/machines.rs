//! Machines under measurement: how long one takes to say its first byte, alone, beside others, many at once and after a
//! reset; how long it takes to end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use console_log::ConsoleFollower;
use hypervisor::Hypervisor;
use machine_host::{LaunchRequest, MachineHandle, StopPolicy};
use tiny_guest::TinyGuest;
use tokio::task::JoinSet;
use tokio::time::timeout;
use vm_model::{
    BootSpec, Bytes, CpuSpec, GuestServices, MachineSpec, MemoryBacking, MemorySpec, SerialMode, VmId,
};
use vmm_host::{HostOptions, VmmHost};

/// What the guest says before it halts for ever: one byte that no program prints of itself.
const FIRST_BYTE: u8 = 0x06;
/// Memory of each machine.
const MEMORY: Bytes = Bytes::from_mib(128);
/// Longer than anything here takes, so that what hangs is noticed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// After it a guest halts, and what its creation stirred up in the kernel has settled.
pub(crate) const SETTLING: Duration = Duration::from_millis(60);

/// A host of machines and those that it holds.
pub(crate) struct Fleet {
    host: Arc<VmmHost>,
    kernel: PathBuf,
    held: Vec<MachineHandle>,
    created: u64,
}

impl Fleet {
    /// A host without machines; their kernel is written to `folder`.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let kernel = folder.join("guest.elf");
        std::fs::write(&kernel, TinyGuest::last_words([FIRST_BYTE]).elf())
            .with_context(|| format!("cannot write {}", kernel.display()))?;
        let host = Arc::new(VmmHost::new(Hypervisor::open()?, HostOptions::default())?);
        Ok(Self { host, kernel, held: Vec::new(), created: 0 })
    }

    pub(crate) fn guest_path(&self) -> &Path {
        &self.kernel
    }

    /// Has exactly `count` machines running that have said their first byte.
    pub(crate) async fn hold(&mut self, count: usize) -> Result<Vec<u64>> {
        end(self.held.split_off(count.min(self.held.len()))).await?;
        let mut times = Vec::new();
        while self.held.len() < count {
            let request = self.request()?;
            let (machine, took) = create(&self.host, request).await?;
            self.held.push(machine);
            times.push(nanoseconds(took));
        }
        Ok(times)
    }

    /// Creates `count` machines at once, and ends them when each has said its first byte.
    pub(crate) async fn boot(&mut self, count: usize) -> Result<Vec<u64>> {
        let requests = (0..count).map(|_| self.request()).collect::<Result<Vec<_>>>()?;
        let begun = Instant::now();
        let created: Vec<_> = concurrently(&self.host, requests).await?;
        let all = begun.elapsed();
        let (machines, times): (Vec<_>, Vec<_>) = created.into_iter().unzip();
        end(machines).await?;
        Ok(times.into_iter().chain([all]).map(nanoseconds).collect())
    }

    /// Creates a machine and kills it while it idles.
    pub(crate) async fn stop_one(&mut self) -> Result<Vec<u64>> {
        let request = self.request()?;
        let (machine, _) = create(&self.host, request).await?;
        tokio::time::sleep(SETTLING).await;
        let begun = Instant::now();
        machine.stop(StopPolicy::KILL).await?;
        let answered = begun.elapsed();
        timeout(PATIENCE, machine.released()).await.context("a machine was not released")?;
        Ok([answered, begun.elapsed()].map(nanoseconds).into())
    }

    /// Creates a machine and resets it while it idles.
    pub(crate) async fn reset_one(&mut self) -> Result<Vec<u64>> {
        let request = self.request()?;
        let (machine, _) = create(&self.host, request).await?;
        tokio::time::sleep(SETTLING).await;
        let mut console = machine.console_recorder().context("the machine is in another process")?.follow(1);
        let begun = Instant::now();
        machine.reset().await?;
        let took = first_byte(&mut console, begun).await?;
        end(vec![machine]).await?;
        Ok(vec![nanoseconds(took)])
    }

    fn request(&mut self) -> Result<LaunchRequest> {
        self.created += 1;
        request(&self.kernel, self.created)
    }
}

/// The machine `number`, which runs `kernel`. Opening that is no part of what is measured: it is the artifact's opening.
pub(crate) fn request(kernel: &Path, number: u64) -> Result<LaunchRequest> {
    let kernel = File::open(kernel).context("cannot open the guest's kernel")?;
    let spec = MachineSpec {
        uuid: uuid::Uuid::from_u128(u128::from(number)),
        cpus: CpuSpec::default(),
        memory: MemorySpec { size: MEMORY, backing: MemoryBacking::SharedMemfd, prefault: false },
        boot: BootSpec { kernel: kernel.into(), initrd: None, cmdline: String::new() },
        disks: Vec::new(),
        nics: Vec::new(),
        serial: SerialMode::Console,
        rng: false,
        services: GuestServices::default(),
    };
    Ok(LaunchRequest::new(VmId::new(&format!("bench-{number}")), spec))
}

/// Creates a machine and waits for its first byte: the time is that which the caller sees.
async fn create(host: &VmmHost, request: LaunchRequest) -> Result<(MachineHandle, Duration)> {
    let begun = Instant::now();
    let machine = host.launch(request).await?;
    let mut console = machine.console_recorder().context("the machine is in another process")?.follow(0);
    let took = first_byte(&mut console, begun).await?;
    Ok((machine, took))
}

/// Waits for a guest's first byte: how long after `begun` it was there.
async fn first_byte(console: &mut ConsoleFollower, begun: Instant) -> Result<Duration> {
    let chunk = timeout(PATIENCE, console.next()).await.context("a guest said nothing")?;
    let took = begun.elapsed();
    let said = chunk.map(|chunk| chunk.bytes);
    ensure!(said.as_deref() == Some(&[FIRST_BYTE]), "a guest said {said:?}");
    Ok(took)
}

/// Creates all of `requests` at the same time, each in a task of its own.
async fn concurrently(
    host: &Arc<VmmHost>,
    requests: Vec<LaunchRequest>,
) -> Result<Vec<(MachineHandle, Duration)>> {
    let mut tasks = JoinSet::new();
    for request in requests {
        let host = host.clone();
        tasks.spawn(async move { create(&host, request).await });
    }
    tasks.join_all().await.into_iter().collect()
}

/// Ends machines and waits until nothing of them is left.
async fn end(machines: Vec<MachineHandle>) -> Result<()> {
    for machine in &machines {
        machine.stop(StopPolicy::KILL).await?;
    }
    for machine in &machines {
        timeout(PATIENCE, machine.released()).await.context("a machine was not released")?;
    }
    Ok(())
}

pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
