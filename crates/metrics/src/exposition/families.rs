//! Which series there are, and where each is read: a table for each subject.

mod devices;
mod host_use;
mod kind;
mod processors;
mod vms;
mod worker;

use vm_model::VmStatus;

pub use self::kind::{Family, Kind, Sample, Unit, Value};
use super::{VmFigures, WorkerFigures};
use crate::VmMetrics;

/// Series about the worker itself.
pub fn of_worker() -> impl Iterator<Item = &'static Family<WorkerFigures>> {
    worker::FAMILIES.iter()
}

/// Series about each VM. All have the label `vm`.
pub fn of_vms() -> impl Iterator<Item = &'static Family<VmFigures>> {
    vms::FAMILIES.iter().chain(processors::FAMILIES).chain(host_use::FAMILIES).chain(devices::FAMILIES)
}

/// The full names of all series.
pub fn names() -> impl Iterator<Item = String> {
    of_worker().map(Family::full_name).chain(of_vms().map(Family::full_name))
}

fn one(value: impl Into<Value>) -> Vec<Sample> {
    vec![(Vec::new(), value.into())]
}

fn maybe(value: Option<impl Into<Value>>) -> Vec<Sample> {
    value.map(one).unwrap_or_default()
}

/// One figure for each of `values`, told apart by the label `name`.
fn each<T: Into<Value>>(
    name: &'static str,
    values: impl IntoIterator<Item = (impl Into<String>, T)>,
) -> Vec<Sample> {
    values.into_iter().map(|(label, value)| (vec![(name, label.into())], value.into())).collect()
}

/// Whether there is a machine whose figures are those of now.
fn is_up(vm: &VmFigures) -> bool {
    match vm.info.status {
        VmStatus::Booting | VmStatus::Running | VmStatus::Paused | VmStatus::Stopping => true,
        VmStatus::Creating | VmStatus::Stopped | VmStatus::Restarting | VmStatus::Failed(_) => false,
    }
}

/// What a machine uses now; nothing where there is none. Totals stay.
fn machine_metrics(vm: &VmFigures) -> Option<&VmMetrics> {
    vm.metrics.as_ref().filter(|_| is_up(vm))
}
