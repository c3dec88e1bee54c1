//! Hosting many virtual machines in one process: a thread each, commands in, status and console out.
//!
//! This is where asynchronous callers and synchronous machines meet. A task launches a machine through [`VmmHost`]
//! and gets a [`machine_host::MachineHandle`]; the machine itself is built, driven and ended on a thread of its own, where
//! nothing ever awaits. A panic there ends that machine alone.
//!
//! ```text
//!   task ── launch ──▶ VmmHost ──spawns──▶ thread vm:<id> ── runs ──▶ engine (vmm)
//!   task ◀─ handle ─┐                         ▲       │                  │ bytes
//!                   │ commands, bounded, + eventfd    │ status (watch)   ▼
//!                   └─────────────────────────┘       ▼            ConsoleRecorder ──▶ readers, followers
//!                                               thread vm-watch: marks machines whose threads stand still; sleeps
//!                                                                while none has anything to serve
//!                                               thread vm-reaper: what remains ──▶ released
//! ```
//!
//! A guest that resets itself gets another machine in the same place, made by the same thread from what it was given:
//! handle, console, descriptors and counters go on, without the caller's help. See [`vm_model::ResetPolicy`] for
//! how often; the end that no machine follows is in the [`vm_model::MachineStatus`].
//!
//! It is one [`machine_host::MachineHost`]: to the users of its handles a machine in another process is the same. What a
//! machine is made of is the `vmm` crate's; when to launch, restart or stop one is the caller's.
//!
//! Where things are: `host` is the front door with what looks after all machines; `machine_thread` is all that one
//! machine's thread does; `engine` is what it drives. Between host and thread lie `launch`, `mailbox`, `heartbeat`,
//! `watch_alarm`, `counters` and `handover`, which know neither.
//!
//! Everything asynchronous here wants a tokio runtime with its clock enabled, of either flavour, and blocks it
//! nowhere for longer than it takes to start a thread.
//!
//! ```no_run
//! use hypervisor::Hypervisor;
//! use machine_host::{LaunchRequest, StopPolicy};
//! use vm_model::{MachineSpec, VmId};
//! use vmm_host::{HostOptions, VmmHost};
//!
//! # async fn example(hypervisor: Hypervisor, spec: MachineSpec<std::os::fd::OwnedFd>)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let host = VmmHost::new(hypervisor, HostOptions::default())?;
//! let machine = host.launch(LaunchRequest::new(VmId::new("web-1"), spec)).await?;
//! println!("first vCPU entered after {:?}", machine.status().borrow().timings.first_entry);
//! let report = machine.stop(StopPolicy::default()).await?;
//! println!("stopped by {:?} in {:?}", report.method, report.took);
//! machine.released().await;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod containment;
mod counters;
mod descriptors;
mod engine;
mod error;
mod handover;
mod heartbeat;
mod host;
mod launch;
mod machine_thread;
mod mailbox;
mod watch_alarm;

pub use descriptors::presize_fd_table;
pub use error::HostError;
pub use host::{HostOptions, VmmHost};
pub use machine_thread::thread_name;
