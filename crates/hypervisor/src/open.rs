//! Opening the KVM device: every way in ends in the same probe, and every failure says what to do about it.

#![expect(unsafe_code, reason = "kvm-ioctls takes ownership of a descriptor by its raw number only")]

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;

use crate::capability::{self, MissingCapabilities};
use crate::facts::{self, HostFacts};
use crate::statistics::KnownLayout;
use crate::vm::{Vm, VmError};

/// The KVM device, opened once and shared by every machine of the process. Cloning shares the descriptor.
#[derive(Debug, Clone)]
pub struct Hypervisor {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    kvm: Kvm,
    facts: HostFacts,
    cpuid: OnceLock<CpuId>,
    saved_msrs: OnceLock<Vec<u32>>,
    /// Where KVM's statistics of a vCPU are.
    statistics: Arc<KnownLayout>,
}

/// Why KVM cannot be used on this host.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no device, or no driver behind it.
    #[error("there is no KVM at {path}: {advice}")]
    Absent {
        /// The path that was tried.
        path: PathBuf,
        /// What to do, by this host's CPU.
        advice: &'static str,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The device may not be opened by this user.
    #[error(
        "opening {path} for reading and writing was refused: it belongs to user {owner} and group {group} with \
         mode {mode:04o}; run as root or as a member of that group (usually called kvm)"
    )]
    PermissionDenied {
        /// The path that was tried.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// Group id of its owner.
        group: u32,
        /// Its permission bits.
        mode: u32,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The device could not be opened for another reason.
    #[error("opening {path} for reading and writing failed")]
    Open {
        /// The path that was tried.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// What was opened answers no KVM request.
    #[error("{what} is not a KVM device: give a character device like /dev/kvm")]
    NotKvm {
        /// The path, or a phrase for a descriptor that was handed over.
        what: String,
    },
    /// The device speaks another version of the interface.
    #[error("KVM speaks interface version {found}, not {expected}: the kernel is too old or not Linux")]
    ApiVersion {
        /// What the device answered.
        found: i32,
        /// The only version there is since Linux 2.6.22.
        expected: u32,
    },
    /// KVM lacks something that every machine needs.
    #[error("KVM on this host lacks {missing}: a newer kernel, or one with these built in, is needed")]
    MissingCapabilities {
        /// All that is missing.
        missing: MissingCapabilities,
    },
    /// A fact of the host could not be read.
    #[error("reading {what} from KVM failed")]
    Facts {
        /// What was asked for.
        what: &'static str,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
}

impl Hypervisor {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// See [`OpenError`]: each variant says what to do.
    pub fn open() -> Result<Self, OpenError> {
        Self::open_at(Path::new("/dev/kvm"))
    }

    /// Opens the KVM device at `path`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_at(path: &Path) -> Result<Self, OpenError> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| explain_open_failure(path, source))?;
        Self::probe(file.into(), || path.display().to_string())
    }

    /// Takes over a KVM device that someone else opened (a privileged parent, a service manager).
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn from_fd(device: OwnedFd) -> Result<Self, OpenError> {
        Self::probe(device, || "the descriptor handed over".to_owned())
    }

    fn probe(device: OwnedFd, what: impl Fn() -> String) -> Result<Self, OpenError> {
        // SAFETY: `into_raw_fd` gives up the ownership that `Kvm` takes over, of an open descriptor. That it may
        // be no KVM device is no hazard: every request to it then fails, the first below.
        let kvm = unsafe { Kvm::from_raw_fd(device.into_raw_fd()) };
        match kvm.get_api_version() {
            -1 => return Err(OpenError::NotKvm { what: what() }),
            version if u32::try_from(version) == Ok(KVM_API_VERSION) => {}
            found => {
                return Err(OpenError::ApiVersion { found, expected: KVM_API_VERSION });
            }
        }
        capability::probe(|capability| kvm.check_extension(capability))
            .map_err(|missing| OpenError::MissingCapabilities { missing })?;
        let vcpu_area_bytes = kvm.get_vcpu_mmap_size().map_err(|errno| OpenError::Facts {
            what: "the size of a vCPU's shared area",
            source: crate::cause(errno),
        })?;
        let facts = facts::gather(|capability| kvm.check_extension_int(capability), vcpu_area_bytes);
        let (cpuid, saved_msrs) = (OnceLock::new(), OnceLock::new());
        Ok(Self { shared: Arc::new(Shared { kvm, facts, cpuid, saved_msrs, statistics: Arc::default() }) })
    }

    /// Limits and optional abilities of this host.
    #[must_use]
    pub fn facts(&self) -> &HostFacts {
        &self.shared.facts
    }

    /// The CPUID leaves that KVM can give a guest on this host, fetched once. Some bits are the caller's to add:
    /// the hypervisor bit, and the TSC-deadline timer where [`HostFacts::tsc_deadline_timer`] allows it.
    ///
    /// # Errors
    /// [`OpenError::Facts`] when the kernel does not answer.
    pub fn supported_cpuid(&self) -> Result<CpuId, OpenError> {
        if let Some(cpuid) = self.shared.cpuid.get() {
            return Ok(cpuid.clone());
        }
        let fetched = self.shared.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(|errno| {
            OpenError::Facts { what: "the supported CPUID leaves", source: crate::cause(errno) }
        })?;
        Ok(self.shared.cpuid.get_or_init(|| fetched).clone())
    }

    /// The model-specific registers that make up a guest's state on this host, for
    /// [`Vcpu::save`](crate::Vcpu::save); fetched once.
    ///
    /// # Errors
    /// [`OpenError::Facts`] when the kernel does not answer.
    pub fn saved_msrs(&self) -> Result<&[u32], OpenError> {
        if let Some(registers) = self.shared.saved_msrs.get() {
            return Ok(registers);
        }
        let fetched = self.shared.kvm.get_msr_index_list().map_err(|errno| OpenError::Facts {
            what: "the list of model-specific registers",
            source: crate::cause(errno),
        })?;
        Ok(self.shared.saved_msrs.get_or_init(|| fetched.as_slice().to_vec()))
    }

    /// Creates an empty machine and places its TSS and identity map in the hole below 4 GiB.
    ///
    /// # Errors
    /// [`VmError::Create`] or [`VmError::Address`] when the kernel refuses.
    pub fn create_vm(&self) -> Result<Vm, VmError> {
        Vm::create(&self.shared.kvm, self.shared.facts, Arc::clone(&self.shared.statistics))
    }
}

fn explain_open_failure(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_path_buf();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            OpenError::Absent { path, advice: advice(cpu_virtualization()), source }
        }
        Some(libc::EISDIR) => OpenError::NotKvm { what: path.display().to_string() },
        Some(libc::EACCES | libc::EPERM) => match std::fs::metadata(&path) {
            Ok(metadata) => OpenError::PermissionDenied {
                path,
                owner: metadata.uid(),
                group: metadata.gid(),
                mode: metadata.mode() & 0o7777,
                source,
            },
            Err(_) => OpenError::Open { path, source },
        },
        _ => OpenError::Open { path, source },
    }
}

