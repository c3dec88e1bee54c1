//! What one machine is made of, written once for every place that speaks of it.
//!
//! [`MachineSpec`] is generic over how a file is named: a path while an artifact is being read, an open file
//! once somebody decided what may be opened, an index into passed descriptors on a wire between processes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Bytes, CpuSpec, DiskOptions, GuestServices, MacAddress, NicOptions};

/// The most devices on a machine's PCI bus: disks, interfaces, and one each of the entropy device, balloon, socket
/// device, virtio console and watchdog.
pub const PCI_DEVICES_MAX: usize = 31;

/// A whole machine. Files are `F`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec<F> {
    /// The machine's stable identity; SMBIOS shows it to the guest.
    pub uuid: Uuid,
    /// Its processors.
    pub cpus: CpuSpec,
    /// Its memory.
    pub memory: MemorySpec,
    /// What it boots.
    pub boot: BootSpec<F>,
    /// Its disks, in the order in which the guest meets them.
    pub disks: Vec<DiskSpec<F>>,
    /// Its network interfaces, in the order in which the guest meets them.
    pub nics: Vec<NicSpec<F>>,
    /// What stands behind its first serial port.
    pub serial: SerialMode,
    /// Whether it has an entropy device.
    pub rng: bool,
    /// By what else guest and host help each other.
    pub services: GuestServices<F>,
}

/// Memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySpec {
    /// Size; a whole number of 4 KiB pages.
    pub size: Bytes,
    /// What it lies on.
    pub backing: MemoryBacking,
    /// Whether every page is made present before the first instruction.
    pub prefault: bool,
}

/// What guest memory lies on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryBacking {
    /// What makes guests quick on the host: see [`MemoryBacking::resolve`]. No machine is made of it.
    #[default]
    Automatic,
    /// One sealed memfd, mapped shared.
    SharedMemfd,
    /// Private anonymous memory that asks for transparent huge pages.
    AnonymousHuge,
    /// Private anonymous memory offered to kernel same-page merging.
    AnonymousMergeable,
    /// One sealed memfd of pages that the host has set aside, mapped shared and reserved whole.
    HugePages(HugePageSize),
}

impl MemoryBacking {
    /// What memory lies on where the host gives huge pages as `support` says; what is not automatic stays as it is.
    ///
    /// Shared memory can be handed to other processes and tells its resident size at once, so it is taken where it has
    /// huge pages, and where nothing has.
    #[must_use]
    pub const fn resolve(self, support: HugePageSupport) -> Self {
        match (self, support) {
            (Self::Automatic, HugePageSupport { shared: false, private: true }) => Self::AnonymousHuge,
            (
                Self::Automatic,
                HugePageSupport { shared: true, .. } | HugePageSupport { private: false, .. },
            ) => Self::SharedMemfd,
            (
                fixed @ (Self::SharedMemfd
                | Self::AnonymousHuge
                | Self::AnonymousMergeable
                | Self::HugePages(_)),
                _,
            ) => fixed,
        }
    }
}

/// Which memory a host gives transparent huge pages when it asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePageSupport {
    /// Shared memory.
    pub shared: bool,
    /// Private anonymous memory.
    pub private: bool,
}

/// The size of a huge page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HugePageSize {
    /// 2 MiB.
    TwoMib,
    /// 1 GiB.
    OneGib,
}

impl HugePageSize {
    /// How large it is.
    #[must_use]
    pub const fn bytes(self) -> Bytes {
        match self {
            Self::TwoMib => Bytes::from_mib(2),
            Self::OneGib => Bytes::from_mib(1024),
        }
    }
}

/// What the machine boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSpec<F> {
    /// The kernel: an ELF with a PVH note, one of Linux with its 64-bit entry, or a bzImage.
    pub kernel: F,
    /// The initial RAM disk.
    pub initrd: Option<F>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// A block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec<F> {
    /// The disk's name in reports and metrics, unique in its machine.
    pub id: String,
    /// The image.
    pub file: F,
    /// The image opened a second time, past the page cache, for a process that may open nothing itself.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub direct_file: Option<F>,
    /// How the image is laid out. Always stated, never probed.
    pub format: DiskFormat,
    /// What the guest may do with it.
    pub access: DiskAccess,
    /// What the guest reads as the serial number; at most 20 bytes reach it (virtio 1.2 §5.2.6.1).
    pub serial: Option<String>,
    /// Descriptors a queue, a power of two.
    pub queue_size: u16,
    /// How it is served.
    #[serde(default)]
    pub options: DiskOptions,
}

/// The layout of a disk image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskFormat {
    /// Byte N of the file is byte N of the disk.
    #[default]
    Raw,
    /// A qcow2 image that stands alone; it can be read only.
    Qcow2,
}

