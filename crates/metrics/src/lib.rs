//! Counters of virtual machines, sampled into totals, rates and a short history.
//!
//! A [`Sampler`] stands for one VM. It is fed one [`Reading`] an interval and answers with the latest
//! [`VmMetrics`] and a bounded [`History`]. Totals go on growing when the VM's machine is replaced by another,
//! as it is on a restart. Everything but [`host`] is pure: time arrives as a parameter, and who reads the
//! counters and when is left to others. [`exposition`] renders figures for a scraper.
//!
//! ```
//! use std::time::Duration;
//! use metrics::{Moment, Reading, Sampler};
//! use vm_model::{MachineCounters, VcpuCounters};
//!
//! let mut sampler = Sampler::new();
//! let start = Moment::now();
//! for second in 0..=2 {
//!     let counters = MachineCounters {
//!         vcpus: vec![VcpuCounters { cpu_time: Duration::from_millis(500 * second), ..Default::default() }],
//!         ..MachineCounters::default()
//!     };
//!     sampler.record(&Reading { at: start.later_by(Duration::from_secs(second)), run: 1, counters });
//! }
//! let metrics = sampler.latest(start.later_by(Duration::from_secs(3))).expect("it was sampled");
//! assert_eq!(metrics.cpu_percent, 50.0);
//! assert_eq!(metrics.age, Duration::from_secs(1));
//! ```

#![forbid(unsafe_code)]

mod accumulator;
pub mod exposition;
mod history;
pub mod host;
mod moment;
mod sampler;
mod snapshot;
mod worker_meters;

pub use accumulator::Accumulator;
pub use history::{DEFAULT_HISTORY_POINTS, History, HistoryPoint};
pub use moment::Moment;
pub use sampler::{Reading, Sampler};
pub use snapshot::{BalloonMetrics, DiskMetrics, NicMetrics, Rates, VcpuMetrics, VmMetrics};
pub use worker_meters::{PHASES, StartStep, WorkerDurations, WorkerMeters};
