//! What changed definitions make of their VMs: reads artifacts, verifies and copies nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;
use vm_model::{Assignment, VmId};

use super::{Described, NewDescription};
use crate::definition::Description;
use crate::failure::chain;
use crate::supervisor::{GivenUp, HostContext, load, volume_requests};
use crate::volumes::Thoroughness;

/// Artifacts on a disk or network that does not answer keep nobody waiting for longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Comparing images is worth some waiting where somebody asked for it.
const LONG_PATIENCE: Duration = Duration::from_secs(600);

/// Describes `assignments`, side by side. One whose artifact does not answer in time is left out.
pub(crate) async fn describe(
    context: Arc<HostContext>,
    assignments: Vec<Assignment>,
    thoroughness: Thoroughness,
) -> Described {
    let mut describing: JoinSet<Option<(VmId, Result<NewDescription, String>)>> = JoinSet::new();
    let patience = match thoroughness {
        Thoroughness::Quick => PATIENCE,
        Thoroughness::CompareImages => LONG_PATIENCE,
    };
    for assignment in assignments {
        let context = Arc::clone(&context);
        describing.spawn(async move {
            let id = assignment.id.clone();
            let host = Arc::clone(&context);
            let reading = move || describe_one(&host, &assignment, thoroughness);
            let described =
                timeout(patience, context.own_threads.run(id.as_str(), "look", reading)).await.ok()?;
            Some((id, described.unwrap_or_else(|problem| Err(problem.message))))
        });
    }
    describing.join_all().await.into_iter().flatten().collect()
}

fn describe_one(
    context: &HostContext,
    assignment: &Assignment,
    thoroughness: Thoroughness,
) -> Result<NewDescription, String> {
    let artifact = load(context, assignment, Uuid::nil()).map_err(|reason| reason.message)?;
    let description = Arc::new(Description::of(assignment, &artifact));
    let given_up = GivenUp::default();
    let grace = context.lifecycle.removal_grace;
    let notes = volume_requests(&artifact).filter_map(|(_, request)| {
        context.volumes.preview(&assignment.id, request, thoroughness, grace, &given_up).transpose()
    });
    let notes: Vec<String> = notes.collect::<Result<_, _>>().map_err(|problem| chain(&problem))?;
    let disks = if notes.is_empty() { "disks kept".to_owned() } else { notes.join(", ") };
    Ok(NewDescription { description, disks })
}
