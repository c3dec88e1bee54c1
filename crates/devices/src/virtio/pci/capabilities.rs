//! The transport's configuration space: identity, BAR, and the capabilities that say where things lie in it
//! (virtio 1.2 §4.1.2, §4.1.4).

use super::layout::{BAR_BYTES, NOTIFY_MULTIPLIER, Part};
use crate::pci::{Bar, CapabilityError, ClassCode, PciConfig, PciIdentity};
use crate::virtio::VirtioDeviceType;

const VIRTIO_VENDOR: u16 = 0x1af4;
/// Device ids of the modern interface start here (§4.1.2.1).
const MODERN_DEVICE_BASE: u16 = 0x1040;
/// Non-transitional devices have a revision of one or more.
const REVISION: u8 = 1;

/// A vendor-specific capability; MSI-X (PCI 3.0 appendix H).
const VENDOR_CAPABILITY: u8 = 0x09;
const MSIX_CAPABILITY: u8 = 0x11;

/// Types of virtio's capabilities (§4.1.4).
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// Bytes of `struct virtio_pci_cap`.
const VIRTIO_CAPABILITY_BYTES: usize = 16;

/// Where the capabilities are that the guest writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WritableCapabilities {
    /// MSI-X.
    pub(super) msix: u8,
    /// The access window of §4.1.4.9.
    pub(super) window: u8,
}

/// Builds the space of a device with `queues` queues and `vectors` interrupt vectors whose BAR starts at `base`, a
/// multiple of [`BAR_BYTES`].
pub(super) fn configuration_space(
    device: VirtioDeviceType,
    queues: u16,
    vectors: u16,
    base: u64,
) -> Result<(PciConfig, WritableCapabilities), CapabilityError> {
    let mut config = PciConfig::new(&identity(device)).with_bar(Bar { base, size: BAR_BYTES });
    for (kind, part) in [(COMMON_CFG, Part::Common), (ISR_CFG, Part::Isr), (DEVICE_CFG, Part::Device)] {
        add_virtio(&mut config, kind, part.offset(), part.bytes(), &[])?;
    }
    let notify_bytes = u32::from(queues) * NOTIFY_MULTIPLIER;
    let multiplier = NOTIFY_MULTIPLIER.to_le_bytes();
    add_virtio(&mut config, NOTIFY_CFG, Part::Notify.offset(), notify_bytes, &multiplier)?;
    let window = add_window(&mut config)?;
    let msix = add_msix(&mut config, vectors)?;
    Ok((config, WritableCapabilities { msix, window }))
}

fn identity(device: VirtioDeviceType) -> PciIdentity {
    let id = MODERN_DEVICE_BASE + device as u16;
    PciIdentity {
        vendor: VIRTIO_VENDOR,
        device: id,
        revision: REVISION,
        class: class(device),
        subsystem_vendor: VIRTIO_VENDOR,
        subsystem: id,
    }
}

/// Base class and subclass (PCI 3.0 appendix D): Ethernet, other storage, unclassified, other memory, other
/// communication.
fn class(device: VirtioDeviceType) -> ClassCode {
    let (class, subclass) = match device {
        VirtioDeviceType::Net => (0x02, 0x00),
        VirtioDeviceType::Block => (0x01, 0x80),
        VirtioDeviceType::Console | VirtioDeviceType::Socket => (0x07, 0x80),
        VirtioDeviceType::Entropy => (0x00, 0xff),
        VirtioDeviceType::Balloon => (0x05, 0x80),
    };
    ClassCode { class, subclass, interface: 0 }
}

/// What follows the id and the link of `struct virtio_pci_cap` (§4.1.4): length, type, BAR 0, id, padding, offset
/// and length in the BAR, then what the type adds.
fn virtio_body(kind: u8, offset: u32, length: u32, extra: &[u8]) -> Vec<u8> {
    let bytes =
        u8::try_from(VIRTIO_CAPABILITY_BYTES + extra.len()).expect("a capability has 20 bytes at most");
    let mut body = vec![bytes, kind, 0, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(extra);
    body
}

fn add_virtio(
    config: &mut PciConfig,
    kind: u8,
    offset: u32,
    length: u32,
    extra: &[u8],
) -> Result<u8, CapabilityError> {
    let body = virtio_body(kind, offset, length, extra);
    config.add_capability(VENDOR_CAPABILITY, &body, &vec![0; body.len()])
}

/// The window of §4.1.4.9: BAR, offset, length and data are the guest's to write.
fn add_window(config: &mut PciConfig) -> Result<u8, CapabilityError> {
    let body = virtio_body(PCI_CFG, 0, 0, &[0; 4]);
    let mut writable = vec![0; body.len()];
    writable[2] = 0xff;
    writable[6..].fill(0xff);
    config.add_capability(VENDOR_CAPABILITY, &body, &writable)
}

/// MSI-X (PCI 3.0 §6.8.2): the control word's enable and function mask are the guest's; table and pending bits
/// are in BAR 0.
fn add_msix(config: &mut PciConfig, vectors: u16) -> Result<u8, CapabilityError> {
    let mut body = Vec::with_capacity(10);
    body.extend((vectors - 1).to_le_bytes());
    body.extend(Part::MsixTable.offset().to_le_bytes());
    body.extend(Part::MsixPending.offset().to_le_bytes());
    let mut writable = vec![0; body.len()];
    writable[1] = 0xc0;
    config.add_capability(MSIX_CAPABILITY, &body, &writable)
}
