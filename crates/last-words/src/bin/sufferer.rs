//! A process that a signal ends, for the tests of this crate: `sufferer FAULT` says why on standard error, and dies.
#![expect(unsafe_code, reason = "safe code raises none of these signals")]

use std::arch::asm;
use std::fs::File;
use std::os::fd::FromRawFd;
use std::ptr;

use last_words::{Frame, install, introduce};

fn main() {
    install(Frame { before: b"", after: b"" }).expect("handlers are installed");
    introduce("test", "");
    let fault = std::env::args().nth(1).unwrap_or_default();
    match fault.as_str() {
        "SIGSEGV" => touch(ptr::without_provenance(16)),
        "SIGBUS" => touch(map_beyond_the_end()),
        // SAFETY: the instruction touches nothing.
        "SIGILL" => unsafe { asm!("ud2") },
        // SAFETY: the division fails before it changes a register.
        "SIGFPE" => unsafe { asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _) },
        "SIGABRT" => std::process::abort(),
        "SIGSYS" => {
            // SAFETY: takes no memory.
            unsafe { libc::raise(libc::SIGSYS) };
        }
        other => panic!("{other:?} is no fault"),
    }
    eprintln!("went on");
}

fn touch(address: *const u8) {
    // SAFETY: none: there is no memory, which is the point.
    unsafe { address.read_volatile() };
}

/// A page of a file that has none.
fn map_beyond_the_end() -> *const u8 {
    // SAFETY: the name is a string that ends with zero.
    let descriptor = unsafe { libc::memfd_create(c"empty".as_ptr(), 0) };
    assert!(descriptor >= 0, "memory for a file");
    // SAFETY: the descriptor is nobody else's.
    let file = unsafe { File::from_raw_fd(descriptor) };
    // SAFETY: the kernel chooses an address at which nothing is.
    let page = unsafe { libc::mmap(ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, descriptor, 0) };
    assert_ne!(page, libc::MAP_FAILED, "a mapping");
    drop(file);
    page.cast()
}
