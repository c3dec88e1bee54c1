//! Device emulation, kept off KVM and off the rest of the host by a few port traits.
//!
//! A device here answers register accesses that vCPU threads bring and serves queues when an event loop says
//! that a doorbell rang. It reaches the hypervisor only through [`ports`]: an interrupt is triggered and a
//! doorbell is attached without knowing how. Guest memory is hostile: every index, address and length that
//! comes from it is checked before it is used.
//!
//! What is not here: who calls a device and on which thread, guest memory's allocation, where things lie in the
//! guest's address space (the `vmm` crate), and who may open which file (the callers: devices get open files).
//!
//! ```
//! use std::sync::Arc;
//!
//! use devices::bus::Bus;
//! use devices::pci::{ConfigurationPorts, PciRoot};
//!
//! let root = Arc::new(PciRoot::new(0xc000_0000..0xe000_0000));
//! let mut ports = Bus::builder();
//! ports.add("PCI configuration", 0xcf8, 8, Arc::new(ConfigurationPorts(root)))?;
//! let ports = ports.build();
//!
//! // As a guest looks for the function in slot 0:
//! ports.write(0xcf8, &0x8000_0000u32.to_le_bytes());
//! let mut id = [0; 4];
//! ports.read(0xcfc, &mut id);
//! assert_eq!(u32::from_le_bytes(id), 0x0d57_8086, "the host bridge");
//! # Ok::<(), devices::bus::BusError>(())
//! ```

pub mod acpi;
pub mod bus;
pub mod cmos;
pub mod keyboard_controller;
#[cfg(test)]
mod log_capture;
pub mod memory;
pub mod pci;
pub mod ports;
pub mod power;
pub mod pvpanic;
pub mod serial;
mod timer;
pub mod virtio;
mod wake;
pub mod watchdog;
