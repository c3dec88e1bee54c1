//! The kernel switches that let packets pass between the bridge and the rest of the world.
//!
//! Forwarding is needed on the link a packet comes in by. For what VMs send that is the bridge; for the answers it
//! is whatever link leads out, which only the host-wide switch covers. That one is turned on when it is off and
//! never off again: others may have come to rely on it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::{Egress, LinkName};

/// Where the IPv4 switches are. The path is of the network namespace of the thread that opens it.
const IPV4_SWITCHES: &str = "/proc/sys/net/ipv4";
/// Whether bridged frames are put through the IP filter (module `br_netfilter`).
const BRIDGE_FILTER_SWITCH: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Why a switch could not be set.
#[derive(Debug, Error)]
#[error("cannot {operation} {}", path.display())]
pub struct ForwardingError {
    operation: String,
    path: PathBuf,
    #[source]
    cause: io::Error,
}

/// What was done to the host-wide switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostForwarding {
    /// It is not needed, or it was on.
    Unchanged,
    /// It was off and is on now.
    TurnedOn,
}

/// Sets the bridge's own switch, and the host-wide one when VMs reach beyond the host. Blocks.
///
/// # Errors
/// If a switch cannot be read or written.
pub(crate) fn ensure_forwarding(
    bridge: &LinkName,
    egress: Egress,
) -> Result<HostForwarding, ForwardingError> {
    let host = Path::new(IPV4_SWITCHES).join("ip_forward");
    let own = Path::new(IPV4_SWITCHES).join("conf").join(bridge.as_str()).join("forwarding");
    match egress {
        Egress::Isolated => {
            ensure_switch(&own, "0")?;
            Ok(HostForwarding::Unchanged)
        }
        Egress::Masquerade | Egress::Routed => {
            // First the host's: turning it on sets every link's.
            let changed = ensure_switch(&host, "1")?;
            ensure_switch(&own, "1")?;
            Ok(if changed { HostForwarding::TurnedOn } else { HostForwarding::Unchanged })
        }
    }
}

/// Whether frames between two ports of one bridge meet the IP filter's rules.
pub(crate) fn bridged_frames_are_filtered() -> bool {
    fs::read_to_string(BRIDGE_FILTER_SWITCH).is_ok_and(|text| text.trim() == "1")
}

/// Whether the kernel has IPv6 at all.
pub(crate) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Whether the switch had to be changed.
fn ensure_switch(path: &Path, wanted: &str) -> Result<bool, ForwardingError> {
    let failed = |operation: String| move |cause| ForwardingError { operation, path: path.to_owned(), cause };
    let seen = fs::read_to_string(path).map_err(failed("read".to_owned()))?;
    if seen.trim() == wanted {
        return Ok(false);
    }
    fs::write(path, wanted).map_err(failed(format!("write {wanted} to")))?;
    Ok(true)
}
