//! How long what a worker does takes: recorded from any thread, without waiting.

use std::time::Duration;

use vm_model::{DurationCounts, DurationRecorder, VmStatus};

/// The phases that a VM can be in, by name.
pub const PHASES: [&str; 8] =
    ["creating", "booting", "running", "paused", "stopping", "stopped", "restarting", "failed"];

/// The steps of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartStep {
    /// Verifying and opening the artifact.
    Artifact,
    /// Preparing disks.
    Disks,
    /// Setting up the network.
    Network,
    /// From the request to build the machine until its first vCPU was entered.
    FirstEntry,
    /// From the same request until the guest's first console byte.
    FirstConsoleByte,
}

impl StartStep {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Artifact, Self::Disks, Self::Network, Self::FirstEntry, Self::FirstConsoleByte];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Artifact => "artifact",
            Self::Disks => "disks",
            Self::Network => "network",
            Self::FirstEntry => "first_entry",
            Self::FirstConsoleByte => "first_console_byte",
        }
    }
}

/// What a worker measures of itself.
#[derive(Debug, Default)]
pub struct WorkerMeters {
    /// Taking in one desired state or command.
    pub reconcile: DurationRecorder,
    /// Reading all VMs' counters once.
    pub sampling: DurationRecorder,
    steps: [DurationRecorder; 5],
    phases: [DurationRecorder; 8],
}

/// What [`WorkerMeters`] has recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerDurations {
    /// Taking in one desired state or command.
    pub reconcile: DurationCounts,
    /// Reading all VMs' counters once.
    pub sampling: DurationCounts,
    /// Steps of starts, by name.
    pub steps: [(&'static str, DurationCounts); 5],
    /// Phases that VMs have left, by name.
    pub phases: [(&'static str, DurationCounts); 8],
}

impl WorkerMeters {
    /// A start took this long for `step`.
    pub fn step_done(&self, step: StartStep, took: Duration) {
        let index = StartStep::ALL.iter().position(|one| *one == step);
        if let Some(recorder) = index.and_then(|index| self.steps.get(index)) {
            recorder.record(took);
        }
    }

    /// A VM has left the phase `status` after this long.
    pub fn phase_left(&self, status: &VmStatus, lasted: Duration) {
        let index = PHASES.iter().position(|phase| *phase == status.phase_name());
        if let Some(recorder) = index.and_then(|index| self.phases.get(index)) {
            recorder.record(lasted);
        }
    }

    /// What was recorded so far.
    pub fn read(&self) -> WorkerDurations {
        let named = |name, recorder: &DurationRecorder| (name, recorder.counts());
        WorkerDurations {
            reconcile: self.reconcile.counts(),
            sampling: self.sampling.counts(),
            steps: std::array::from_fn(|index| named(StartStep::ALL[index].name(), &self.steps[index])),
            phases: std::array::from_fn(|index| named(PHASES[index], &self.phases[index])),
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_model::{FailureKind, FailureReason};

    use super::*;

    #[test]
    fn every_phase_and_step_has_a_place() {
        let meters = WorkerMeters::default();
        let failed = FailureReason::new(FailureKind::Host, String::new());
        let statuses = [
            VmStatus::Creating,
            VmStatus::Booting,
            VmStatus::Running,
            VmStatus::Paused,
            VmStatus::Stopping,
            VmStatus::Stopped,
            VmStatus::Restarting,
            VmStatus::Failed(failed),
        ];
        statuses.iter().for_each(|status| meters.phase_left(status, Duration::from_secs(1)));
        StartStep::ALL.into_iter().for_each(|step| meters.step_done(step, Duration::from_secs(2)));
        let read = meters.read();
        assert!(read.phases.iter().all(|(_, counts)| counts.count() == 1), "{:?}", read.phases);
        assert!(read.steps.iter().all(|(_, counts)| counts.sum == Duration::from_secs(2)));
    }
}
