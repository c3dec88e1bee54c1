//! The host believes nothing that VMs say about routers: no router advertisements, no addresses of its own by
//! advertised prefixes, no redirects, and no IPv6 at all on TAPs and uplinks. On the bridge it speaks IPv6 only where the VMs' network
//! has addresses of it; what VMs say to each other in IPv6 passes the bridge either way.

use tracing::debug;
use vm_model::Ipv6Subnet;

use crate::changed_settings::{ChangedSettings, SettingsError, Switch, write_switch_of};

/// What each link of ours is set to.
const SILENT: [(Switch, &str); 5] = [
    (Switch::AcceptRedirects, "0"),
    (Switch::AcceptRouterAdvertisements, "0"),
    (Switch::Autoconfiguration, "0"),
    (Switch::AcceptIpv6Redirects, "0"),
    (Switch::DisableIpv6, "1"),
];

/// Whether the host speaks IPv6 on the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostIpv6 {
    /// It does not.
    Off,
    /// It does, by an address that the bridge had before us.
    Kept,
    /// It does, as the router of this network, whose addresses guests have.
    Served(Ipv6Subnet),
}

impl HostIpv6 {
    /// The network whose addresses guests have.
    pub(crate) fn served(self) -> Option<Ipv6Subnet> {
        match self {
            Self::Off | Self::Kept => None,
            Self::Served(subnet) => Some(subnet),
        }
    }
}

/// Sets the bridge so. What it had before is noted. Blocks.
///
/// # Errors
/// If a switch cannot be set.
pub(crate) fn silence_bridge(
    index: u32,
    name: &str,
    ipv6: HostIpv6,
    changed: &mut ChangedSettings,
) -> Result<(), SettingsError> {
    for (switch, silent) in SILENT {
        let value = match (switch, ipv6) {
            (Switch::AcceptRedirects | Switch::AcceptIpv6Redirects, _) => Some(silent),
            (Switch::DisableIpv6, HostIpv6::Served(_)) => Some("0"),
            (_, HostIpv6::Off | HostIpv6::Served(_)) => Some(silent),
            (_, HostIpv6::Kept) => None,
        };
        if let Some(value) = value {
            changed.set(index, name, switch, value)?;
        }
    }
    if ipv6.served().is_some() {
        // Guests are bound to addresses that are not the host's, so nobody else can have them.
        changed.set(index, name, Switch::DuplicateDetection, "0")?;
    }
    Ok(())
}

/// Sets an interface of the host so that is an uplink. What it had before is noted. Blocks.
///
/// # Errors
/// If a switch cannot be set.
pub(crate) fn silence_link(
    index: u32,
    name: &str,
    changed: &mut ChangedSettings,
) -> Result<(), SettingsError> {
    for (switch, value) in SILENT {
        changed.set(index, name, switch, value)?;
    }
    Ok(())
}

/// Whether [`silence_link`] sets it.
pub(crate) fn is_silenced(switch: Switch) -> bool {
    SILENT.iter().any(|(silent, _)| *silent == switch)
}

/// Sets a link of ours so, a TAP while it is still down. It goes with its VM or its network, so nothing is noted. Frames of a port go to the
/// bridge, never to the port's own protocols: this is for the moment in which somebody takes it out. Blocks.
pub(crate) fn silence_own_link(name: &str) {
    for (switch, value) in SILENT {
        if let Err(error) = write_switch_of(switch, name, value) {
            debug!(link = name, %error, "a switch of a link of ours is not set");
        }
    }
}
