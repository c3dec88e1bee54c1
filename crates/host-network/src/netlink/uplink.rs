//! The requests that make a link an uplink.

use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo};
use rtnetlink::{LinkUnspec, LinkVlan};

use super::{Netlink, NetlinkError, call};
use crate::LinkName;
use crate::uplink::VlanId;

/// The name of the link that is not made.
const VLAN_QUESTION: &str = "pw-vlan-none";

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

    /// Whether the kernel can make links of VLANs; true where it does not say. Its module is loaded for the question, and nothing is
    /// made: a VLAN without a number is refused.
    pub(crate) async fn has_vlans(&self) -> bool {
        let kind = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan)]);
        let message = LinkUnspec::new_with_name(VLAN_QUESTION).append_extra_attribute(kind).build();
        let answer = call("ask for VLANs".to_owned(), self.handle.link().add(message).execute()).await;
        !answer.is_err_and(|refusal| refusal.errno() == Some(libc::EOPNOTSUPP))
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
