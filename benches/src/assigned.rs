//! Very many VMs by one desired state, as a file or a master gives it to a whole worker: in host processes of one VM each, with
//! networks, records and volumes, in a network of their own.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;
use test_host::{Artifact, Store};
use tiny_guest::TinyGuest;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use vm_model::{Assignment, AssignmentSet, Source, VmId};
use worker::node::{NodeMessage, Reconciler, Verdict};
use worker::vms::{
    HostProcessSettings, MemoryOvercommit, Placement, VmInfo, VmManager, VmManagerConfig, VmStatus,
};

use crate::machines::nanoseconds;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it is looked whether all VMs are where they should be. A look at a thousand takes milliseconds of the worker's
/// own thread; what is waited for takes seconds.
const LOOK: Duration = Duration::from_millis(100);
/// Host processes that are kept ahead: the worker's default.
const SPARE: usize = 2;

/// A worker at work, and how to tell it something.
struct Node {
    manager: Arc<VmManager>,
    messages: mpsc::Sender<NodeMessage>,
}

/// Assigns `vms` VMs at once, assigns the same again, and takes all away. Answers, in nanoseconds, how long the plan took, how
/// long the state took to be kept on disk and ordered, how long it took from then until all ran, how long the same state
/// took that changes nothing, how long it took to order the removal of all, and how long from then until all were gone.
pub(crate) fn measure(vms: usize, program: Vec<OsString>, folder: &Path) -> Result<Vec<u64>> {
    let folder = folder.join(format!("assigned-{vms}"));
    std::fs::create_dir(&folder).context("cannot make a folder")?;
    let (answer, answered) = channel();
    // The threads and processes of a manager have the network of the thread that makes it.
    test_host::isolated(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let measured = runtime
            .context("cannot start a runtime")
            .and_then(|runtime| runtime.block_on(run(vms, program, &folder)));
        let _ = answer.send(measured);
    });
    answered.recv().context("nothing was measured")?
}

async fn run(vms: usize, program: Vec<OsString>, folder: &Path) -> Result<Vec<u64>> {
    let store = Store::create(folder.join("store"));
    let artifact = store.add("guest", &TinyGuest::last_words("up"), &json!({}));
    let config = VmManagerConfig {
        vm_artifacts_dir: folder.join("state").join("vms"),
        vm_subnet_base: "10.77.0.0/16".to_owned(),
        store_roots: vec![store.root().to_owned()],
        stop_timeout: Duration::ZERO,
        removal_grace: Duration::ZERO,
        memory_overcommit: MemoryOvercommit::Unlimited,
        vcpus_per_processor: u32::MAX,
        placement: Placement::HostProcesses(HostProcessSettings {
            program,
            directory: folder.join("hosts"),
            vms_per_process: NonZeroUsize::MIN,
            spare: SPARE,
            jail: None,
        }),
        ..VmManagerConfig::default()
    };
    let manager = Arc::new(VmManager::new_async(config).await?);
    let (messages, channel) = mpsc::channel(1);
    let reconciler = tokio::spawn(Reconciler::new(Arc::clone(&manager), [].into()).run(channel));
    let node = Node { manager: Arc::clone(&manager), messages };
    let times = node.measure(vms, &artifact).await;
    drop(node);
    reconciler.await.context("the reconciler was lost")?;
    manager.shutdown_async().await?;
    times
}

impl Node {
    async fn measure(&self, vms: usize, artifact: &Artifact) -> Result<Vec<u64>> {
        let assignment = |number: usize| {
            Assignment::new(VmId::new(&format!("vm-{number}")), artifact.hash.clone(), artifact.path.clone())
        };
        let all = AssignmentSet { vms: (0..vms).map(assignment).collect(), ..AssignmentSet::default() };
        let none = AssignmentSet { allow_removals: true, ..AssignmentSet::default() };

        let begun = Instant::now();
        self.plan(&all, vms).await?;
        let planned = begun.elapsed();
        let ordered = self.assign(&all, vms).await?;
        let running = self
            .until("running", |list| {
                list.iter().filter(|vm| matches!(vm.status, VmStatus::Running)).count() == vms
            })
            .await?;
        let failures: u64 = self.manager.list_vms().iter().map(|vm| vm.failures).sum();
        ensure!(failures == 0, "{failures} starts failed");
        let unchanged = self.assign(&all, 0).await?;
        let removal_ordered = self.assign(&none, vms).await?;
        let gone = self.until("gone", <[VmInfo]>::is_empty).await?;
        let times = [planned, ordered, running, unchanged, removal_ordered, gone];
        Ok(times.into_iter().map(nanoseconds).collect())
    }

    /// Has it planned what `desired` would change.
    async fn plan(&self, desired: &AssignmentSet, changes: usize) -> Result<()> {
        let (answer, preview) = oneshot::channel();
        let message = NodeMessage::Plan { source: Source::File, desired: desired.clone(), answer };
        self.messages.send(message).await.map_err(|_| anyhow!("the node has ended"))?;
        let found = preview.await.context("the node has ended")??.actions.len();
        ensure!(found == changes, "{found} changes are planned in place of {changes}");
        Ok(())
    }

    /// Assigns, and answers how long that took.
    async fn assign(&self, desired: &AssignmentSet, changes: usize) -> Result<Duration> {
        let (answer, verdict) = oneshot::channel();
        let message =
            NodeMessage::Assignment { source: Source::File, desired: desired.clone(), answer: Some(answer) };
        let begun = Instant::now();
        self.messages.send(message).await.map_err(|_| anyhow!("the node has ended"))?;
        let Verdict { held, outcomes, .. } = verdict.await.context("the node has ended")??;
        let took = begun.elapsed();
        let done = outcomes.iter().filter(|outcome| outcome.problem.is_none()).count();
        ensure!(held.is_none() && done == changes, "{done} changes are ordered in place of {changes}");
        Ok(took)
    }

    /// Waits until all VMs are as `are_there` wants, and answers how long that took.
    async fn until(&self, what: &str, are_there: impl Fn(&[VmInfo]) -> bool) -> Result<Duration> {
        let begun = Instant::now();
        while !are_there(&self.manager.list_vms()) {
            ensure!(begun.elapsed() < PATIENCE, "not all VMs are {what} after {PATIENCE:?}");
            sleep(LOOK).await;
        }
        Ok(begun.elapsed())
    }
}
