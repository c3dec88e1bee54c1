//! What a machine did since it was looked at last, and how that is told of its VM. Pure.
//!
//! A machine that is made anew in place stays the same to its supervisor. It is noticed by its counts alone, which tell
//! also of what came and went between two looks.

use tracing::info;
use vm_model::{
    BootTimings, BootTrouble, DiskTrouble, MachinePhase, MachineStatus, ResetCounts, ThreadHealth, VmStatus,
};

use crate::vms::{VmInfo, VmTimings};

/// How often a machine began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Boots {
    /// It got as far as its first instruction, or was parked before it.
    pub(super) starts: u64,
    /// It was made anew in place.
    pub(super) resets: ResetCounts,
}

/// What a machine did since it was looked at before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct News {
    /// Where it is in its life.
    pub(super) phase: MachinePhase,
    /// How often it began since.
    pub(super) boots: Boots,
    /// How long the first steps of its newest boot took.
    pub(super) timings: BootTimings,
    /// Whether its thread stands still.
    pub(super) hung: bool,
    /// The disk that its vCPUs wait for.
    pub(super) disk_trouble: Option<DiskTrouble>,
    /// The trouble that its guest told of while it booted.
    pub(super) boot_trouble: Option<BootTrouble>,
}

impl News {
    /// What is new in `status` and `health` to whoever has seen `seen`, which is brought up to date.
    pub(super) fn of(status: &MachineStatus, health: ThreadHealth, seen: &mut Boots) -> Self {
        let (phase, hung) = (status.phase.clone(), status.is_hung(health));
        let MachineStatus { timings, resets, .. } = *status;
        let (disk_trouble, boot_trouble) = (status.disk_trouble.clone(), status.boot_trouble.clone());
        // Every boot but the newest got as far as a reset.
        let newest = match phase {
            MachinePhase::Running | MachinePhase::Paused | MachinePhase::Stopping => 1,
            MachinePhase::Booting | MachinePhase::Exited(_) => u64::from(timings.first_entry.is_some()),
        };
        let starts = resets.total().saturating_add(newest);
        let boots = Boots {
            starts: starts.saturating_sub(seen.starts),
            resets: ResetCounts {
                by_guest: resets.by_guest.saturating_sub(seen.resets.by_guest),
                by_button: resets.by_button.saturating_sub(seen.resets.by_button),
            },
        };
        *seen = Boots { starts: starts.max(seen.starts), resets };
        Self { phase, boots, timings, hung, disk_trouble, boot_trouble }
    }

