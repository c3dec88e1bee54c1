//! One netlink connection, and the few requests that this crate makes over it.
//!
//! The rtnetlink crates' types stay in here, because their interfaces move; the rest of the crate sees [`Link`],
//! [`Ipv4Assignment`] and [`Ipv4Route`]. Every request has a deadline.

mod observed;
mod uplink;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::Duration;

use futures_util::TryStreamExt;
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, LinkAttribute, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::RouteMessage;
use rtnetlink::{AddressMessageBuilder, LinkBridge, LinkBridgePort, LinkUnspec, RouteMessageBuilder};
use thiserror::Error;
use tracing::warn;
use vm_model::MacAddress;

#[cfg(test)]
pub(crate) use self::observed::BridgeSettings;
pub(crate) use self::observed::{Ipv4Assignment, Ipv4Route, Ipv6Assignment, Link, PortSettings, StaticEntry};
use self::observed::{assignment_from, ipv6_assignment_from, link_from, route_from, static_entry_from};
use crate::{BetweenVms, LinkName};

/// How long the kernel may take for one request. It answers in microseconds unless its network lock is held.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Why a netlink request failed.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel said no.
    #[error("the kernel refused to {operation}")]
    Refused {
        /// What was asked for.
        operation: String,
        /// Its reason.
        #[source]
        cause: io::Error,
    },
    /// The exchange itself broke.
    #[error("the netlink exchange to {operation} broke")]
    Broken {
        /// What was asked for.
        operation: String,
        /// How.
        #[source]
        cause: Box<rtnetlink::Error>,
    },
    /// No answer in time.
    #[error("the kernel did not answer within {} s when asked to {operation}", ANSWER_DEADLINE.as_secs())]
    Deadline {
        /// What was asked for.
        operation: String,
    },
}

impl NetlinkError {
    /// The error number, if the kernel gave one.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { cause, .. } | Self::Open(cause) => cause.raw_os_error(),
            Self::Broken { .. } | Self::Deadline { .. } => None,
        }
    }

    fn from_rtnetlink(operation: String, error: rtnetlink::Error) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(message) => Self::Refused { operation, cause: message.to_io() },
            other => Self::Broken { operation, cause: Box::new(other) },
        }
    }
}

/// A connection to the kernel's routing tables in the network namespace of the thread that opened it.
///
/// The kernel works a request off inside the call that sends it: deleting a link takes it some 16 ms. So the
/// connection has a thread of its own, on which nothing else waits. It ends once this value is gone.
#[derive(Debug)]
pub(crate) struct Netlink {
    handle: rtnetlink::Handle,
    driver: thread::JoinHandle<()>,
}

