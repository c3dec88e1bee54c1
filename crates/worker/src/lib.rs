//! The front door of Procurator worker: run virtual machines from Nix store paths on this host.
//!
//! [`vms::VmManager`] creates, watches and removes VMs; [`node::Node`] keeps them equal to what was assigned.
//!
//! ```no_run
//! use std::path::Path;
//! use worker::vms::{VmId, VmManager, VmManagerConfig};
//!
//! let vm_manager = VmManager::new(VmManagerConfig::default())?;
//! let _metrics_thread = vm_manager.start_metrics_polling();
//! let vm_id = VmId::new("my-vm");
//! vm_manager.create_vm(vm_id.clone(), "sha256-…", Path::new("/nix/store/xxx-vm-image"))?;
//! println!("{}", vm_manager.get_vm_status(&vm_id)?);
//! println!("{} MB", vm_manager.get_vm_metrics(&vm_id)?.memory_mb);
//! vm_manager.remove_vm(&vm_id)?;
//! # Ok::<(), worker::vms::VmManagerError>(())
//! ```
//!
//! How it is built: `node` decides *what* should change as a pure plan; a supervisor a VM (`supervisor`) decides
//! *when*, as the one writer of that VM's status; `records` holds on disk what must outlive a crash.
//!
//! What is not here: how a machine works (`vmm-host` and below), how the host's network is driven
//! (`host-network`), what a store path may contain (`nix-artifacts`), and the program around it (`worker-bin`).

#![forbid(unsafe_code)]

#[cfg(feature = "benchmarks")]
#[doc(hidden)]
pub mod benchmarks;
mod capacity;
mod collecting;
mod definition;
pub mod events;
mod failure;
mod fetching;
mod gc_roots;
mod housekeeping;
mod huge_pages;
pub mod master;
pub mod node;
mod own_threads;
mod records;
mod supervisor;
mod verification;
pub mod vms;
mod volumes;

pub use huge_pages::observe_huge_pages;
pub use vmm_host::presize_fd_table;
