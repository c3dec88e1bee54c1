//! What went wrong with a VM, more closely than its kind of failure says.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a failure was, as far as exit and console tell. A [`FailureKind`](crate::FailureKind) decides what follows a failure;
/// this tells a person where to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The kernel or the initrd did not find the root device.
    NoRootDevice,
    /// The guest has no driver for its root device or for the file system on it.
    MissingDriver,
    /// The root device was found and its file system was not mounted.
    RootFileSystem,
    /// There is no program to start as init.
    NoInit,
    /// The init program ended, which the kernel does not survive.
    InitFailed,
    /// The initrd could not be unpacked.
    BadInitrd,
    /// The boot stopped and waits for a person in a shell.
    EmergencyShell,
    /// The guest ran out of its memory.
    OutOfMemory,
    /// The guest needs an instruction or a processor feature that it does not have here.
    UnsupportedInstruction,
    /// The guest's kernel panicked for another reason.
    KernelPanic,
    /// The guest ended before it wrote a byte to its console.
    NoOutput,
    /// A vCPU shut down with no exception handler left.
    TripleFault,
    /// Its probes hold the guest to be dead.
    Unhealthy,
    /// Somebody killed the machine on this host.
    KilledOnHost,
    /// The process that ran the machine is gone.
    HostProcessLost,
    /// The host's kernel killed the process that ran the machine because memory ran out.
    HostOutOfMemory,
    /// The host's kernel killed the process that ran the machine at its limit of memory.
    MemoryLimit,
    /// The machine's own code failed.
    MachineError,
}

impl FailureClass {
    /// All classes.
    pub const ALL: [Self; 18] = [
        Self::NoRootDevice,
        Self::MissingDriver,
        Self::RootFileSystem,
        Self::NoInit,
        Self::InitFailed,
        Self::BadInitrd,
        Self::EmergencyShell,
        Self::OutOfMemory,
        Self::UnsupportedInstruction,
        Self::KernelPanic,
        Self::NoOutput,
        Self::TripleFault,
        Self::Unhealthy,
        Self::KilledOnHost,
        Self::HostProcessLost,
        Self::HostOutOfMemory,
        Self::MemoryLimit,
        Self::MachineError,
    ];

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoRootDevice => "no_root_device",
            Self::MissingDriver => "missing_driver",
            Self::RootFileSystem => "root_file_system",
            Self::NoInit => "no_init",
            Self::InitFailed => "init_failed",
            Self::BadInitrd => "bad_initrd",
            Self::EmergencyShell => "emergency_shell",
            Self::OutOfMemory => "out_of_memory",
            Self::UnsupportedInstruction => "unsupported_instruction",
            Self::KernelPanic => "kernel_panic",
            Self::NoOutput => "no_output",
            Self::TripleFault => "triple_fault",
            Self::Unhealthy => "unhealthy",
            Self::KilledOnHost => "killed_on_host",
            Self::HostProcessLost => "host_process_lost",
            Self::HostOutOfMemory => "host_out_of_memory",
            Self::MemoryLimit => "memory_limit",
            Self::MachineError => "machine_error",
        }
    }

    /// What usually helps; a console may tell more exactly.
    pub fn hint(self) -> &'static str {
        match self {
            Self::NoRootDevice => {
                "compare root= on the command line with the VM's disks: the first is /dev/vda"
            }
            Self::MissingDriver => {
                "build virtio_pci, virtio_blk and the root file system's driver into the kernel, or put the modules of this very kernel into the initrd"
            }
            Self::RootFileSystem => {
                "check that the disk holds a file system which this kernel has a driver for, and that it is not damaged"
            }
            Self::NoInit => {
                "check init= on the command line, and that the root file system contains that program"
            }
            Self::InitFailed => "see the console lines before the panic for why the init program ended",
            Self::BadInitrd => "build the initrd again, compressed in a way that this kernel can unpack",
            Self::EmergencyShell => "see the console for what failed; the shell is reached by the console",
            Self::OutOfMemory => "give the VM more memory",
            Self::UnsupportedInstruction => {
                "use a kernel and programs built for the processor that this host gives its guests, or a host with a newer one"
            }
            Self::KernelPanic => "see the console lines for the cause",
            Self::NoOutput => {
                "check that the kernel is one for x86-64 with a PVH or 64-bit entry, and that its command line has console=ttyS0 (earlyprintk=ttyS0 shows more)"
            }
            Self::TripleFault => {
                "the guest's code lost its exception handlers: check that kernel and initrd belong together and fit into the VM's memory"
            }
            Self::Unhealthy => {
                "see which probe failed, and whether the guest or the probe's definition is to blame (docs/health.md)"
            }
            Self::KilledOnHost => "find out who killed it; it is started again by its restart policy",
            Self::HostProcessLost => {
                "see the worker's log and the host's kernel log for why the process ended"
            }
            Self::HostOutOfMemory => "run fewer or smaller VMs on this host, or give it more memory",
            Self::MemoryLimit => {
                "raise procurator.limits.memory_max, or give the guest less memory (docs/limits.md)"
            }
            Self::MachineError => "report it with the message and the worker's log",
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Trouble that a guest reported on its console while it booted, and after which it waits although it still runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BootTrouble {
    /// What went wrong.
    pub class: FailureClass,
    /// The console line that says so.
    pub line: String,
    /// What usually helps.
    pub hint: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_written_by_its_name_and_documented() {
        let documented = include_str!("../../../docs/operations.md");
        for class in FailureClass::ALL {
            let json = serde_json::to_string(&class).expect("classes serialise");
            assert_eq!(json, format!("\"{}\"", class.name()));
            let row = format!("| `{class}` |");
            assert!(documented.contains(&row), "docs/operations.md has no row {row}");
        }
    }
}