/// What a guest may do with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskAccess {
    /// Reads only.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSpec<F> {
    /// The interface's name in reports and metrics, unique in its machine.
    pub id: String,
    /// The queues of its TAP, one a pair of the guest's queues: at least one and at most 32, each opened with a virtio-net
    /// header of 12 bytes and attached; several only with `IFF_MULTI_QUEUE`.
    pub taps: Vec<F>,
    /// The guest's hardware address.
    pub mac: MacAddress,
    /// The MTU told to the guest; `None` tells none.
    pub mtu: Option<u16>,
    /// Descriptors a queue, a power of two.
    pub queue_size: u16,
    /// What serves its queues in the machine's stead, if that is to be so and can be.
    #[serde(default = "none")]
    pub vhost: Option<VhostSpec<F>>,
    /// How it is served.
    #[serde(default)]
    pub options: NicOptions,
}

fn none<T>() -> Option<T> {
    None
}

/// The host kernel's network back end for an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VhostSpec<F> {
    /// `/dev/vhost-net`, opened once a queue of the TAP.
    pub devices: Vec<F>,
    /// The directory of the TAP's counters in sysfs: what the kernel moves nobody else counts.
    pub statistics: F,
}

/// What stands behind the serial port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SerialMode {
    /// The console recorder.
    #[default]
    Console,
    /// A port that swallows what is written.
    Null,
}

