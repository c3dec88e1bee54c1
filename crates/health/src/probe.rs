//! One run of a probe that asks the guest: a connection, and for some what is said over it. Bounded in time, memory and
//! descriptors, whatever the guest answers.

mod http;
mod tcp;
mod vsock;

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::timeout;
use vm_model::ProbeCheck;

use crate::finding::ProbeFailure;
use crate::targets::ProbeTargets;

/// Asks the guest, for no longer than `within`. Checks that the guest reports by itself are none that can be asked for.
pub(crate) async fn ask(
    check: &ProbeCheck,
    targets: &ProbeTargets,
    within: Duration,
) -> Result<(), ProbeFailure> {
    let asking = async {
        match check {
            ProbeCheck::Tcp { port } => tcp::connect(address(targets)?, *port).await.map(drop),
            ProbeCheck::Http(check) => http::get(address(targets)?, check).await,
            ProbeCheck::Vsock { port } => {
                let directory = targets.vsock.as_ref().ok_or(ProbeFailure::NoTarget("socket device"))?;
                vsock::connect(directory, *port).await
            }
            ProbeCheck::Console { .. } | ProbeCheck::Systemd { .. } => {
                Err(ProbeFailure::NoTarget("way to be asked this"))
            }
        }
    };
    timeout(within, asking).await.map_err(|_elapsed| ProbeFailure::Timeout(within))?
}

fn address(targets: &ProbeTargets) -> Result<Ipv4Addr, ProbeFailure> {
    targets.address.ok_or(ProbeFailure::NoTarget("address"))
}
