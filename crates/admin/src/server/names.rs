//! Whether there is what somebody names, and what they probably meant where there is not.

use std::collections::BTreeSet;

use worker::vms::{VmManager, VmManagerError};

use crate::orders::DeletionRequest;
use crate::unknown_name::nearest_of;
use crate::{ApiError, ErrorCode};

/// Why nothing can be kept of what `request` names: there is no such VM or disk. Nothing where there is.
///
/// # Errors
/// The host refuses to list the volumes.
pub(super) async fn unknown(
    vm_manager: &VmManager,
    request: &DeletionRequest,
) -> Result<Option<ApiError>, VmManagerError> {
    let (vm, disk) = match request {
        DeletionRequest::All => return Ok(None),
        DeletionRequest::Vm { vm } => (vm, None),
        DeletionRequest::Volume { vm, disk } => (vm, Some(disk)),
    };
    let volumes = vm_manager.list_volumes_async().await?;
    let (present, removed) = (vm_manager.list_vms(), vm_manager.list_removed_vms());
    let described = present.iter().filter(|info| info.id == *vm).filter_map(|info| info.machine.as_ref());
    let described = described.flat_map(|machine| machine.disks.iter().map(|disk| disk.id.as_str()));
    let lying = volumes.iter().filter(|volume| volume.vm == *vm).map(|volume| volume.disk.as_str());
    let disks: BTreeSet<&str> = described.chain(lying).collect();
    let damaged = vm_manager.list_damaged();
    let vms = present.iter().map(|info| &info.id).chain(removed.iter().map(|vm| &vm.assignment.id));
    let vms = vms.chain(volumes.iter().map(|volume| &volume.vm)).chain(damaged.keys());
    let vms: BTreeSet<&str> = vms.map(|vm| vm.as_str()).collect();
    Ok(no_such_vm(vm.as_str(), &vms).or_else(|| no_such_disk(vm.as_str(), disk?, &disks)))
}

fn no_such_vm(vm: &str, known: &BTreeSet<&str>) -> Option<ApiError> {
    let message = match known.is_empty() {
        false => format!("there is no VM {vm}, and nothing is kept of one"),
        true => format!("there is no VM {vm}, and nothing is kept of any"),
    };
    unless_known(vm, known, message, vm)
}

fn no_such_disk(vm: &str, disk: &str, known: &BTreeSet<&str>) -> Option<ApiError> {
    let message = match known.is_empty() {
        false => format!("VM {vm} has no disk {disk:?}"),
        true => format!("VM {vm} has no disk {disk:?}, nor any other"),
    };
    unless_known(disk, known, message, &format!("{vm}/{disk}"))
}

fn unless_known(name: &str, known: &BTreeSet<&str>, message: String, what: &str) -> Option<ApiError> {
    if known.contains(name) {
        return None;
    }
    let names: Vec<&str> = known.iter().copied().collect();
    Some(ApiError::new(ErrorCode::NothingKept, message).about(what).hint(nearest_of(name, &names)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_known_is_told_with_the_nearest() {
        let known = BTreeSet::from(["db-1", "web-1"]);
        assert_eq!(no_such_vm("web-1", &known), None);
        let told = no_such_vm("wbe-1", &known).expect("unknown").to_string();
        assert_eq!(told, "there is no VM wbe-1, and nothing is kept of one; the nearest is web-1");
        let told = no_such_vm("web-1", &BTreeSet::new()).expect("unknown").to_string();
        assert_eq!(told, "there is no VM web-1, and nothing is kept of any");

        let known = BTreeSet::from(["data", "disk0"]);
        assert_eq!(no_such_disk("db-1", "data", &known), None);
        let told = no_such_disk("db-1", "disk1", &known).expect("unknown").to_string();
        assert_eq!(told, "VM db-1 has no disk \"disk1\"; the nearest is disk0");
        let told = no_such_disk("db-1", "data", &BTreeSet::new()).expect("unknown").to_string();
        assert_eq!(told, "VM db-1 has no disk \"data\", nor any other");
    }
}
