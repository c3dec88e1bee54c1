//! What a card tells of itself: features (virtio 1.2 §5.1.3) and configuration space (§5.1.4).

use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use vm_model::MacAddress;

use crate::virtio::configuration::read_configuration;

/// Up to and including the MTU.
const BYTES: usize = 12;

/// What stays as it is for as long as the card exists.
pub(super) struct Configuration {
    pub(super) mac: MacAddress,
    /// The most pairs of queues that frames are spread over.
    pub(super) pairs: u16,
    pub(super) mtu: Option<u16>,
}

impl Configuration {
    /// What the card offers beside offloads.
    pub(super) fn features(&self) -> u64 {
        let always = [
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_STATUS,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_NET_F_CTRL_VQ,
            VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
            VIRTIO_NET_F_GUEST_ANNOUNCE,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_RING_F_EVENT_IDX,
        ];
        let mtu = self.mtu.map(|_| VIRTIO_NET_F_MTU);
        let pairs = (self.pairs > 1).then_some(VIRTIO_NET_F_MQ);
        always.iter().chain(&mtu).chain(&pairs).fold(0, |bits, feature| bits | 1 << feature)
    }

    /// Fills `data` from `offset` of the space, where the link's status is `status`.
    pub(super) fn read(&self, status: u32, offset: u64, data: &mut [u8]) {
        let mut space = [0; BYTES];
        space[..6].copy_from_slice(&self.mac.octets());
        space[6..8].copy_from_slice(&status.to_le_bytes()[..2]);
        space[8..10].copy_from_slice(&self.pairs.to_le_bytes());
        space[10..].copy_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        read_configuration(&space, offset, data);
    }
}
