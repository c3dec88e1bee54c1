//! Which checksum and segmentation work is left to whom: virtio's features (§5.1.3) and the TAP's flags.

use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO,
};
use vm_model::{NicOffloads, Offload};

/// Sums over packets that are computed by whoever needs them.
const CHECKSUMS: [u32; 2] = [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM];
/// TCP segments that travel as one packet.
const TCP: [u32; 6] = [
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_ECN,
];
/// UDP datagrams that travel as one packet.
const UDP: [u32; 3] = [VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6];
/// What a driver may take back and accept again while it runs (§5.1.6.5.6.1).
pub(super) const GUEST_OFFLOADS: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN
    | 1 << VIRTIO_NET_F_GUEST_USO4
    | 1 << VIRTIO_NET_F_GUEST_USO6;
/// Linux knows UDP segmentation for both versions of IP together or for none.
const TUN_USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// Whether a port segments UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpSegmentation {
    /// It does, for both versions of IP.
    Supported,
    /// It does not.
    Unsupported,
}

/// The features that a card offers for `offloads`, on a port that segments UDP or not.
pub(super) fn offered_features(offloads: NicOffloads, port: UdpSegmentation) -> u64 {
    if offloads.checksums == Offload::Withheld {
        return 0;
    }
    let tcp: &[u32] = match offloads.tcp_segmentation {
        Offload::Offered => &TCP,
        Offload::Withheld => &[],
    };
    let udp: &[u32] = match (offloads.udp_segmentation, port) {
        (Offload::Offered, UdpSegmentation::Supported) => &UDP,
        (Offload::Offered, UdpSegmentation::Unsupported) | (Offload::Withheld, _) => &[],
    };
    CHECKSUMS.iter().chain(tcp).chain(udp).fold(0, |bits, feature| bits | 1 << feature)
}

/// What a guest accepts in frames it receives, in the bits of the `TUNSETOFFLOAD` call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads(u32);

impl Offloads {
    /// Of all that may be asked of a TAP, what not every kernel can.
    pub(super) const UDP_PROBE: Self = Self(libc::TUN_F_CSUM | TUN_USO);

    /// What the negotiated `features` accept. Without partial checksums there is no segmentation either (§5.1.3.1).
    pub(super) fn accepted_by(features: u64) -> Self {
        let accepts = |feature: u32| features & 1 << feature != 0;
        if !accepts(VIRTIO_NET_F_GUEST_CSUM) {
            return Self(0);
        }
        let udp = accepts(VIRTIO_NET_F_GUEST_USO4) && accepts(VIRTIO_NET_F_GUEST_USO6);
        let segmentation = [
            (accepts(VIRTIO_NET_F_GUEST_TSO4), libc::TUN_F_TSO4),
            (accepts(VIRTIO_NET_F_GUEST_TSO6), libc::TUN_F_TSO6),
            (accepts(VIRTIO_NET_F_GUEST_ECN), libc::TUN_F_TSO_ECN),
            (udp, TUN_USO),
        ];
        let accepted = segmentation
            .iter()
            .filter(|(accepted, _)| *accepted)
            .fold(libc::TUN_F_CSUM, |flags, (_, flag)| flags | flag);
        Self(accepted)
    }

    /// Whether frames larger than the link's MTU may come.
    pub(super) fn segmented_frames(self) -> bool {
        self.0 & (libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | TUN_USO) != 0
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
    fn udp_is_segmented_for_both_versions_of_ip_or_for_none() {
        let (four, six) = (1 << VIRTIO_NET_F_GUEST_USO4, 1 << VIRTIO_NET_F_GUEST_USO6);
        let checksums = 1 << VIRTIO_NET_F_GUEST_CSUM;
        assert_eq!(Offloads::accepted_by(checksums | four).bits(), libc::TUN_F_CSUM);
        assert_eq!(Offloads::accepted_by(checksums | six).bits(), libc::TUN_F_CSUM);
        let both = Offloads::accepted_by(checksums | four | six);
        assert_eq!(both, Offloads::UDP_PROBE);
        assert!(both.segmented_frames());
    }

    #[test]
    fn what_is_withheld_is_not_offered() {
        use Offload::{Offered, Withheld};
        use UdpSegmentation::{Supported, Unsupported};
        let features = |checksums, tcp_segmentation, udp_segmentation, port| {
            offered_features(NicOffloads { checksums, tcp_segmentation, udp_segmentation }, port)
        };
        let (checksums, tcp, udp) = (1 | 1 << 1, 0x3b80, 7 << 54);
        assert_eq!(features(Offered, Offered, Offered, Supported), checksums | tcp | udp);
        assert_eq!(features(Offered, Offered, Offered, Unsupported), checksums | tcp);
        assert_eq!(features(Offered, Withheld, Offered, Supported), checksums | udp);
        assert_eq!(features(Offered, Offered, Withheld, Supported), checksums | tcp);
        assert_eq!(features(Withheld, Offered, Offered, Supported), 0);
    }

    #[test]
    fn what_the_guest_sends_is_not_what_it_accepts() {
        let sends = 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_HOST_TSO4;
        assert_eq!(Offloads::accepted_by(sends), Offloads(0));
    }
}