/// Which hardware virtualization the CPU announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CpuVirtualization {
    Intel,
    Amd,
    Absent,
}

fn cpu_virtualization() -> CpuVirtualization {
    use std::arch::x86_64::__cpuid;
    if __cpuid(1).ecx & (1 << 5) != 0 {
        CpuVirtualization::Intel
    } else if __cpuid(0x8000_0000).eax > 0x8000_0000 && __cpuid(0x8000_0001).ecx & (1 << 2) != 0 {
        CpuVirtualization::Amd
    } else {
        CpuVirtualization::Absent
    }
}

const fn advice(virtualization: CpuVirtualization) -> &'static str {
    match virtualization {
        CpuVirtualization::Intel => {
            "load the module with `modprobe kvm_intel`, or, in a container, pass the device in"
        }
        CpuVirtualization::Amd => {
            "load the module with `modprobe kvm_amd`, or, in a container, pass the device in"
        }
        CpuVirtualization::Absent => {
            "this CPU announces neither VMX nor SVM; enable virtualization in the firmware, or nested \
             virtualization on the host of this machine, then load kvm_intel or kvm_amd"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_names_the_module_of_the_cpu() {
        assert!(advice(CpuVirtualization::Intel).contains("kvm_intel"));
        assert!(advice(CpuVirtualization::Amd).contains("kvm_amd"));
        assert!(advice(CpuVirtualization::Absent).contains("nested"));
    }

    #[test]
    fn a_refusal_names_the_owner() {
        let refused = io::Error::from_raw_os_error(libc::EACCES);
        let error = explain_open_failure(Path::new("/"), refused).to_string();
        assert!(error.contains("user 0 and group 0 with mode 0"), "{error}");
        assert!(error.contains("kvm"), "{error}");
    }
}
