//! Which volumes a VM is known to have, noted beside the VM's record: a volume that is gone, with its directory or with the
//! file system that it lies on, is told from one that never was.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use vm_model::VmId;

use super::copy::{DiskError, failed};
use super::directory::remove_file;
use super::store::VolumeStore;
use crate::records::make_private;

impl VolumeStore {
    /// Whether the volume of `disk` must be there.
    pub(super) fn is_known(&self, vm: &VmId, disk: &str) -> bool {
        self.note(vm, disk).exists()
    }

    /// The volume of `disk` must be there from now on. On return that is on stable storage.
    pub(super) fn know(&self, vm: &VmId, disk: &str) -> Result<(), DiskError> {
        let note = self.note(vm, disk);
        if note.exists() {
            return Ok(());
        }
        let noted = || -> io::Result<()> {
            let directory = self.notes(vm);
            make_private(&directory)?;
            File::create(&note)?.sync_all()?;
            File::open(&directory)?.sync_all()?;
            File::open(self.vms.join(vm.as_str()))?.sync_all()
        };
        noted().map_err(|source| failed("note", &note, source))
    }

    /// The volume of `disk` need not be there any more.
    pub(super) fn unknow(&self, vm: &VmId, disk: &str) -> Result<(), DiskError> {
        let note = self.note(vm, disk);
        remove_file(&note).map_err(|source| failed("forget", &note, source))?;
        // It goes with its last note: while there are others, that is refused.
        let _ = fs::remove_dir(self.notes(vm));
        Ok(())
    }

    fn notes(&self, vm: &VmId) -> PathBuf {
        self.vms.join(vm.as_str()).join("volumes")
    }

    fn note(&self, vm: &VmId, disk: &str) -> PathBuf {
        self.notes(vm).join(disk)
    }
}
