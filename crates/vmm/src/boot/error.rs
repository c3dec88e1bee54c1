//! Why a machine's kernel, initial RAM disk or command line cannot be booted.

use std::fmt;

use linux_loader::loader;
use thiserror::Error;
use vm_memory::GuestMemoryError;
use vm_model::Bytes;

/// One of the files that a machine boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootFile {
    /// The kernel.
    Kernel,
    /// The initial RAM disk.
    Initrd,
}

impl fmt::Display for BootFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initial RAM disk",
        })
    }
}

/// Why a machine cannot boot what it was given.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("the {file} cannot be read")]
    Read {
        /// Which file.
        file: BootFile,
        /// The underlying error.
        #[source]
        source: std::io::Error,
    },
    /// A file is a directory, a pipe or the like.
    #[error("the {file} is not a regular file")]
    NotAFile {
        /// Which file.
        file: BootFile,
    },
    /// The kernel is in no known format.
    #[error("the kernel is neither an ELF file nor a bzImage: it has {size} and starts with {start:02x?}")]
    UnknownFormat {
        /// Its size.
        size: Bytes,
        /// Its first bytes.
        start: [u8; 4],
    },
    /// An ELF kernel that this machine cannot enter.
    #[error(
        "the ELF kernel has no PVH entry note (Xen note 18), and its entry {entry:#x} is no physical address in its \
         segments; an ELF with either, or a bzImage, is accepted"
    )]
    NoElfEntry {
        /// As its header says.
        entry: u64,
    },
    /// A bzImage that this machine cannot enter.
    #[error(
        "the bzImage speaks boot protocol {major}.{minor:02} without a 64-bit entry; 2.12 or newer for x86-64 is accepted"
    )]
    No64BitEntry {
        /// Of the protocol's version.
        major: u16,
        /// Of the protocol's version.
        minor: u16,
    },
    /// The kernel's headers contradict the file or each other.
    #[error("the kernel is damaged: {problem}")]
    Damaged {
        /// What is wrong.
        problem: &'static str,
    },
    /// The kernel could not be read into guest memory.
    #[error("the kernel could not be loaded")]
    Load(#[source] loader::Error),
    /// The kernel needs memory that this machine lacks, or that is not meant for kernels.
    #[error(
        "the kernel wants guest memory from {start:#x} to {end:#x}; kernels fit between 0x100000 and {limit:#x} in this machine"
    )]
    KernelDoesNotFit {
        /// Where it starts.
        start: u64,
        /// Where it ends once it runs.
        end: u64,
        /// Where low memory ends.
        limit: u64,
    },
    /// There is no room for the initial RAM disk beside the kernel.
    #[error("the initial RAM disk of {size} does not fit between the kernel's end at {from:#x} and {to:#x}")]
    InitrdDoesNotFit {
        /// Its size.
        size: Bytes,
        /// Where the kernel ends.
        from: u64,
        /// Where the initial RAM disk must end.
        to: u64,
    },
    /// The command line is longer than the kernel takes, or not text.
    #[error("the kernel's command line has {length} bytes; at most {limit}, none of them zero, are accepted")]
    CommandLine {
        /// As given.
        length: usize,
        /// What fits.
        limit: usize,
    },
    /// Guest memory cannot be written where the layout wants something.
    #[error("guest memory cannot be written at {address:#x} for {what}")]
    Write {
        /// Where.
        address: u64,
        /// What was written.
        what: &'static str,
        /// The underlying error.
        #[source]
        source: GuestMemoryError,
    },
}
