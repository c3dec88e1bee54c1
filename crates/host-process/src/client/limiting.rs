//! Limiting a process from a task: control groups are files, which block for moments.

use std::sync::Arc;

use machine_host::{Enforcement, LaunchError, MachineLimits};
use vm_model::VmId;

use super::confinement::Confinement;

/// Puts `limits` on a process. Answers what could not be done, in words.
pub(super) async fn limit(confinement: &Arc<Confinement>, limits: MachineLimits) -> Vec<String> {
    let confinement = Arc::clone(confinement);
    let limiting = tokio::task::spawn_blocking(move || confinement.limit(&limits));
    limiting.await.unwrap_or_else(|lost| vec![lost.to_string()])
}

/// Limits the process that is to run the machine of `vm`, before it is told to.
///
/// # Errors
/// A limit that has to be in force is not.
pub(super) async fn limit_before_launch(
    confinement: &Arc<Confinement>,
    vm: &VmId,
    limits: MachineLimits,
) -> Result<(), LaunchError> {
    if limits.values.is_empty() {
        return Ok(());
    }
    let enforcement = limits.enforcement;
    let problems = limit(confinement, limits).await.join("; ");
    match enforcement {
        _ if problems.is_empty() => Ok(()),
        Enforcement::BestEffort => {
            tracing::warn!(vm_id = %vm, problems, "not every limit of the VM is in force");
            Ok(())
        }
        Enforcement::Required => {
            let problem = format!("its limits cannot be enforced, and are required to be: {problems}");
            Err(LaunchError::Host { vm: vm.clone(), problem })
        }
    }
}
