//! What changed definitions make of their VMs: reads artifacts, verifies and copies nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use vm_model::{Assignment, VmId};

use super::{Described, NewDescription};
use crate::definition::Description;
use crate::failure::chain;
use crate::supervisor::{GivenUp, HostContext, LookedAt, look_ahead, volume_requests};
use crate::volumes::{Preview, Thoroughness, VolumeError};

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
    let looked_at = look_ahead(context, assignment).map_err(|reason| reason.message)?;
    let LookedAt { artifact, description } = looked_at;
    let given_up = GivenUp::default();
    let grace = context.lifecycle.removal_grace;
    let previews = volume_requests(&artifact).map(|(_, request)| {
        let preview = context.preview_volume(&assignment.id, request, thoroughness, &given_up)?;
        match preview.obstacle {
            Some(obstacle) => Err(obstacle),
            None => Ok((request.disk.to_owned(), preview)),
        }
    });
    let previews: Result<Vec<(String, Preview)>, VolumeError> = previews.collect();
    let mut previews = previews.map_err(|problem| chain(&problem))?;
    let wanted = description.writable_disks();
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let left_out = context.volumes.preview_left_out(&assignment.id, &wanted, grace);
    previews.extend(left_out.map_err(|problem| chain(&problem))?);
    Ok(in_one(description, previews))
}

/// What a definition makes of its VM, whose disks have these `previews`.
fn in_one(description: Arc<Description>, previews: Vec<(String, Preview)>) -> NewDescription {
    let loses = previews.iter().filter(|(_, preview)| preview.loses_data).map(|(disk, _)| disk.clone());
    let loses = loses.collect();
    let shrinks = previews.iter().find_map(|(_, preview)| preview.shrinks.as_ref().map(|found| chain(found)));
    let notes: Vec<String> = previews.into_iter().filter_map(|(_, preview)| preview.note).collect();
    let disks = if notes.is_empty() { "disks kept".to_owned() } else { notes.join(", ") };
    NewDescription { description, disks, loses, shrinks }
}
