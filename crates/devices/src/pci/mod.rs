//! PCI as the guest sees it: configuration space, message-signalled interrupts, and a root with one bus.
//!
//! ```text
//! ports 0xCF8–0xCFF ┐                        ┌ slot 0: host bridge
//! ECAM              ├─→ PciRoot ─→ slot n ───┤
//! memory window     ┘   (routes by BAR)      └ slot n: a PciFunction, e.g. virtio
//! ```
//!
//! One function a device, conventional configuration space (256 bytes), one memory BAR, no wired interrupts, no
//! bridges, no hot-plug. What a function's registers mean is its own matter.

mod bar;
mod config;
mod host_bridge;
mod msix;
mod root;

pub use bar::Bar;
pub use config::{CapabilityError, ClassCode, PciConfig, PciIdentity};
pub use host_bridge::HostBridge;
pub use msix::{InterruptSource, Msix, MsixError, MsixState, MsixVector};
pub(crate) use msix::{MSIX_TABLE_ENTRY_BYTES, MSIX_VECTORS_MAX};
pub use root::{ConfigurationPorts, EcamWindow, MemoryWindow, PCI_SLOTS, PciFunction, PciRoot, PciRootError};
