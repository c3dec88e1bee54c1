//! Hosting many virtual machines in one process: a thread each, commands in, status and console out.
//!
//! This is where asynchronous callers and synchronous machines meet. A task launches a machine through [`VmmHost`]
//! and gets a [`MachineHandle`]; the machine itself is built, driven and ended on a thread of its own, where
//! nothing ever awaits. A panic there ends that machine alone.
//!
//! ```text
//!   task ── launch ──▶ VmmHost ──spawns──▶ thread vm:<id> ── runs ──▶ engine (vmm)
//!   task ◀─ handle ─┐                         ▲       │                  │ bytes
//!                   │ commands, bounded, + eventfd    │ status (watch)   ▼
//!                   └─────────────────────────┘       ▼            ConsoleRecorder ──▶ readers, followers
//!                                               thread vm-watch: marks machines whose threads stand still
//!                                               thread vm-reaper: what remains ──▶ released
//! ```
//!
//! A guest that resets itself gets another machine in the same place, made by the same thread from what it was given:
//! handle, console, descriptors and counters go on, without the caller's help. See [`vm_model::ResetPolicy`] for
//! how often; the end that no machine follows is in the [`vm_model::MachineStatus`].
//!
//! [`vm_model::Command`], [`vm_model::Reply`] and [`vm_model::MachineStatus`] are plain values, and [`CommandPort`] with
//! [`HandleParts`] is all that stands between a handle and its machine: a machine in another process is the same to its
//! users. What a machine is made of is the `vmm` crate's; when to launch, restart or stop one is the caller's.
//!
//! Where things are: `host` is the front door with what looks after all machines; `machine_thread` is all that one
//! machine's thread does; `engine` is what it drives. Between host and thread lie `launch`, `mailbox`, `heartbeat`,
//! `counters`, `console` and `handover`, which know neither.
//!
//! Everything asynchronous here wants a tokio runtime with its clock enabled, of either flavour, and blocks it
//! nowhere for longer than it takes to start a thread.
//!
//! ```no_run
//! use hypervisor::Hypervisor;
//! use vm_model::{InitialState, MachineSpec, ResetPolicy, VmId};
//! use vmm_host::{HostOptions, LaunchRequest, StopPolicy, VmmHost};
//!
//! # async fn example(hypervisor: Hypervisor, spec: MachineSpec<std::os::fd::OwnedFd>)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let host = VmmHost::new(hypervisor, HostOptions::default())?;
//! let id = VmId::new("web-1");
//! let (initial, resets) = (InitialState::Running, ResetPolicy::default());
//! let machine = host.launch(LaunchRequest { id, spec, initial, resets }).await?;
//! println!("first vCPU entered after {:?}", machine.status().borrow().timings.first_entry);
//! let report = machine.stop(StopPolicy::default()).await?;
//! println!("stopped by {:?} in {:?}", report.method, report.took);
//! machine.released().await;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod console;
mod containment;
mod counters;
mod descriptors;
mod engine;
mod error;
mod handle;
mod handover;
mod heartbeat;
mod host;
mod launch;
mod machine_thread;
mod mailbox;

pub use console::{ConsoleLimits, ConsoleRecorder, ConsoleSnapshot};
pub use counters::CountersSource;
pub use descriptors::presize_fd_table;
pub use error::{CommandError, HostError, LaunchError, LaunchFailure, StopError};
pub use handle::{HandleParts, MachineHandle, StopPolicy, StopReport};
pub use host::{HostCounts, HostOptions, ShutdownReport, VmmHost};
pub use launch::LaunchRequest;
pub use mailbox::{CommandPort, PortClosed, ReplyFuture};
