//! The end of a host process, asked for or due.

use std::time::Duration;

use machine_host::StopPolicy;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::hosted::Hosted;

/// How long machines that were killed may take to give back what they held. The kernel gives it back with the process
/// where they do not, as late as it must.
const RELEASE_PATIENCE: Duration = Duration::from_secs(10);

/// Ends all machines: their guests have `patience` to power themselves off. Returns when the process may exit.
pub(super) async fn end(host: &Hosted, patience: Duration) {
    // From here on nobody is to find this process.
    if let Some(place) = host.take_place() {
        place.remove();
    }
    host.end(patience);
    if !patience.is_zero() {
        let policy = StopPolicy { power_button: patience, ..StopPolicy::KILL };
        let mut stops = JoinSet::new();
        for machine in host.launched() {
            stops.spawn_local(async move {
                if let Err(error) = machine.stop(policy).await {
                    tracing::error!(%error, "a machine outlives its process' end");
                }
            });
        }
        while stops.join_next().await.is_some() {}
    }
    let report = host.machines.shut_down(RELEASE_PATIENCE).await;
    for vm in &report.remaining {
        tracing::error!(vm_id = %vm, "a machine is not released; the kernel ends it with this process");
    }
    if report.remaining.is_empty() && timeout(RELEASE_PATIENCE, host.all_released()).await.is_err() {
        tracing::error!("workers were not told of every machine's end");
    }
}
