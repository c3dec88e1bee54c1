//! The end-to-end harness: starts the worker as a user would, gives it work through a file, watches it through its
//! command line, and reaches its guests over the network.
//!
//! It knows the worker only from outside: none of the workspace's crates are used here.
//!
//! ```no_run
//! use end_to_end::{Assignment, Environment, Worker};
//!
//! # fn main() -> anyhow::Result<()> {
//! let environment = Environment::from_variables()?;
//! let guest = environment.image("guest")?;
//! let worker = Worker::start(&environment)?;
//! worker.assign(&[Assignment::of(&guest, "web-1")])?;
//! let vm = worker.wait_until_answering("web-1")?;
//! println!("web-1 answers at {}", vm.address()?);
//! worker.terminate()?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a failed test shows what happened")]

mod assignment;
mod client;
mod control_group;
mod echoes;
mod environment;
mod faulty_disk;
mod host;
mod master;
mod network;
mod noise;
mod observed;
mod place;
mod records;
mod service;
mod session;
mod setting;
mod sockets;
mod terminal;
mod transfer;
mod upgrade;
mod wait;
mod worker;

pub use assignment::Assignment;
pub use client::Client;
pub use control_group::ControlGroup;
pub use echoes::{Echoes, Heard};
pub use environment::{Environment, Image};
pub use faulty_disk::FaultyDisk;
pub use host::{HostState, ProcessState, figure, host_process_of};
pub use master::{Master, MasterPlace};
pub use network::{http_get, http_post, ping};
pub use noise::{ensure_same, noise};
pub use observed::{Balloon, DiskTrouble, Health, Metrics, ObservedVm, Reason, Wanted};
pub use place::{Filler, Place};
pub use records::{Records, records, records_on};
pub use service::{Service, Unit, scopes};
pub use session::{Session, Spoken};
pub use setting::HostSetting;
pub use sockets::{connect_to_guest, greeting_of, listen_for_guest};
pub use terminal::{Terminal, TerminalSize};
pub use transfer::{Transfer, Transferred};
pub use wait::{BOOT_DEADLINE, Never, SHORT_DEADLINE, STOCK_BOOT_DEADLINE, until};
pub use worker::{Ended, Worker};
