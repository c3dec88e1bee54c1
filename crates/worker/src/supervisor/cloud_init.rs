//! The disk by which a guest's cloud-init is told who it is and what its user wants.
//!
//! It lies in memory alone and is made at each start: nothing of it is on the host's disks, and it is gone with the last
//! process that has it open, however that ends. Whoever runs the machine has it open, so a reset of the guest and another
//! worker need nothing from here.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use cidata::{Interface, Network, Seed, SeedError, seed_disk};
use ipam::Lease;
use nix_artifacts::{CLOUD_INIT_DISK, CloudInitData, CloudInitNetwork, NicRequest};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use thiserror::Error;
use uuid::Uuid;
use vm_model::{
    DiskAccess, DiskFormat, DiskOptions, DiskSpec, FailureKind, FailureReason, Secret, Timestamp, VmId,
};

use super::context::HostContext;
use crate::failure::reason;

/// Descriptors of its queue: it is read once, a file at a time.
const QUEUE_SIZE: u16 = 16;

/// Why there is no disk.
#[derive(Debug, Error)]
enum CloudInitError {
    #[error("the disk for cloud-init cannot be made")]
    Seed(#[source] SeedError),
    #[error("the disk for cloud-init cannot be kept in memory")]
    Memory(#[source] io::Error),
}

/// A disk that is ready to be given to a machine.
pub(super) struct CloudInitDisk {
    pub(super) spec: DiskSpec<OwnedFd>,
    /// Where it is, as the kernel names it.
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// Whose disk it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instance<'a> {
    pub(super) vm: &'a VmId,
    pub(super) uuid: Uuid,
    /// When the content was made of the first disk that the guest can write to, if there is one.
    pub(super) root_made: Option<Timestamp>,
}

/// Makes the disk that tells `data` to the guest of `instance`, whose interfaces are `nics`. Blocks.
pub(super) fn make_disk(
    context: &HostContext,
    instance: Instance<'_>,
    data: &CloudInitData,
    nics: &[(NicRequest, Lease)],
) -> Result<CloudInitDisk, FailureReason> {
    let network = match data.network {
        CloudInitNetwork::Told if !nics.is_empty() => Some(network(context, nics)),
        CloudInitNetwork::Told | CloudInitNetwork::Dhcp => None,
    };
    let seed = Seed {
        instance_id: &instance_id(instance),
        hostname: instance.vm.as_str(),
        user_data: data.user_data.as_ref().map_or(&[], Secret::expose),
        vendor_data: data.vendor_data.as_ref().map(Secret::expose),
        meta_data: &data.meta_data,
        network: network.as_ref(),
    };
    let bytes =
        seed_disk(&seed).map_err(|source| reason(FailureKind::Artifact, &CloudInitError::Seed(source)))?;
    let file = sealed(&bytes).map_err(|source| reason(FailureKind::Host, &CloudInitError::Memory(source)))?;
    let spec = DiskSpec {
        direct_file: None,
        id: CLOUD_INIT_DISK.to_owned(),
        file,
        format: DiskFormat::Raw,
        access: DiskAccess::ReadOnly,
        serial: Some(CLOUD_INIT_DISK.to_owned()),
        queue_size: QUEUE_SIZE,
        options: DiskOptions::default(),
    };
    let path = PathBuf::from(format!("/memfd:{CLOUD_INIT_DISK}"));
    Ok(CloudInitDisk { spec, path, bytes: bytes.len() as u64 })
}

/// Stays the same as long as the guest finds what it wrote: a VM whose disk is made anew is another instance. A copy of the
/// disk for a definition on trial is none.
fn instance_id(instance: Instance<'_>) -> String {
    let Instance { uuid, root_made, .. } = instance;
    match root_made {
        Some(made) => format!("{uuid}-{:x}", made.as_millis()),
        None => uuid.to_string(),
    }
}

fn network(context: &HostContext, nics: &[(NicRequest, Lease)]) -> Network {
    let interfaces = nics.iter().filter_map(|(request, lease)| {
        // Without its network it was given no address.
        let told = context.networks.told(&request.network)?;
        Some(Interface {
            mac: lease.mac,
            address: lease.address,
            prefix: request.mask.unwrap_or(told.mask).to_bits().count_ones(),
            mtu: request.mtu,
            router: told.router,
            name_servers: told.name_servers,
            domain: told.domain,
        })
    });
    Network { interfaces: interfaces.collect() }
}

/// A file in memory with `bytes`, which nobody can change any more.
fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create(CLOUD_INIT_DISK, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_content_of_the_disk_is_another_instance() {
        let (vm, uuid) = (VmId::new("web-1"), Uuid::nil());
        let id = |made: Option<u64>| {
            instance_id(Instance { vm: &vm, uuid, root_made: made.map(Timestamp::from_millis) })
        };
        assert_eq!(id(Some(255)), "00000000-0000-0000-0000-000000000000-ff");
        assert_ne!(id(Some(255)), id(Some(256)));
        assert_eq!(id(None), uuid.to_string());
    }

    #[test]
    fn what_is_sealed_stays_as_it_is() {
        let mut file = File::from(sealed(b"told").expect("a file"));
        assert_eq!(file.metadata().expect("its size").len(), 4);
        assert!(file.write_all(b"x").is_err() && file.set_len(0).is_err());
    }
}
