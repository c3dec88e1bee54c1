//! A door for fuzzers: the loader of kernels, without the machine around it.

use std::fs::File;

use vm_model::{Bytes, MemoryBacking, MemorySpec};

use crate::boot::{self, BootSource, LoadError};
use crate::{layout, memory};

/// Loads what a machine of `memory_size` bytes would, into memory of its own; whether a vCPU could start.
///
/// # Errors
/// See [`LoadError`].
///
/// # Panics
/// If the host does not give that much memory.
pub fn load_kernel(
    memory_size: u64,
    kernel: File,
    initrd: Option<File>,
    cmdline: &str,
) -> Result<(), LoadError> {
    let size = Bytes::new(memory_size);
    let spec = MemorySpec { size, backing: MemoryBacking::AnonymousMergeable, prefault: false };
    let ram = memory::allocate(&spec).expect("the caller asks for little memory");
    let source = BootSource { kernel, initrd, cmdline, rsdp: layout::ACPI.start, memory_size };
    boot::load(&ram.memory, source).map(drop)
}
