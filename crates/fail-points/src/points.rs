//! The list of all points: every step after which something new is on disk or in the kernel, and those that a test has wait.

/// Declares [`FailPoint`], so that no point is without a name or left out of the list.
macro_rules! fail_points {
    ($($(#[$documentation:meta])+ $point:ident = $name:literal,)+) => {
        /// A step after which the process can be ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FailPoint {
            $($(#[$documentation])+ $point,)+
        }

        impl FailPoint {
            /// Every point, in the order in which a VM meets them.
            pub const ALL: &'static [Self] = &[$(Self::$point,)+];

            /// Its name in the environment.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)+
                }
            }
        }
    };
}

fail_points! {
    /// A file is about to be replaced. The subject of this and the next four is the file's name.
    FileBegun = "file.begun",
    /// Its new content is written beside it and not synced.
    FileWritten = "file.written",
    /// The new content is synced.
    FileSynced = "file.synced",
    /// It has the file's name; the directory is not synced.
    FileRenamed = "file.renamed",
    /// The directory is synced.
    FileReplaced = "file.replaced",

    /// A desired state is on disk and nothing of it ordered.
    DesiredKept = "desired.kept",
    /// One VM's part of a desired state is ordered.
    DesiredOrdered = "desired.ordered",

    /// A VM has a directory and no record.
    VmDirectoryMade = "vm-directory.made",
    /// That a run begins is on record.
    StartRecorded = "start.recorded",
    /// The artifact is verified and contents of volumes are made.
    StartStaged = "start.staged",
    /// The VM's lock is held.
    StartLocked = "start.locked",
    /// The directory of its console is there.
    StartConsoleOpened = "start.console-opened",
    /// Its interfaces have addresses.
    StartLeased = "start.leased",
    /// Its volumes are switched over to.
    StartSwitched = "start.switched",
    /// Its TAPs are attached.
    StartAttached = "start.attached",
    /// Its machine runs; that it does is not on record.
    StartLaunched = "start.launched",
    /// What the start replaced is put in order.
    StartSettled = "start.settled",
    /// A launch has failed, and what it took is to be given back.
    StartFailed = "start.failed",

    /// The socket of a host process is bound; there is no process yet.
    HostProcessBound = "host-process.bound",
    /// The process is started and has not been spoken with.
    HostProcessSpawned = "host-process.spawned",
    /// It has said its welcome.
    HostProcessGreeted = "host-process.greeted",
    /// A machine is ordered of it, and not known to run.
    HostProcessOrdered = "host-process.ordered",
    /// In the host process: it listens for later workers.
    HostListening = "host.listening",
    /// In the process that runs a machine: the machine's thread is there, and has built nothing yet.
    MachineBuilding = "machine.building",
    /// In the host process: a machine runs, and no worker was told.
    HostLaunched = "host.launched",

    /// A volume has a directory and nothing in it.
    VolumeDirectoryMade = "volume.directory-made",
    /// A new content is made; no record speaks of it.
    VolumeContentMade = "volume.content-made",
    /// The record says that the volume is on its new content, or grows.
    VolumeSwitchRecorded = "volume.switch-recorded",
    /// The new content has its name.
    VolumeNamed = "volume.named",
    /// It is noted beside the VM's record that the volume must be there.
    VolumeNoted = "volume.noted",
    /// The file has grown; the record says that it grows.
    VolumeGrown = "volume.grown",
    /// The content that a disk goes on with is copied for a definition on trial; no record speaks of the copy.
    VolumeCopied = "volume.copied",
    /// The record says that the volume is on what it was on before a trial; the content of the trial is still there.
    VolumeTakenBack = "volume.taken-back",
    /// A switch is taken back on record; the content made for it is still there.
    VolumeUndone = "volume.undone",
    /// The record does not speak of replaced contents any more; their files are there.
    VolumeSettled = "volume.settled",
    /// The volume need not be there any more; it still is.
    VolumeForgotten = "volume.forgotten",
    /// It is moved to where what is there gets deleted.
    VolumeMoved = "volume.moved",
    /// The record does not speak of a kept content any more whose time is over; its file is there.
    VolumeDeletionRecorded = "volume.deletion-recorded",

    /// A machine has ended; that is not on record.
    RunEnded = "run.ended",
    /// Its end is on record, and its host still knows it.
    RunEndRecorded = "run.end-recorded",

    /// That a definition is tried is on record; disks are as they were.
    RolloutRecorded = "rollout.recorded",
    /// That the definition on trial is accepted is on record; the way back is still there.
    RolloutAccepted = "rollout.accepted",
    /// That the definition on trial is refused is on record; its machine may still run.
    RolloutRefused = "rollout.refused",
    /// The disks are as they were before the trial; that is not on record.
    RolloutTakenBack = "rollout.taken-back",

    /// A VM is to be removed, has no machine, and nothing of it is gone yet.
    RemovalBegun = "removal.begun",
    /// It is on record that the VM was removed and is kept.
    RemovalKept = "removal.kept",
    /// It is on record that everything of the VM is to be deleted.
    RemovalMarked = "removal.marked",
    /// Its volumes are moved to where what is there gets deleted.
    RemovalVolumesMoved = "removal.volumes-moved",
    /// They are deleted.
    RemovalVolumesDeleted = "removal.volumes-deleted",
    /// Its addresses are free.
    RemovalLeasesReleased = "removal.leases-released",
    /// Its directory is moved to where what is there gets deleted.
    RemovalDirectoryMoved = "removal.directory-moved",
    /// Nothing of it is left.
    RemovalDone = "removal.done",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own_that_can_stand_in_the_environment() {
        let names: BTreeSet<_> = FailPoint::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), FailPoint::ALL.len());
        assert!(names.iter().all(|name| !name.contains(['@', ':', '='])));
    }
}
