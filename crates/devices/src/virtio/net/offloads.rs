//! Which checksum and segmentation work is left to whom: virtio's features (§5.1.3) and the TAP's flags.

use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
};

/// The features by which a card takes work off its guest, or its guest off it. A TAP always does its part.
pub(super) const OFFLOAD_FEATURES: [u32; 8] = [
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_ECN,
];

/// What a guest accepts in frames it receives, in the bits of the `TUNSETOFFLOAD` call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads(u32);

impl Offloads {
    /// What the negotiated `features` accept. Without partial checksums there is no segmentation either (§5.1.3.1).
    pub(super) fn accepted_by(features: u64) -> Self {
        if features & 1 << VIRTIO_NET_F_GUEST_CSUM == 0 {
            return Self(0);
        }
        let segmentation = [
            (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
            (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
            (VIRTIO_NET_F_GUEST_ECN, libc::TUN_F_TSO_ECN),
        ];
        let accepted = segmentation
            .iter()
            .filter(|(feature, _)| features & 1 << feature != 0)
            .fold(libc::TUN_F_CSUM, |flags, (_, flag)| flags | flag);
        Self(accepted)
    }

    /// Whether frames larger than the link's MTU may come.
    pub(super) fn segmented_frames(self) -> bool {
        self.0 & (libc::TUN_F_TSO4 | libc::TUN_F_TSO6) != 0
    }

    /// The bits of `TUNSETOFFLOAD`.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segmentation_needs_checksums() {
        let tso = 1 << VIRTIO_NET_F_GUEST_TSO4 | 1 << VIRTIO_NET_F_GUEST_ECN;
        assert_eq!(Offloads::accepted_by(tso), Offloads(0));
        let both = Offloads::accepted_by(tso | 1 << VIRTIO_NET_F_GUEST_CSUM);
        assert_eq!(both.bits(), libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO_ECN);
        assert!(both.segmented_frames());
    }

    #[test]
    fn what_the_guest_sends_is_not_what_it_accepts() {
        let sends = 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_HOST_TSO4;
        assert_eq!(Offloads::accepted_by(sends), Offloads(0));
    }
}
