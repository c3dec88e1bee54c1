//! Events of the link to a master: that it was made, that it was lost.

use master_protocol::drivers::LinkStatus;
use tokio::sync::watch;
use vm_model::EventKind;

use crate::vms::VmManager;

/// Records what becomes of the link until it has ended.
pub(super) async fn note(mut status: watch::Receiver<LinkStatus>, vm_manager: &VmManager) {
    let mut was_connected = None;
    loop {
        let event = event(&status.borrow_and_update(), &mut was_connected);
        if let Some(event) = event {
            vm_manager.events().record(None, event);
        }
        if status.changed().await.is_err() {
            // The link has ended, which is for the others to see.
            return std::future::pending().await;
        }
    }
}

/// What happened, now that the link is as `status` says. A master that does not answer is told of once, however often it is
/// dialled again.
fn event(status: &LinkStatus, was_connected: &mut Option<bool>) -> Option<EventKind> {
    match status {
        LinkStatus::Connecting | LinkStatus::Ended => None,
        LinkStatus::Connected { lineage, address, .. } => {
            let event = EventKind::MasterConnected {
                master: lineage.master().to_owned(),
                address: address.to_string(),
            };
            (was_connected.replace(true) != Some(true)).then_some(event)
        }
        LinkStatus::Waiting { problem, .. } => (was_connected.replace(false) != Some(false))
            .then(|| EventKind::MasterLost { problem: problem.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use vm_model::{Lineage, Timestamp};

    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let mut was_connected = None;
        let mut name = |status: &LinkStatus| event(status, &mut was_connected).map(|event| event.name());
        let waiting = LinkStatus::Waiting { until: Timestamp::from_millis(1), problem: "refused".to_owned() };
        let connected = LinkStatus::Connected {
            lineage: Lineage::new("m", "1").expect("fine"),
            address: ([127, 0, 0, 1], 7).into(),
            since: Timestamp::from_millis(2),
        };
        let statuses =
            [&LinkStatus::Connecting, &waiting, &LinkStatus::Connecting, &waiting, &connected, &waiting];
        let told: Vec<_> = statuses.into_iter().filter_map(&mut name).collect();
        assert_eq!(told, ["master_lost", "master_connected", "master_lost"]);
    }
}
