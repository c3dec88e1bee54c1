//! What the kernel counts of a vCPU: KVM's binary statistics file (KVM API, `KVM_GET_STATS_FD`), since Linux 5.14.
//!
//! The file describes itself: a header, descriptors with names and places, then the figures. The descriptors are the same
//! for all vCPUs of a kernel and are read once; a reading is one `pread`.

#![expect(unsafe_code, reason = "a request that the wrapper lacks")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use kvm_bindings::KVMIO;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// Bytes of the file's header.
const HEADER_BYTES: usize = 24;
/// Bytes of a descriptor before its name.
const DESCRIPTOR_BYTES: usize = 16;
/// More than any kernel has, and a bound for what is read of the file.
const MOST_DESCRIPTORS: usize = 1024;
/// The longest name that is taken (`KVM_STATS_NAME_SIZE` is 48).
const LONGEST_NAME: usize = 256;
/// The farthest from the beginning of the figures that one is looked for.
const FARTHEST: usize = 1 << 16;

/// What KVM counts of one vCPU since it was made, by the kernel's names. What a kernel does not count is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the kernel's own")]
pub struct VcpuCounts {
    pub exits: u64,
    pub io_exits: u64,
    pub mmio_exits: u64,
    pub halt_exits: u64,
    pub signal_exits: u64,
    pub irq_exits: u64,
    pub irq_window_exits: u64,
    pub hypercalls: u64,
    pub insn_emulation: u64,
    pub irq_injections: u64,
    pub pf_taken: u64,
    pub halt_wait_ns: u64,
    pub halt_poll_success_ns: u64,
    pub halt_poll_fail_ns: u64,
}

impl VcpuCounts {
    /// Each figure, with its name in the file.
    fn figures(&mut self) -> [(&'static str, &mut u64); 14] {
        [
            ("exits", &mut self.exits),
            ("io_exits", &mut self.io_exits),
            ("mmio_exits", &mut self.mmio_exits),
            ("halt_exits", &mut self.halt_exits),
            ("signal_exits", &mut self.signal_exits),
            ("irq_exits", &mut self.irq_exits),
            ("irq_window_exits", &mut self.irq_window_exits),
            ("hypercalls", &mut self.hypercalls),
            ("insn_emulation", &mut self.insn_emulation),
            ("irq_injections", &mut self.irq_injections),
            ("pf_taken", &mut self.pf_taken),
            ("halt_wait_ns", &mut self.halt_wait_ns),
            ("halt_poll_success_ns", &mut self.halt_poll_success_ns),
            ("halt_poll_fail_ns", &mut self.halt_poll_fail_ns),
        ]
    }
}

/// Reads one vCPU's statistics, from any thread and while it runs. Since Linux 6.6 it keeps the machine's side in the kernel
/// alive, so it is to be dropped with the vCPU.
#[derive(Debug)]
pub struct VcpuStatistics {
    file: File,
    layout: Arc<Layout>,
}

/// Where the figures are. The same for all vCPUs of a kernel.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    /// Where the figures begin in the file.
    data_offset: u64,
    /// How many bytes of them are read.
    length: usize,
    /// For each of [`VcpuCounts::figures`], its place among them.
    places: [Option<usize>; 14],
}

/// Kept with the open hypervisor: what was found out of the first vCPU.
#[derive(Debug, Default)]
pub(crate) struct KnownLayout(OnceLock<Arc<Layout>>);

impl VcpuStatistics {
    /// Opens the statistics of the vCPU `vcpu`.
    ///
    /// # Errors
    /// The kernel has none (`ENOTTY` or `EINVAL` before Linux 5.14), has no descriptor left, or describes them in a form
    /// that is not understood.
    pub(crate) fn open(vcpu: &impl AsRawFd, known: &KnownLayout) -> io::Result<Self> {
        // SAFETY: the request takes no argument and touches no memory of this process.
        let descriptor = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for the caller, who owns it.
        let file = unsafe { File::from_raw_fd(descriptor) };
        let layout = match known.0.get() {
            Some(layout) => Arc::clone(layout),
            None => {
                let layout = Arc::new(Layout::read(&file)?);
                Arc::clone(known.0.get_or_init(|| layout))
            }
        };
        Ok(Self { file, layout })
    }

    /// What is counted now.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn read(&self) -> io::Result<VcpuCounts> {
        let mut data = vec![0; self.layout.length];
        self.file.read_exact_at(&mut data, self.layout.data_offset)?;
        let mut counts = VcpuCounts::default();
        for ((_, figure), place) in counts.figures().into_iter().zip(self.layout.places) {
            let bytes = place.and_then(|place| data.get(place..place + 8)).and_then(<[u8]>::first_chunk);
            *figure = bytes.copied().map(u64::from_ne_bytes).unwrap_or_default();
        }
        Ok(counts)
    }
}

impl Layout {
    fn read(file: &File) -> io::Result<Self> {
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0)?;
        let word = |index: usize| number(&header, 4 * index);
        let (name_size, count, start) = (word(1)?, word(2)?, word(4)?);
        if name_size > LONGEST_NAME || count > MOST_DESCRIPTORS {
            return Err(strange("has more, or longer names, than any that is known"));
        }
        let mut descriptors = vec![0; count * (DESCRIPTOR_BYTES + name_size)];
        file.read_exact_at(&mut descriptors, start as u64)?;
        Self::parse(&descriptors, DESCRIPTOR_BYTES + name_size, word(5)? as u64)
    }

    /// The places of the figures that `descriptors`, of `size` bytes each, name.
    fn parse(descriptors: &[u8], size: usize, data_offset: u64) -> io::Result<Self> {
        let names = VcpuCounts::default().figures().map(|(name, _)| name);
        let mut layout = Self { data_offset, length: 0, places: [None; 14] };
        for descriptor in descriptors.chunks_exact(size) {
            let (head, name) = descriptor.split_at(DESCRIPTOR_BYTES.min(size));
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            if let Some(index) = names.iter().position(|wanted| wanted.as_bytes() == name) {
                let place = number(head, 8)?;
                if place > FARTHEST {
                    return Err(strange("has figures farther away than any that is known"));
                }
                layout.places[index] = Some(place);
                layout.length = layout.length.max(place + 8);
            }
        }
        Ok(layout)
    }
}

fn number(bytes: &[u8], at: usize) -> io::Result<usize> {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or_else(|| strange("ends too early"))?;
    usize::try_from(u32::from_ne_bytes(*bytes))
        .map_err(|_too_large| strange("has a number that is too large"))
}

fn strange(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("KVM's statistics file {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(name: &str, place: u32) -> Vec<u8> {
        let mut bytes = vec![0; DESCRIPTOR_BYTES + 48];
        bytes[8..12].copy_from_slice(&place.to_ne_bytes());
        bytes[16..16 + name.len()].copy_from_slice(name.as_bytes());
        bytes
    }

    #[test]
    fn figures_are_found_by_name_wherever_they_are() {
        let descriptors =
            [descriptor("exits_of_another_kind", 8), descriptor("halt_exits", 40), descriptor("exits", 16)];
        let layout = Layout::parse(&descriptors.concat(), 64, 100).expect("understood");
        assert_eq!((layout.places[0], layout.places[3], layout.places[1]), (Some(16), Some(40), None));
        assert_eq!((layout.length, layout.data_offset), (48, 100));
    }

    #[test]
    fn what_is_beyond_reason_is_refused() {
        let far = descriptor("exits", u32::MAX);
        Layout::parse(&far, 64, 0).expect_err("too far away");
        assert_eq!(Layout::parse(&far[..63], 64, 0).expect("nothing there").length, 0);
    }
}