/// What a file is for; names it in errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRole<'a> {
    /// [`BootSpec::kernel`].
    Kernel,
    /// [`BootSpec::initrd`].
    Initrd,
    /// The image of the disk with this id.
    Disk(&'a str, DiskAccess),
    /// [`DiskSpec::direct_file`] of the disk with this id.
    DirectDisk(&'a str),
    /// One of the queues of the TAP of the interface with this id.
    Tap(&'a str),
    /// One of the back ends of the interface with this id.
    Vhost(&'a str),
    /// [`VhostSpec::statistics`] of the interface with this id.
    NicStatistics(&'a str),
    /// [`crate::VsockSpec::directory`].
    VsockDirectory,
}

impl<F> MachineSpec<F> {
    /// The same machine with every file borrowed: what [`MachineSpec::try_map_files`] makes a second one of, where files
    /// can be duplicated.
    pub fn as_ref(&self) -> MachineSpec<&F> {
        MachineSpec {
            uuid: self.uuid,
            cpus: self.cpus.clone(),
            memory: self.memory,
            boot: self.boot.as_ref(),
            disks: self.disks.iter().map(DiskSpec::as_ref).collect(),
            nics: self.nics.iter().map(NicSpec::as_ref).collect(),
            serial: self.serial,
            rng: self.rng,
            services: self.services.as_ref(),
        }
    }

    /// The same machine with every file turned into another form, in a fixed order: kernel, initrd, disks,
    /// interfaces, services.
    ///
    /// # Errors
    /// The first error of `convert`; files converted before it are dropped.
    pub fn try_map_files<G, E>(
        self,
        mut convert: impl FnMut(FileRole<'_>, F) -> Result<G, E>,
    ) -> Result<MachineSpec<G>, E> {
        let boot = self.boot.try_map_files(&mut convert)?;
        let disks = self.disks.into_iter().map(|disk| disk.try_map_file(&mut convert));
        let disks = disks.collect::<Result<_, E>>()?;
        let nics = self.nics.into_iter().map(|nic| nic.try_map_file(&mut convert));
        let nics = nics.collect::<Result<_, E>>()?;
        Ok(MachineSpec {
            uuid: self.uuid,
            cpus: self.cpus,
            memory: self.memory,
            boot,
            disks,
            nics,
            serial: self.serial,
            rng: self.rng,
            services: self.services.try_map_files(&mut convert)?,
        })
    }
}

impl<F> BootSpec<F> {
    fn as_ref(&self) -> BootSpec<&F> {
        BootSpec { kernel: &self.kernel, initrd: self.initrd.as_ref(), cmdline: self.cmdline.clone() }
    }

    fn try_map_files<G, E>(
        self,
        convert: &mut impl FnMut(FileRole<'_>, F) -> Result<G, E>,
    ) -> Result<BootSpec<G>, E> {
        let kernel = convert(FileRole::Kernel, self.kernel)?;
        let initrd = self.initrd.map(|file| convert(FileRole::Initrd, file));
        Ok(BootSpec { kernel, initrd: initrd.transpose()?, cmdline: self.cmdline })
    }
}

impl<F> DiskSpec<F> {
    fn as_ref(&self) -> DiskSpec<&F> {
        DiskSpec {
            id: self.id.clone(),
            file: &self.file,
            direct_file: self.direct_file.as_ref(),
            format: self.format,
            access: self.access,
            serial: self.serial.clone(),
            queue_size: self.queue_size,
            options: self.options,
        }
    }

    fn try_map_file<G, E>(
        self,
        convert: &mut impl FnMut(FileRole<'_>, F) -> Result<G, E>,
    ) -> Result<DiskSpec<G>, E> {
        let file = convert(FileRole::Disk(&self.id, self.access), self.file)?;
        let direct_file = self.direct_file.map(|file| convert(FileRole::DirectDisk(&self.id), file));
        Ok(DiskSpec {
            direct_file: direct_file.transpose()?,
            id: self.id,
            file,
            format: self.format,
            access: self.access,
            serial: self.serial,
            queue_size: self.queue_size,
            options: self.options,
        })
    }
}

impl<F> NicSpec<F> {
    fn as_ref(&self) -> NicSpec<&F> {
        NicSpec {
            id: self.id.clone(),
            taps: self.taps.iter().collect(),
            mac: self.mac,
            mtu: self.mtu,
            queue_size: self.queue_size,
            vhost: self.vhost.as_ref().map(VhostSpec::as_ref),
            options: self.options,
        }
    }

    fn try_map_file<G, E>(
        self,
        convert: &mut impl FnMut(FileRole<'_>, F) -> Result<G, E>,
    ) -> Result<NicSpec<G>, E> {
        let taps = self.taps.into_iter().map(|tap| convert(FileRole::Tap(&self.id), tap));
        let taps = taps.collect::<Result<_, E>>()?;
        let vhost = self.vhost.map(|vhost| vhost.try_map_files(&self.id, convert)).transpose()?;
        Ok(NicSpec {
            id: self.id,
            taps,
            mac: self.mac,
            mtu: self.mtu,
            queue_size: self.queue_size,
            vhost,
            options: self.options,
        })
    }
}

impl<F> VhostSpec<F> {
    fn as_ref(&self) -> VhostSpec<&F> {
        VhostSpec { devices: self.devices.iter().collect(), statistics: &self.statistics }
    }

    fn try_map_files<G, E>(
        self,
        nic: &str,
        convert: &mut impl FnMut(FileRole<'_>, F) -> Result<G, E>,
    ) -> Result<VhostSpec<G>, E> {
        let devices = self.devices.into_iter().map(|device| convert(FileRole::Vhost(nic), device));
        let devices = devices.collect::<Result<_, E>>()?;
        Ok(VhostSpec { devices, statistics: convert(FileRole::NicStatistics(nic), self.statistics)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VsockSpec;

    fn spec() -> MachineSpec<&'static str> {
        MachineSpec {
            uuid: Uuid::nil(),
            cpus: CpuSpec::default(),
            memory: MemorySpec {
                size: Bytes::from_mib(64),
                backing: MemoryBacking::default(),
                prefault: false,
            },
            boot: BootSpec { kernel: "kernel", initrd: Some("initrd"), cmdline: String::new() },
            disks: vec![DiskSpec {
                direct_file: None,
                id: "root".into(),
                file: "disk",
                format: DiskFormat::Raw,
                access: DiskAccess::ReadOnly,
                serial: None,
                queue_size: 128,
                options: DiskOptions::default(),
            }],
            nics: vec![NicSpec {
                id: "net0".into(),
                taps: vec!["tap-0", "tap-1"],
                mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
                mtu: None,
                queue_size: 256,
                vhost: Some(VhostSpec { devices: vec!["vhost-0", "vhost-1"], statistics: "counters" }),
                options: NicOptions::default(),
            }],
            serial: SerialMode::Console,
            rng: true,
            services: GuestServices {
                vsock: Some(VsockSpec { cid: 3, directory: "sockets" }),
                ..GuestServices::default()
            },
        }
    }

    #[test]
    fn automatic_memory_is_private_only_where_that_alone_has_huge_pages() {
        let on = |shared, private| MemoryBacking::Automatic.resolve(HugePageSupport { shared, private });
        assert_eq!(on(true, true), MemoryBacking::SharedMemfd);
        assert_eq!(on(true, false), MemoryBacking::SharedMemfd);
        assert_eq!(on(false, true), MemoryBacking::AnonymousHuge);
        assert_eq!(on(false, false), MemoryBacking::SharedMemfd);
        for fixed in [
            MemoryBacking::SharedMemfd,
            MemoryBacking::AnonymousHuge,
            MemoryBacking::AnonymousMergeable,
            MemoryBacking::HugePages(HugePageSize::TwoMib),
        ] {
            assert_eq!(fixed.resolve(HugePageSupport { shared: false, private: true }), fixed);
        }
    }

    #[test]
    fn files_are_visited_once_each_and_by_role() {
        let mut seen = Vec::new();
        let mapped = spec()
            .try_map_files(|role, file| {
                seen.push(format!("{role:?}={file}"));
                Ok::<_, ()>(file.len())
            })
            .expect("nothing fails");
        assert_eq!(
            seen,
            [
                "Kernel=kernel",
                "Initrd=initrd",
                "Disk(\"root\", ReadOnly)=disk",
                "Tap(\"net0\")=tap-0",
                "Tap(\"net0\")=tap-1",
                "Vhost(\"net0\")=vhost-0",
                "Vhost(\"net0\")=vhost-1",
                "NicStatistics(\"net0\")=counters",
                "VsockDirectory=sockets"
            ]
        );
        assert_eq!(mapped.disks[0].file, 4);
    }

    #[test]
    fn a_borrowed_description_makes_an_equal_one() {
        let original = spec();
        let copy = original.as_ref().try_map_files(|_, file| Ok::<_, ()>(*file)).expect("nothing fails");
        assert_eq!(copy, original);
    }

    #[test]
    fn the_first_error_ends_the_mapping() {
        let result =
            spec().try_map_files(|role, _| if role == FileRole::Initrd { Err("no") } else { Ok(()) });
        assert_eq!(result, Err("no"));
    }
}
