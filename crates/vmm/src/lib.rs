//! One virtual machine: memory, boot protocols, ACPI tables, devices, vCPU threads, the event loop.
//!
//! A [`Machine`] is built from a [`vm_model::MachineSpec`] of open files, on the thread that will run it, and is
//! driven by a [`Controller`]: its owner's part in the event loop. Threads, descriptors and mappings belong to the
//! machine and end with it; many machines share a process.
//!
//! What is not here: paths and who may open them, how requests and news travel between threads or processes, when a
//! machine is started again (the callers), KVM's calls (`hypervisor`), how devices work (`devices`).
//!
//! ```no_run
//! use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
//! use std::time::Instant;
//!
//! use devices::serial::ConsoleSink;
//! use vm_model::{
//!     BootSpec, Bytes, CpuSpec, InitialState, MachineExit, MachineSpec, MemoryBacking, MemorySpec, SerialMode,
//! };
//! use vmm::{BuildOptions, Controller, Flow, Machine, MachineEvent};
//!
//! /// Prints what the guest writes.
//! struct Print;
//! impl ConsoleSink for Print {
//!     fn write(&mut self, bytes: &[u8]) {
//!         print!("{}", String::from_utf8_lossy(bytes));
//!     }
//! }
//!
//! /// Lets the guest do as it likes.
//! struct Watch(OwnedFd);
//! impl Controller for Watch {
//!     fn wake_fd(&self) -> BorrowedFd<'_> {
//!         self.0.as_fd()
//!     }
//!     fn woken(&mut self, _machine: &mut Machine) -> Flow {
//!         Flow::Kill
//!     }
//!     fn next_deadline(&self) -> Option<Instant> {
//!         None
//!     }
//!     fn deadline_passed(&mut self, _machine: &mut Machine) -> Flow {
//!         Flow::Continue
//!     }
//!     fn event(&mut self, event: MachineEvent) {
//!         println!("{event:?}");
//!     }
//! }
//!
//! let spec = MachineSpec {
//!     uuid: Default::default(),
//!     cpus: CpuSpec::default(),
//!     memory: MemorySpec {
//!         size: Bytes::from_mib(128),
//!         backing: MemoryBacking::SharedMemfd,
//!         prefault: false,
//!     },
//!     boot: BootSpec {
//!         kernel: std::fs::File::open("vmlinux")?.into(),
//!         initrd: None,
//!         cmdline: "console=ttyS0".into(),
//!     },
//!     disks: Vec::new(),
//!     nics: Vec::new(),
//!     serial: SerialMode::Console,
//!     rng: true,
//!     services: Default::default(),
//! };
//! let hypervisor = hypervisor::Hypervisor::open()?;
//! let mut machine = Machine::build(&hypervisor, spec, BuildOptions::new("web-1", Box::new(Print)))?;
//! machine.start(InitialState::Running)?;
//! let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
//! let exit = machine.run(&mut Watch(ours.into()));
//! assert_eq!(exit, MachineExit::PoweredOff);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod acpi;
mod boot;
mod cpuid;
#[cfg(test)]
mod documentation;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod generation;
mod interrupts;
mod layout;
mod machine;
mod memory;
mod outcome;
mod poller;
mod reset_vector;
mod smbios;
mod topology;
mod vcpu;

pub use boot::{BootFile, LoadError};
pub use generation::{GenerationChangeError, GenerationId};
pub use machine::{
    BalloonChangeError, BuildError, BuildOptions, Controller, CountersHandle, DiagnosisError, Flow, Handler,
    LinkChangeError, Machine, MachineEvent, NoConsole, PauseError, ProcessorsError, Remains, TurnReport,
    Unsettled,
};
pub use memory::MemoryError;
pub use topology::TopologyError;
pub use vcpu::{AffinityError, CpuSetupError, StartError};