    /// Tells it in `info`; whether that changed anything.
    pub(super) fn tell(self, info: &mut VmInfo) -> bool {
        let Self { phase, boots, timings, hung, disk_trouble, boot_trouble } = self;
        let before = (info.timings, info.hung);
        let had_trouble = (info.disk_trouble.take(), std::mem::replace(&mut info.boot_trouble, boot_trouble));
        let resets = boots.resets;
        if resets.total() > 0 {
            info!(vm_id = %info.id, ?resets, "the machine was made anew in place");
            // A boot in place has no other steps.
            info.timings = VmTimings::default();
        }
        info.timings.first_entry = timings.first_entry;
        info.timings.first_console_byte = timings.first_console_byte;
        info.hung = hung;
        info.starts = info.starts.saturating_add(boots.starts);
        info.resets = info.resets.saturating_add(resets.total());
        info.restarts = info.restarts.saturating_add(resets.by_guest);
        let status = match phase {
            MachinePhase::Booting => Some(VmStatus::Booting),
            MachinePhase::Running if disk_trouble.is_none() => Some(VmStatus::Running),
            MachinePhase::Running | MachinePhase::Paused => Some(VmStatus::Paused),
            MachinePhase::Stopping | MachinePhase::Exited(_) => None,
        };
        info.disk_trouble = disk_trouble;
        // Of a machine that is being stopped, whoever does so tells.
        let is_up = matches!(info.status, VmStatus::Booting | VmStatus::Running | VmStatus::Paused);
        let status = status.filter(|status| is_up && *status != info.status);
        let is_new = status.is_some() || boots != Boots::default();
        if let Some(status) = status {
            info!(vm_id = %info.id, phase = status.phase_name(), "now {status}");
            info.status = status;
        }
        let is_trouble_new = (&info.disk_trouble, &info.boot_trouble) != (&had_trouble.0, &had_trouble.1);
        is_new || (info.timings, info.hung) != before || is_trouble_new
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vm_model::{Assignment, FailureClass, Generation, MachineExit, VmId};

    use super::*;

    fn info() -> VmInfo {
        let assignment = Assignment::new(VmId::new("vm"), "", "/nix/store/x");
        let mut info = VmInfo::new(assignment, Generation::default());
        (info.status, info.starts) = (VmStatus::Running, 1);
        info.timings.artifact = Some(Duration::from_secs(1));
        info
    }

    fn status(phase: MachinePhase, by_guest: u64, by_button: u64) -> MachineStatus {
        let first_entry = (phase == MachinePhase::Running).then_some(Duration::from_millis(7));
        MachineStatus {
            phase,
            resets: ResetCounts { by_guest, by_button },
            timings: BootTimings { first_entry, first_console_byte: None },
            ..MachineStatus::booting()
        }
    }

    #[test]
    fn resets_in_place_are_counted_once_however_often_one_looks() {
        let (mut info, mut seen) = (info(), Boots { starts: 1, ..Boots::default() });
        let mut look = |status: &MachineStatus| {
            let changed = News::of(status, ThreadHealth::Turning, &mut seen).tell(&mut info);
            (changed, info.status.clone(), info.starts, info.resets, info.restarts)
        };
        let running = status(MachinePhase::Running, 0, 0);
        assert_eq!(look(&running), (true, VmStatus::Running, 1, 0, 0), "a timing is new");
        assert_eq!(look(&running), (false, VmStatus::Running, 1, 0, 0));
        let booting = status(MachinePhase::Booting, 1, 0);
        assert_eq!(look(&booting), (true, VmStatus::Booting, 1, 1, 1));
        assert_eq!(look(&booting), (false, VmStatus::Booting, 1, 1, 1));
        assert_eq!(look(&status(MachinePhase::Running, 1, 0)), (true, VmStatus::Running, 2, 1, 1));
        // Three between two looks, one of them by the button.
        let later = status(MachinePhase::Running, 3, 1);
        assert_eq!(look(&later), (true, VmStatus::Running, 5, 4, 3));
        assert_eq!(look(&later), (false, VmStatus::Running, 5, 4, 3));
        // One that was never entered.
        assert_eq!(
            look(&status(MachinePhase::Exited(MachineExit::Killed), 4, 1)),
            (true, VmStatus::Running, 5, 5, 4)
        );
        assert_eq!(info.timings, VmTimings::default(), "nothing was prepared for the newest boot");
    }

    #[test]
    fn a_machine_with_a_disk_in_trouble_is_told_to_be_paused() {
        let (mut info, mut seen) = (info(), Boots { starts: 1, ..Boots::default() });
        let mut look = |phase, trouble: Option<&str>| {
            let disk_trouble =
                trouble.map(|problem| DiskTrouble { disk: "root".to_owned(), problem: problem.to_owned() });
            let status = MachineStatus { disk_trouble, ..status(phase, 0, 0) };
            let changed = News::of(&status, ThreadHealth::Turning, &mut seen).tell(&mut info);
            (changed, info.status.clone(), info.disk_trouble.as_ref().map(|trouble| trouble.problem.clone()))
        };
        look(MachinePhase::Running, None);
        let told = |problem: &str| Some(problem.to_owned());
        assert_eq!(look(MachinePhase::Running, Some("full")), (true, VmStatus::Paused, told("full")));
        assert_eq!(look(MachinePhase::Running, Some("full")), (false, VmStatus::Paused, told("full")));
        assert_eq!(look(MachinePhase::Running, Some("broken")), (true, VmStatus::Paused, told("broken")));
        assert_eq!(look(MachinePhase::Running, None), (true, VmStatus::Running, None));
        look(MachinePhase::Paused, Some("full"));
        assert_eq!(look(MachinePhase::Paused, None), (true, VmStatus::Paused, None));
    }

    #[test]
    fn a_guest_that_waits_for_a_person_is_told_to_run_with_trouble_until_its_next_boot() {
        let (mut info, mut seen) = (info(), Boots { starts: 1, ..Boots::default() });
        let mut look = |trouble: Option<&BootTrouble>, resets| {
            let boot_trouble = trouble.cloned();
            let status = MachineStatus { boot_trouble, ..status(MachinePhase::Running, resets, 0) };
            let changed = News::of(&status, ThreadHealth::Turning, &mut seen).tell(&mut info);
            (changed, info.status.clone(), info.boot_trouble.clone())
        };
        look(None, 0);
        let class = FailureClass::NoRootDevice;
        let (line, hint) = ("ALERT!".to_owned(), class.hint().to_owned());
        let trouble = BootTrouble { class, line, hint };
        let told = Some(trouble.clone());
        assert_eq!(look(Some(&trouble), 0), (true, VmStatus::Running, told.clone()));
        assert_eq!(look(Some(&trouble), 0), (false, VmStatus::Running, told));
        assert_eq!(look(None, 1), (true, VmStatus::Running, None));
    }

    #[test]
    fn what_is_being_stopped_is_not_told_to_run() {
        let (mut info, mut seen) = (info(), Boots { starts: 1, ..Boots::default() });
        info.status = VmStatus::Stopping;
        News::of(&status(MachinePhase::Running, 1, 0), ThreadHealth::Turning, &mut seen).tell(&mut info);
        assert_eq!((info.status, info.restarts), (VmStatus::Stopping, 1));
    }
}