impl Netlink {
    /// Opens the connection and starts its thread.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(NetlinkError::Open)?;
        let (connection, handle, _) = {
            // The socket registers with the runtime that it will be driven by.
            let _entered = runtime.enter();
            rtnetlink::new_connection().map_err(NetlinkError::Open)?
        };
        let driver = thread::Builder::new()
            .name("netlink".to_owned())
            .spawn(move || runtime.block_on(connection))
            .map_err(NetlinkError::Open)?;
        Ok(Self { handle, driver })
    }

    /// Closes the connection and waits for the end of its thread.
    pub(crate) async fn close(self) {
        let Self { handle, driver } = self;
        drop(handle);
        let joined = tokio::task::spawn_blocking(move || driver.join());
        match tokio::time::timeout(ANSWER_DEADLINE, joined).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(_)) | Err(_)) => warn!("the netlink thread had failed"),
            Err(_elapsed) => warn!("the netlink thread did not end in time"),
        }
    }

    pub(crate) async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let dump = self.handle.link().get().execute().try_collect();
        let messages: Vec<LinkMessage> = call("list links", dump).await?;
        Ok(messages.into_iter().map(link_from).collect())
    }

    pub(crate) async fn ipv4_addresses(&self) -> Result<Vec<Ipv4Assignment>, NetlinkError> {
        let dump = self.handle.address().get().execute().try_collect();
        let messages: Vec<AddressMessage> = call("list addresses", dump).await?;
        Ok(messages.into_iter().filter_map(|message| assignment_from(&message)).collect())
    }

    pub(crate) async fn ipv6_addresses(&self) -> Result<Vec<Ipv6Assignment>, NetlinkError> {
        let dump = self.handle.address().get().execute().try_collect();
        let messages: Vec<AddressMessage> = call("list addresses", dump).await?;
        Ok(messages.iter().filter_map(ipv6_assignment_from).collect())
    }

    /// Unicast routes of every table but the kernel's own.
    pub(crate) async fn ipv4_routes(&self) -> Result<Vec<Ipv4Route>, NetlinkError> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let dump = self.handle.route().get(request).execute().try_collect();
        let messages: Vec<RouteMessage> = call("list routes", dump).await?;
        Ok(messages.iter().filter_map(route_from).collect())
    }

    /// The static entries of all bridges.
    pub(crate) async fn static_entries(&self) -> Result<Vec<StaticEntry>, NetlinkError> {
        let request = self.handle.neighbours().get().set_address_family(AddressFamily::Bridge);
        let messages: Vec<NeighbourMessage> =
            call("list the entries of bridges", request.execute().try_collect()).await?;
        Ok(messages.iter().filter_map(static_entry_from).collect())
    }

    /// Creates the bridge `name`, down, without spanning tree and snooping; a port forwards at once, and multicasts reach
    /// all of them.
    pub(crate) async fn create_bridge(&self, name: &LinkName, mac: MacAddress) -> Result<(), NetlinkError> {
        let message = LinkBridge::new(name.as_str())
            .down()
            .address(mac.octets().to_vec())
            .forward_delay(0)
            .stp_state(BridgeStpState::Disabled)
            .mcast_snooping(false)
            .build();
        let request = self.handle.link().add(message).execute();
        call(format!("create the bridge {name}"), request).await
    }

    /// Marks the link, gives it an MTU and brings it up.
    pub(crate) async fn configure_bridge(
        &self,
        name: &LinkName,
        alias: &str,
        mtu: u16,
    ) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_name(name.as_str())
            .mtu(u32::from(mtu))
            .append_extra_attribute(LinkAttribute::IfAlias(alias.to_owned()))
            .up()
            .build();
        let request = self.handle.link().change(message).execute();
        call(format!("set up the bridge {name}"), request).await
    }

    /// Gives the bridge `name` one other setting.
    pub(crate) async fn change_bridge(
        &self,
        name: &LinkName,
        setting: BridgeSetting,
    ) -> Result<(), NetlinkError> {
        let builder = LinkBridge::new(name.as_str());
        let message = match setting {
            BridgeSetting::NoSpanningTree => builder.stp_state(BridgeStpState::Disabled),
            BridgeSetting::ForwardDelay(delay) => builder.forward_delay(delay),
            BridgeSetting::AgeingTime(time) => builder.ageing_time(time),
            BridgeSetting::NoVlanFiltering => builder.vlan_filtering(false),
            BridgeSetting::GroupForwardMask(mask) => builder.group_fwd_mask(mask),
            BridgeSetting::NoMulticastSnooping => builder.mcast_snooping(false),
        };
        // Only the settings in the message change; whether the link is up is none of them.
        let request = self.handle.link().change(message.build()).execute();
        call(format!("change a setting of the bridge {name}"), request).await
    }

    pub(crate) async fn set_up(&self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        let request = self.handle.link().change(message).execute();
        call(format!("bring the link {name} up"), request).await
    }

    /// Calls the link `name` again. Kernels before 6.2 rename only what is down, so there it is down for a moment, and packets
    /// do not pass.
    pub(crate) async fn rename(&self, index: u32, name: &LinkName) -> Result<(), NetlinkError> {
        let rename = || {
            let message = LinkUnspec::new_with_index(index).name(name.to_string()).build();
            self.handle.link().change(message).execute()
        };
        let operation = || format!("call the link with the index {index} {name}");
        match call(operation(), rename()).await {
            Err(error) if error.errno() == Some(libc::EBUSY) => {}
            other => return other,
        }
        let down = LinkUnspec::new_with_index(index).down().build();
        call(format!("take the link with the index {index} down"), self.handle.link().change(down).execute())
            .await?;
        let renamed = call(operation(), rename()).await;
        self.set_up(index, name.as_str()).await?;
        renamed
    }

    /// Marks a link that is down, gives it an MTU and makes it a port of the bridge `controller`; with
    /// `Ipv6Stack::Present` the host speaks no IPv6 on it of its own.
    pub(crate) async fn make_port(
        &self,
        port: &Port<'_>,
        controller: u32,
        ipv6: Ipv6Stack,
    ) -> Result<(), NetlinkError> {
        let mut message = LinkUnspec::new_with_index(port.index)
            .mtu(u32::from(port.mtu))
            .controller(controller)
            .append_extra_attribute(LinkAttribute::IfAlias(port.alias.to_owned()));
        if ipv6 == Ipv6Stack::Present {
            let silent = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
            message = message
                .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![silent])]));
        }
        let request = self.handle.link().change(message.build()).execute();
        call(format!("attach {} to the bridge", port.name), request).await
    }

    /// Binds a port to its guest: its address is known and stays, and what else comes in there teaches the bridge nothing.
    pub(crate) async fn bind_port(
        &self,
        index: u32,
        name: &str,
        mac: MacAddress,
        between_vms: BetweenVms,
    ) -> Result<(), NetlinkError> {
        let PortSettings { learns, floods, guards, is_isolated } = PortSettings::bound(between_vms);
        let message = LinkBridgePort::new(index)
            .learning(learns)
            .flood(floods)
            .guard(guards)
            .isolated(is_isolated)
            .build();
        let request = self.handle.link().set_port(message).execute();
        call(format!("bind the port {name} to its guest"), request).await?;
        // "No ARP" is how a static entry is told; a permanent one would be an address of the host itself.
        let entry = self.handle.neighbours().add_bridge(index, &mac.octets());
        let entry = entry.state(NeighbourState::Noarp).flags(NeighbourFlags::Controller).replace();
        call(format!("enter {mac} for the port {name}"), entry.execute()).await
    }

    /// Deletes the link with this index; false if it was gone already.
    pub(crate) async fn delete(&self, index: u32, name: &str) -> Result<bool, NetlinkError> {
        let request = self.handle.link().del(index).execute();
        match call(format!("delete the link {name}"), request).await {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn add_address(&self, index: u32, address: Ipv4Network) -> Result<(), NetlinkError> {
        let request = self.handle.address().add(index, address.ip().into(), address.prefix()).execute();
        match call(format!("add the address {address}"), request).await {
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// Adds an IPv6 address that can be used at once: nobody is asked whether he has it.
    pub(crate) async fn add_ipv6_address(
        &self,
        index: u32,
        address: Ipv6Network,
    ) -> Result<(), NetlinkError> {
        let mut request = self.handle.address().add(index, address.ip().into(), address.prefix());
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        match call(format!("add the address {address}"), request.execute()).await {
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    pub(crate) async fn remove_address(&self, index: u32, address: IpNetwork) -> Result<(), NetlinkError> {
        let message = match address {
            IpNetwork::V4(address) => AddressMessageBuilder::<Ipv4Addr>::new()
                .index(index)
                .address(address.ip(), address.prefix())
                .build(),
            IpNetwork::V6(address) => AddressMessageBuilder::<Ipv6Addr>::new()
                .index(index)
                .address(address.ip(), address.prefix())
                .build(),
        };
        let request = self.handle.address().del(message).execute();
        match call(format!("remove the address {address}"), request).await {
            Err(error) if error.errno() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            other => other,
        }
    }
}

/// One setting of a bridge and the value that it is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BridgeSetting {
    NoSpanningTree,
    /// In hundredths of a second.
    ForwardDelay(u32),
    /// In hundredths of a second.
    AgeingTime(u32),
    NoVlanFiltering,
    GroupForwardMask(u16),
    NoMulticastSnooping,
}

impl fmt::Display for BridgeSetting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSpanningTree => formatter.write_str("spanning tree turned off"),
            Self::ForwardDelay(time) => write!(formatter, "forward delay set to {time}/100 s"),
            Self::AgeingTime(time) => write!(formatter, "ageing time set to {time}/100 s"),
            Self::NoVlanFiltering => formatter.write_str("VLAN filtering turned off"),
            Self::GroupForwardMask(mask) => write!(formatter, "group_fwd_mask set to {mask:#x}"),
            Self::NoMulticastSnooping => formatter.write_str("multicast snooping turned off"),
        }
    }
}

/// What [`Netlink::make_port`] makes of a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port<'a> {
    pub(crate) index: u32,
    pub(crate) name: &'a str,
    pub(crate) alias: &'a str,
    pub(crate) mtu: u16,
}

/// Whether the kernel has IPv6 at all; one without refuses to hear of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ipv6Stack {
    Present,
    Absent,
}

async fn call<T>(
    operation: impl fmt::Display,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, NetlinkError> {
    match tokio::time::timeout(ANSWER_DEADLINE, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(NetlinkError::from_rtnetlink(operation.to_string(), error)),
        Err(_elapsed) => Err(NetlinkError::Deadline { operation: operation.to_string() }),
    }
}
