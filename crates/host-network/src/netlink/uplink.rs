//! The requests that make a link an uplink.

use netlink_packet_route::link::LinkAttribute;
use rtnetlink::{LinkUnspec, LinkVlan};

use super::{Netlink, NetlinkError, call};
use crate::LinkName;
use crate::uplink::VlanId;

impl Netlink {
    /// Creates the link `name` for a VLAN on the link with the index `parent`; it is down.
    pub(crate) async fn create_vlan(
        &self,
        name: &LinkName,
        parent: u32,
        vlan: VlanId,
    ) -> Result<(), NetlinkError> {
        let message = LinkVlan::new(name.as_str(), parent, vlan.get()).down().build();
        let request = self.handle.link().add(message).execute();
        call(format!("create the link {name} for VLAN {}", vlan.get()), request).await
    }

    /// Gives a link its alias.
    pub(crate) async fn mark(&self, index: u32, name: &LinkName, alias: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::IfAlias(alias.to_owned()))
            .build();
        call(format!("mark the link {name}"), self.handle.link().change(message).execute()).await
    }

    /// Makes a link a port of the bridge `controller`, or of none. Whether it is up stays as it is.
    pub(crate) async fn set_controller(
        &self,
        index: u32,
        name: &str,
        controller: Option<u32>,
    ) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).controller(controller.unwrap_or(0)).build();
        let operation = match controller {
            Some(_) => format!("make {name} a port of the bridge"),
            None => format!("take {name} out of the bridge"),
        };
        call(operation, self.handle.link().change(message).execute()).await
    }

    /// Takes a link down.
    pub(crate) async fn set_down(&self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).down().build();
        call(format!("take the link {name} down"), self.handle.link().change(message).execute()).await
    }
}
