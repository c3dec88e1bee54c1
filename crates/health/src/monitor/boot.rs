//! What is known of one boot of the guest: which it is, and what the guest reported of it by itself. Pure.

use std::collections::BTreeSet;

use vm_model::{Health, MachinePhase, MachineStatus, ProbeCheck, SystemdReport};

use crate::finding::Finding;
use crate::notify::{NotifyMessage, absorb, finding};
use crate::state::Guest;

/// One boot.
#[derive(Clone, Debug)]
pub(super) struct Boot {
    /// How many resets came before it.
    resets: u64,
    /// Whether nothing is heard of its machine any more.
    is_lost: bool,
    /// Probes whose text was found on the console, by their place.
    markers: BTreeSet<usize>,
    /// What systemd reported, as far as it was heard.
    systemd: SystemdReport,
    /// Whether it may have reported while nobody listened.
    may_have_missed: bool,
}

impl Boot {
    /// The boot that `status` is of, from its beginning.
    pub(super) fn begin(status: &MachineStatus) -> Self {
        Self {
            resets: status.resets.total(),
            is_lost: false,
            markers: BTreeSet::new(),
            systemd: SystemdReport::default(),
            may_have_missed: false,
        }
    }

    /// Which boot of its machine it is.
    pub(super) fn number(&self) -> u64 {
        self.resets
    }

    /// It began under an earlier worker, which knew `known`. Between the two nobody listened. Answers what is known of this
    /// boot: the guest may have been reset meanwhile.
    pub(super) fn adopt(&mut self, known: Option<Health>) -> Option<Health> {
        let known = known.filter(|known| known.boot == self.resets);
        self.systemd = known.as_ref().and_then(|known| known.systemd.clone()).unwrap_or_default();
        self.may_have_missed = true;
        known
    }

    /// Nothing is heard of its machine any more.
    pub(super) fn end(&mut self) {
        self.is_lost = true;
    }

    /// Whether its machine has ended.
    pub(super) fn is_over(&self, status: &MachineStatus) -> bool {
        self.is_lost || status.phase.exit().is_some()
    }

    /// Whether `status` is of another boot.
    pub(super) fn is_another(&self, status: &MachineStatus) -> bool {
        status.resets.total() != self.resets
    }

    /// The text of the probe at `place` was found.
    pub(super) fn found(&mut self, place: usize) {
        self.markers.insert(place);
    }

    /// Its systemd reported.
    pub(super) fn heard(&mut self, message: NotifyMessage) {
        absorb(&mut self.systemd, message);
    }

    /// What systemd has reported.
    pub(super) fn systemd(&self) -> Option<&SystemdReport> {
        Some(&self.systemd).filter(|report| **report != SystemdReport::default())
    }

    /// What the probe at `place` finds in what the guest reported; `None` where it has to be asked.
    pub(super) fn known(&self, place: usize, check: &ProbeCheck) -> Option<Finding> {
        match check {
            ProbeCheck::Console { .. } if self.markers.contains(&place) => Some(Finding::Success),
            ProbeCheck::Console { marker } => {
                Some(Finding::Failure(format!("{marker:?} has not stood on the console")))
            }
            ProbeCheck::Systemd { unit } => Some(match finding(&self.systemd, unit.as_deref()) {
                Finding::Failure(_) if self.may_have_missed && self.systemd.shutdown.is_none() => {
                    Finding::Unknown("the guest may have reported while no worker listened".to_owned())
                }
                found => found,
            }),
            ProbeCheck::Tcp { .. } | ProbeCheck::Http(_) | ProbeCheck::Vsock { .. } => None,
        }
    }
}

/// What the guest does, as far as its probes are concerned.
pub(super) fn guest_of(status: &MachineStatus) -> Guest {
    match &status.phase {
        // Its vCPUs wait for a disk of the host.
        MachinePhase::Running if status.disk_trouble.is_some() => Guest::Paused,
        MachinePhase::Running => Guest::Running,
        MachinePhase::Paused => Guest::Paused,
        MachinePhase::Booting | MachinePhase::Stopping | MachinePhase::Exited(_) => Guest::Absent,
    }
}
