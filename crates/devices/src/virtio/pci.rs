//! The virtio-pci transport (virtio 1.2 §4.1): modern only, MSI-X or polling, no wired interrupt.
//!
//! ```text
//! vCPU: registers ─→ VirtioPciDevice ─┬─ common configuration, status (plain values)
//!                      one lock        ├─ MSI-X, ISR ─────────→ MessageInterrupts
//! event loop: bells ──→ (outside)      ├─ bells, one a queue ─→ Doorbells
//!                                      └─ the device behind it (a VirtioDevice)
//! ```
//!
//! The transport checks everything a driver sets before the device sees it, and hands over queues only between
//! `DRIVER_OK` and reset. Left to others: the device's own meaning, who calls from which thread, and where in the
//! guest's address space the BAR lies.

mod bells;
mod capabilities;
mod common_config;
mod device;
mod function;
mod interrupts;
mod layout;
mod registers;
mod status;
#[cfg(test)]
mod tests;
mod window;

pub use common_config::{CommonConfig, QueueSettings};
pub use device::{VirtioPciDevice, VirtioPciError};
pub use layout::BAR_BYTES;
pub use status::{DeviceStatus, Stage};
