//! Publishing what is known, when it has changed.

use tokio::sync::watch;
use vm_model::{Health, Timestamp};

use super::boot::Boot;
use crate::state::HealthState;

/// Publishes what `state` and `boot` say, if that differs from what was published last.
pub(super) fn publish(health: &watch::Sender<Health>, state: &HealthState, boot: &Boot) {
    let (ready, reason) = state.readiness();
    let systemd = boot.systemd().cloned();
    health.send_if_modified(|published| {
        let since = if published.ready == ready { published.since } else { Timestamp::now() };
        let next = Health {
            boot: boot.number(),
            ready,
            since,
            reason,
            dead: state.dead().map(str::to_owned),
            status_text: systemd.as_ref().and_then(|report| report.status.clone()),
            systemd,
            probes: state.probes(),
        };
        let is_new = *published != next;
        *published = next;
        is_new
    });
}
