//! Very many VMs under a whole worker: its `VmManager` with networks, records and host processes, in a network of its own.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use serde_json::json;
use test_host::{Artifact, Store};
use tiny_guest::TinyGuest;
use tokio::time::sleep;
use worker::vms::{
    HostProcessSettings, MemoryOvercommit, Placement, VmId, VmManager, VmManagerConfig, VmStatus,
};

use crate::machines::nanoseconds;
use crate::{answering, children};

/// VMs that are created at the same time.
const AT_ONCE: usize = 8;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long what was stirred up takes to come to rest.
const SETTLING: Duration = Duration::from_secs(6);

/// How many VMs, and for how long they idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Many {
    pub(crate) vms: usize,
    pub(crate) each: NonZeroUsize,
    pub(crate) idle: Duration,
}

impl Many {
    /// Creates the VMs, lets go of them, has another manager take them over, lets them idle, and ends them. Answers, in
    /// nanoseconds, how long the creation of all took, how long the other manager took from its start until all were
    /// running, how long all processes and this program ran on a processor while the VMs idled, for how much of as long a time
    /// without sampling, and how long the admin interface took to answer ([`answering::measure`]).
    pub(crate) fn measure(self, program: Vec<OsString>, folder: &Path) -> Result<Vec<u64>> {
        let folder = folder.join(format!("many-{}-{}", self.vms, self.each));
        std::fs::create_dir(&folder).context("cannot make a folder")?;
        let (answer, answered) = channel();
        // The threads and processes of a manager have the network of the thread that makes it.
        test_host::isolated(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let measured = runtime
                .context("cannot start a runtime")
                .and_then(|runtime| runtime.block_on(self.run(program, &folder)));
            let _ = answer.send(measured);
        });
        answered.recv().context("nothing was measured")?
    }

    async fn run(self, program: Vec<OsString>, folder: &Path) -> Result<Vec<u64>> {
        let store = Store::create(folder.join("store"));
        let artifact = store.add("guest", &TinyGuest::last_words("up"), &json!({}));
        let config = VmManagerConfig {
            vm_artifacts_dir: folder.join("state").join("vms"),
            vm_subnet_base: "10.77.0.0/16".to_owned(),
            store_roots: vec![store.root().to_owned()],
            stop_timeout: Duration::ZERO,
            memory_overcommit: MemoryOvercommit::Unlimited,
            vcpus_per_processor: u32::MAX,
            placement: Placement::HostProcesses(HostProcessSettings {
                program,
                directory: folder.join("hosts"),
                vms_per_process: self.each,
                spare: AT_ONCE,
                jail: None,
            }),
            ..VmManagerConfig::default()
        };
        let begun = Instant::now();
        let manager = VmManager::new_async(config.clone()).await?;
        self.create(&manager, &artifact).await?;
        let created = begun.elapsed();
        manager.leave_async().await?;
        drop(manager);
        sleep(SETTLING).await;

        let begun = Instant::now();
        let manager = Arc::new(VmManager::new_async(config).await?);
        while !self.are_running(&manager) {
            ensure!(begun.elapsed() < PATIENCE, "not all VMs were taken over");
            sleep(Duration::from_millis(1)).await;
        }
        let adopted = begun.elapsed();

        sleep(SETTLING).await;
        let unsampled = self.idle().await?;
        let polling = manager.start_metrics_polling();
        sleep(SETTLING).await;
        let idled = self.idle().await?;
        let answers = answering::measure(&manager, folder).await?;
        drop(polling);
        manager.shutdown_async().await?;
        let mut measured = vec![nanoseconds(created), nanoseconds(adopted), idled, unsampled];
        measured.extend(answers);
        Ok(measured)
    }

    async fn create(self, manager: &VmManager, artifact: &Artifact) -> Result<()> {
        let creations = (0..self.vms).map(|number| {
            let id = VmId::new(&format!("vm-{number}"));
            manager.create_vm_async(id, &artifact.hash, &artifact.path)
        });
        let mut creations = futures_util::stream::iter(creations).buffer_unordered(AT_ONCE);
        while let Some(created) = creations.next().await {
            created?;
        }
        Ok(())
    }

    /// How long everything runs on a processor while nothing is asked for.
    async fn idle(self) -> Result<u64> {
        let before = processor_time()?;
        sleep(self.idle).await;
        Ok(processor_time()?.saturating_sub(before))
    }

    fn are_running(self, manager: &VmManager) -> bool {
        let running = |status: &VmStatus| matches!(status, VmStatus::Running);
        manager.list_vms().iter().filter(|vm| running(&vm.status)).count() == self.vms
    }
}

/// How long this program and all processes that it started have run on a processor.
fn processor_time() -> Result<u64> {
    let mut total = children::processor_time(std::process::id())?;
    for child in children::all()? {
        total = total.saturating_add(children::processor_time(child)?);
    }
    Ok(total)
}
