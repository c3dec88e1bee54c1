//! Which volumes a VM is known to have, noted beside the VM's record: a volume that is gone, with its directory or with the
//! file system that it lies on, is told from one that never was.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use vm_model::VmId;

use super::copy::{DiskError, failed};
use super::directory::remove_file;
use super::error::VolumeError;
use super::store::{VolumeStore, names_in};
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

    /// The disks of `vm` whose volumes must be there.
    pub(super) fn disks_known(&self, vm: &VmId) -> Result<Vec<String>, VolumeError> {
        names_in(&self.notes(vm))
    }

    /// The VMs that have volumes which must be there.
    pub(super) fn vms_known(&self) -> Result<Vec<VmId>, VolumeError> {
        let names = names_in(&self.vms)?;
        let vms = names.iter().filter_map(|name| VmId::parse(name).ok());
        Ok(vms.filter(|vm| self.notes(vm).is_dir()).collect())
    }

    fn notes(&self, vm: &VmId) -> PathBuf {
        self.vms.join(vm.as_str()).join("volumes")
    }

    fn note(&self, vm: &VmId, disk: &str) -> PathBuf {
        self.notes(vm).join(disk)
    }
}
