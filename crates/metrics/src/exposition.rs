//! What a scraper reads: a worker's figures and its VMs', as text.
//!
//! A scrape renders what is there now and nothing else, so that no series stays behind when its VM goes. What series
//! there are stands in tables ([`families`]); `docs/metrics.md` describes each.

pub mod families;
mod text;

use std::collections::BTreeMap;

use vm_model::{Bytes, Timestamp, VmInfo};

pub use self::text::Format;
use self::text::TextWriter;
use crate::{VmMetrics, WorkerDurations};

/// One VM at the moment of a scrape.
#[derive(Clone, Debug)]
pub struct VmFigures {
    /// What it is and where it stands.
    pub info: VmInfo,
    /// What it used, as sampled last; absent before it ran.
    pub metrics: Option<VmMetrics>,
    /// What each of its volumes takes of the host's disk.
    pub volumes: BTreeMap<String, Bytes>,
}

/// The worker at the moment of a scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerFigures {
    /// The program's version.
    pub version: String,
    /// When it was started.
    pub since: Timestamp,
    /// Whether the master answers; absent where there is none.
    pub master_connected: Option<bool>,
    /// Whether a desired state waits for an operator's word.
    pub is_held: bool,
    /// Things of the host's network that are not as they should be.
    pub degradations: u64,
    /// VMs whose record on disk cannot be used.
    pub damaged: u64,
    /// Lines that the log lost.
    pub log_lines_dropped: u64,
    /// Lines that wait to be written to the log.
    pub log_queue_lines: u64,
    /// What waits for the reconciler.
    pub node_queue_messages: u64,
    /// How long things took.
    pub durations: WorkerDurations,
}

/// Everything that a scrape is told.
#[derive(Clone, Debug)]
pub struct Exposition {
    /// The worker itself.
    pub worker: WorkerFigures,
    /// Its VMs.
    pub vms: Vec<VmFigures>,
}

impl Exposition {
    /// The text of all series.
    pub fn render(&self, format: Format) -> String {
        let mut writer = TextWriter::new(format);
        for family in families::of_worker() {
            writer.begin(family);
            writer.subject(family, &self.worker, None);
        }
        for family in families::of_vms() {
            writer.begin(family);
            for vm in &self.vms {
                writer.subject(family, vm, Some(("vm", vm.info.id.as_str())));
            }
        }
        writer.finish()
    }
}

#[cfg(test)]
mod tests;
