//! What a scraper reads: a worker's figures and its VMs', as OpenMetrics text.
//!
//! A scrape renders what is there now and nothing else, so that no series stays behind when its VM goes. What series
//! there are stands in one table a subject ([`families`]); `docs/metrics.md` describes each.

pub mod families;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use vm_model::{Timestamp, VmInfo};

use self::families::{Family, Kind, VM_FAMILIES, WORKER_FAMILIES};
use crate::VmMetrics;

/// The type of the text, for the header `content-type` (OpenMetrics 1.0, "Overall Structure").
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every series begins with.
const PREFIX: &str = "procurator";

/// One VM at the moment of a scrape.
#[derive(Clone, Debug)]
pub struct VmFigures {
    /// What it is and where it stands.
    pub info: VmInfo,
    /// What it used, as sampled last; absent before it ran.
    pub metrics: Option<VmMetrics>,
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
    ///
    /// # Errors
    /// The encoder cannot write, which it can to a text.
    pub fn render(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in WORKER_FAMILIES {
            write(&mut encoder, family, std::slice::from_ref(&self.worker), |_| None)?;
        }
        for family in VM_FAMILIES {
            write(&mut encoder, family, &self.vms, |vm| Some(("vm", vm.info.id.to_string())))?;
        }
        Ok(())
    }
}

/// Writes one family of series: what it tells of each of `subjects`, which `name` names.
fn write<S>(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Family<S>,
    subjects: &[S],
    name: impl Fn(&S) -> Option<(&'static str, String)>,
) -> Result<(), fmt::Error> {
    let kind = match family.kind {
        Kind::Gauge => MetricType::Gauge,
        Kind::Counter => MetricType::Counter,
        Kind::Info => MetricType::Info,
    };
    let unit = family.unit.map(families::Unit::encoded);
    let mut metric = encoder.encode_descriptor(family.name, family.help, unit.as_ref(), kind)?;
    for subject in subjects {
        for (labels, value) in (family.read)(subject) {
            let labels: Vec<(&str, String)> = name(subject).into_iter().chain(labels).collect();
            match family.kind {
                Kind::Info => metric.encode_info(&labels)?,
                // An empty set of labels is written as none.
                Kind::Gauge | Kind::Counter if labels.is_empty() => value.write(&mut metric, family.kind)?,
                Kind::Gauge | Kind::Counter => {
                    value.write(&mut metric.encode_family(&labels)?, family.kind)?
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
