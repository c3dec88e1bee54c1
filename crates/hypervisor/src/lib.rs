//! Safe KVM: one shared handle to the KVM device, virtual machines, memory slots, vCPUs with typed exits.
//!
//! This crate owns every KVM `ioctl` that the worker makes, and the lifetimes that make them safe: a [`Vm`] and
//! each of its [`Vcpu`]s keep the guest memory mapped for as long as the kernel may touch it. What the machine
//! is made of (memory layout, boot protocol, devices, CPUID contents) is left to the caller.
//!
//! # Order of set-up
//! The kernel accepts most orders but is quick in one only, because a memory slot registered after an I/O bus
//! registration waits for a grace period (milliseconds instead of microseconds):
//!
//! 1. [`Hypervisor::create_vm`], which also places the TSS and the identity map;
//! 2. [`Vm::add_memory`] for every region;
//! 3. [`Vm::create_irqchip`]: refused with an error once there is a vCPU;
//! 4. [`Vm::create_vcpu`] for every vCPU, and their state;
//! 5. [`Vm::register_ioeventfd`], [`Vm::register_irqfd`] and [`Vm::set_routing`], at any later time and from any
//!    thread.
//!
//! # The one signal
//! Breaking a vCPU out of the guest needs a signal ([`VcpuKicker`]). The handler for `SIGRTMIN` is the only
//! state of the process that this crate touches.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use hypervisor::{Exit, Hypervisor};
//! use vm_memory::{GuestAddress, GuestRegionMmap};
//!
//! let hypervisor = Hypervisor::open()?;
//! let vm = hypervisor.create_vm()?;
//! vm.add_memory(Arc::new(GuestRegionMmap::<()>::from_range(GuestAddress(0), 1 << 20, None)?))?;
//! vm.create_irqchip()?;
//! let mut vcpu = vm.create_vcpu(0)?;
//! let _binding = vcpu.bind_to_current_thread()?;
//! loop {
//!     match vcpu.run()? {
//!         Exit::IoOut { port: 0x3f8, data } => print!("{}", String::from_utf8_lossy(data)),
//!         Exit::Shutdown | Exit::Halt => break,
//!         _ => {}
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod capability;
mod exit;
mod facts;
mod kick;
mod open;
mod registers;
mod routing;
mod run_area;
mod state;
mod statistics;
mod vcpu;
mod vm;

pub use capability::MissingCapabilities;
pub use exit::{Exit, SystemEvent};
pub use facts::HostFacts;
pub use kick::{KickSignalError, ThreadBinding, VcpuKicker, install_kick_signal};
pub use kvm_bindings::{CpuId, Msrs, kvm_cpuid_entry2, kvm_msr_entry};
pub use open::{Hypervisor, OpenError};
pub use registers::XsaveArea;
pub use routing::{Irqchip, Route, RouteTarget, default_routes};
pub use state::VcpuState;
pub use statistics::{VcpuCounts, VcpuStatistics};
pub use vcpu::{Vcpu, VcpuError};
pub use vm::{Clock, DoorbellAddress, DoorbellValue, Registration, Vm, VmError};

/// The cause of a failed `ioctl` as the standard library's error, so that error chains speak of one type.
fn cause(errno: kvm_ioctls::Error) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno.errno())
}
