//! The host believes nothing that VMs say about routers: no router advertisements, no addresses of its own by
//! advertised prefixes, no redirects, and no IPv6 at all on the bridge and its TAPs. The VMs' network has IPv4 only as
//! far as the host goes; what VMs say to each other in IPv6 passes the bridge as before.

use tracing::debug;

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
    for (switch, value) in SILENT {
        let applies = match switch {
            Switch::AcceptRedirects | Switch::AcceptIpv6Redirects => true,
            Switch::Forwarding
            | Switch::RouteLocalnet
            | Switch::DisableIpv6
            | Switch::AcceptRouterAdvertisements
            | Switch::Autoconfiguration => ipv6 == HostIpv6::Off,
        };
        if applies {
            changed.set(index, name, switch, value)?;
        }
    }
    Ok(())
}

/// Sets a TAP of ours so, while it is still down. It goes with its VM, so nothing is noted. Frames of a port go to the
/// bridge, never to the port's own protocols: this is for the moment in which somebody takes it out. Blocks.
pub(crate) fn silence_tap(name: &str) {
    for (switch, value) in SILENT {
        if let Err(error) = write_switch_of(switch, name, value) {
            debug!(tap = name, %error, "a switch of a TAP is not set");
        }
    }
}
