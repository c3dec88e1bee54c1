//! Kernel files of any content: ELF with PVH, bzImage, neither; an initial RAM disk of any size; any command line.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::input::Input;

/// What the largest machine of these tests has.
const MEMORY_MAX: u64 = 32 << 20;

/// Loads `bytes` as a kernel, after two bytes that say what surrounds it.
pub(crate) fn images(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (memory, others) = (input.byte(), input.byte());
    let memory_size = ((2 << 20) << (memory % 5)).min(MEMORY_MAX);
    let initrd = match others % 4 {
        0 => None,
        1 => Some(file_of(&[1; 700], 700)),
        // Sparse, so that it costs nothing.
        2 => Some(file_of(&[], memory_size - (4 << 10))),
        _ => Some(file_of(&[], 8 << 30)),
    };
    let cmdline = "x".repeat(usize::from(others / 4) * 64);
    let kernel = input.rest();
    // A refusal is as good as a kernel that starts; what counts is that there is an answer.
    let _entry =
        vmm::fuzzing::load_kernel(memory_size, file_of(kernel, kernel.len() as u64), initrd, &cmdline);
}

fn file_of(content: &[u8], length: u64) -> File {
    let file = File::from(memfd_create("boot", MemfdFlags::CLOEXEC).expect("a file in memory"));
    file.write_all_at(content, 0).expect("room for it");
    ftruncate(&file, length).expect("it can grow");
    file
}
