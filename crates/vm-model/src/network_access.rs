//! What reaches a VM from beyond its network: ports of the host that lead to it.

use std::fmt;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most ports of the host that may lead to one VM.
pub const PORT_FORWARDS_MAX: usize = 64;

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Its name in rules and settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Transport {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(()),
        }
    }
}

/// A port of the host that leads to a port of a VM. As text: `8080:80`, `127.0.0.1:5353:53/udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortForward {
    /// The protocol.
    pub transport: Transport,
    /// The host's address that it is on; `None` is each of them.
    pub address: Option<Ipv4Addr>,
    /// The host's port.
    pub host_port: NonZeroU16,
    /// The guest's port.
    pub guest_port: NonZeroU16,
}

/// Why a text is no [`PortForward`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} forwards no port: {} is accepted", PortForward::ACCEPTED)]
pub struct InvalidPortForward {
    text: String,
}

impl PortForward {
    /// What is accepted, in words.
    pub const ACCEPTED: &str =
        "[HOST ADDRESS:]HOST PORT:GUEST PORT[/tcp or /udp], like \"8080:80\" or \"127.0.0.1:5353:53/udp\"";

    /// Whether both are on the same port of the host.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let share_an_address = match (self.address, other.address) {
            (Some(own), Some(its)) => own == its,
            (None, _) | (_, None) => true,
        };
        self.transport == other.transport && self.host_port == other.host_port && share_an_address
    }
}

impl FromStr for PortForward {
    type Err = InvalidPortForward;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPortForward { text: text.chars().take(80).collect() };
        let (ports, transport) = match text.split_once('/') {
            Some((ports, transport)) => (ports, transport.parse().map_err(|()| invalid())?),
            None => (text, Transport::Tcp),
        };
        let (host, guest_port) = ports.rsplit_once(':').ok_or_else(invalid)?;
        let (address, host_port) = match host.rsplit_once(':') {
            Some((address, port)) => (Some(address.parse::<Ipv4Addr>().map_err(|_| invalid())?), port),
            None => (None, host),
        };
        if address.is_some_and(|address| address.is_multicast() || address.is_broadcast()) {
            return Err(invalid());
        }
        Ok(Self {
            transport,
            address: address.filter(|address| !address.is_unspecified()),
            host_port: port(host_port).ok_or_else(invalid)?,
            guest_port: port(guest_port).ok_or_else(invalid)?,
        })
    }
}

/// A port in digits alone.
fn port(text: &str) -> Option<NonZeroU16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl TryFrom<String> for PortForward {
    type Error = InvalidPortForward;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PortForward> for String {
    fn from(forward: PortForward) -> Self {
        forward.to_string()
    }
}

impl fmt::Display for PortForward {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transport, address, host_port, guest_port } = self;
        if let Some(address) = address {
            write!(formatter, "{address}:")?;
        }
        write!(formatter, "{host_port}:{guest_port}/{transport}")
    }
}

/// What passes between a VM and what lies beyond its network, as far as its definition says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NetworkAccess {
    /// Ports of the host that lead to it; no two on the same one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<PortForward>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_and_written() {
        for (text, written) in [
            ("8080:80", "8080:80/tcp"),
            ("0.0.0.0:8080:80/tcp", "8080:80/tcp"),
            ("127.0.0.1:5353:53/udp", "127.0.0.1:5353:53/udp"),
        ] {
            let forward: PortForward = text.parse().expect("accepted");
            assert_eq!(forward.to_string(), written);
            assert_eq!(written.parse(), Ok(forward));
        }
        for text in [
            "",
            "80",
            "0:80",
            "80:0",
            "80:65536",
            "a:80:80",
            "80:80/sctp",
            "+80:80",
            "224.0.0.1:80:80",
            "80:80/tcp/udp",
            "::1:80:80",
        ] {
            assert!(text.parse::<PortForward>().is_err(), "{text:?} must be refused");
        }
    }

    #[test]
    fn one_port_of_the_host_leads_to_one_place() {
        let forward = |text: &str| text.parse::<PortForward>().expect("accepted");
        for (one, other, conflicts) in [
            ("80:80", "80:81", true),
            ("80:80", "127.0.0.1:80:80", true),
            ("127.0.0.1:80:80", "127.0.0.2:80:80", false),
            ("80:80", "80:80/udp", false),
            ("80:80", "81:80", false),
        ] {
            assert_eq!(forward(one).conflicts_with(&forward(other)), conflicts, "{one} {other}");
            assert_eq!(forward(other).conflicts_with(&forward(one)), conflicts, "{other} {one}");
        }
    }
}
