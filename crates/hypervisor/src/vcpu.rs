//! One vCPU: running it, interrupting it, and completing what it left unfinished.
//!
//! Its registers and other state are read and set in `registers`; who runs it when is left to the caller.

#![expect(unsafe_code, reason = "KVM_RUN is called without the wrapper, whose view of the area is exclusive")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_bindings::KVMIO;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

use crate::exit::{self, Exit, PortAccesses};
use crate::kick::{KickSignalError, KickTarget, ThreadBinding, VcpuKicker};
use crate::run_area::RunArea;
use crate::statistics::VcpuStatistics;
use crate::vm::VmShared;

ioctl_io_nr!(KVM_RUN, KVMIO, 0x80);

/// A vCPU. It can be moved between threads while it does not run, and keeps its machine and the guest's memory
/// alive.
#[derive(Debug)]
pub struct Vcpu {
    pub(crate) index: u8,
    /// Never used for its own view of the shared area; see [`RunArea::of`].
    pub(crate) fd: VcpuFd,
    area: RunArea,
    accesses: Option<PortAccesses>,
    kick: Arc<KickTarget>,
    /// Dropped after the descriptor, because it may hold the last reference to the guest's memory.
    pub(crate) vm: Arc<VmShared>,
}

/// Why an operation on a vCPU failed.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// The vCPU is to run on a thread that kicks would not reach.
    #[error("vCPU {index} is not bound to this thread: bind it before it runs")]
    NotBound {
        /// The vCPU's index.
        index: u8,
    },
    /// The vCPU is bound to a thread already.
    #[error("vCPU {index} is bound to a thread already: drop that binding first")]
    AlreadyBound {
        /// The vCPU's index.
        index: u8,
    },
    /// The kick signal cannot be used.
    #[error("vCPU {index} cannot be bound to a thread")]
    KickSignal {
        /// The vCPU's index.
        index: u8,
        /// Why not.
        #[source]
        source: KickSignalError,
    },
    /// The kernel failed to run it.
    #[error("running vCPU {index} failed")]
    Run {
        /// The vCPU's index.
        index: u8,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// State could not be read or set.
    #[error("{access} of vCPU {index} failed")]
    State {
        /// The vCPU's index.
        index: u8,
        /// `reading …` or `setting …`, with what.
        access: &'static str,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// A model-specific register could not be read or set.
    #[error("{access} model-specific register {register:#x} of vCPU {index} was refused")]
    Msr {
        /// The vCPU's index.
        index: u8,
        /// `reading` or `setting`.
        access: &'static str,
        /// The register's number.
        register: u32,
    },
    /// A whole state in another form than this version of the crate writes.
    #[error("the state for vCPU {index} has version {found}, but this is version {expected}")]
    StateVersion {
        /// The vCPU's index.
        index: u8,
        /// The version given.
        found: u16,
        /// The only version taken.
        expected: u16,
    },
    /// An XSAVE area of the wrong size, from another kind of host.
    #[error("the XSAVE area for vCPU {index} has {found} bytes, but this host's has {expected}")]
    XsaveSize {
        /// The vCPU's index.
        index: u8,
        /// Bytes given.
        found: usize,
        /// Bytes that the host takes.
        expected: usize,
    },
}

impl Vcpu {
    pub(crate) fn new(mut fd: VcpuFd, index: u8, vm: Arc<VmShared>) -> Self {
        let area = RunArea::of(&mut fd, vm.facts.vcpu_area_bytes);
        let kick = Arc::new(KickTarget::new(area.immediate_exit()));
        Self { index, fd, area, accesses: None, kick, vm }
    }

    /// The vCPU's index among those of its machine.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Whether the vCPU has an in-kernel APIC.
    pub(crate) fn has_irqchip(&self) -> bool {
        self.vm.has_irqchip()
    }

    /// Binds the vCPU to the calling thread until the binding is dropped: [`run`](Self::run) works there only,
    /// and kicks are sent there. Installs the kick signal's handler and unblocks the signal on this thread.
    ///
    /// # Errors
    /// [`VcpuError::AlreadyBound`] while there is a binding, [`VcpuError::KickSignal`] when the signal cannot be
    /// used.
    pub fn bind_to_current_thread(&self) -> Result<ThreadBinding, VcpuError> {
        let index = self.index;
        self.kick
            .bind()
            .map_err(|source| VcpuError::KickSignal { index, source })?
            .ok_or(VcpuError::AlreadyBound { index })
    }

    /// What others break this vCPU out of the guest with.
    #[must_use]
    pub fn kicker(&self) -> VcpuKicker {
        VcpuKicker::new(Arc::clone(&self.kick))
    }

    /// What the kernel counts of this vCPU, to be read from any thread.
    ///
    /// # Errors
    /// The kernel has no such statistics, which came with Linux 5.14, or no descriptor is left.
    pub fn statistics(&self) -> io::Result<VcpuStatistics> {
        VcpuStatistics::open(&self.fd, &self.vm.statistics)
    }

    /// Runs the guest until something is to be handled. The data of a read that the last exit lent is taken from
    /// where it was filled in.
    ///
    /// # Errors
    /// [`VcpuError::NotBound`] on a thread that it is not bound to, [`VcpuError::Run`] when the kernel fails.
    pub fn run(&mut self) -> Result<Exit<'_>, VcpuError> {
        if !self.kick.is_bound_to_current_thread() {
            return Err(VcpuError::NotBound { index: self.index });
        }
        if self.accesses.is_some() {
            return self.next_port_access();
        }
        let result = self.enter();
        self.outcome(result)
    }

    /// Lets the kernel finish the access that the last exit was about, without running the guest. Only after it
    /// has answered `None` does the vCPU's state hold the access's result; until then each exit is to be handled
    /// as one of [`run`](Self::run). Leaves the vCPU kicked: the next `run` answers [`Exit::Interrupted`].
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn complete_pending_io(&mut self) -> Result<Option<Exit<'_>>, VcpuError> {
        if !self.kick.is_bound_to_current_thread() {
            return Err(VcpuError::NotBound { index: self.index });
        }
        if self.accesses.is_some() {
            return self.next_port_access().map(Some);
        }
        // With the byte set, KVM_RUN completes the access and returns EINTR before entering the guest. The byte
        // is not cleared after it: that might clear a kick that came meanwhile.
        self.immediate_exit(1);
        match self.enter() {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => Ok(None),
            result => self.outcome(result).map(Some),
        }
    }

    fn next_port_access(&mut self) -> Result<Exit<'_>, VcpuError> {
        let unexpected = Exit::Unexpected { reason: kvm_bindings::KVM_EXIT_IO };
        Ok(exit::continue_port_accesses(&mut self.area, &mut self.accesses).unwrap_or(unexpected))
    }

    fn enter(&mut self) -> io::Result<()> {
        // SAFETY: the descriptor is a vCPU's and the request takes no argument. The kernel writes to the shared
        // area, of which nothing is lent out behind `&mut self`, and to guest memory, which `vm` keeps mapped.
        if unsafe { ioctl(&self.fd, KVM_RUN()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn outcome(&mut self, result: io::Result<()>) -> Result<Exit<'_>, VcpuError> {
        let Err(source) = result else {
            return Ok(exit::decode(&mut self.area, &mut self.accesses));
        };
        match source.raw_os_error() {
            // EAGAIN: a vCPU that waits to be started was woken and has yet to be entered.
            Some(libc::EINTR | libc::EAGAIN) => {
                self.immediate_exit(0);
                Ok(Exit::Interrupted)
            }
            Some(libc::EFAULT | libc::EHWPOISON) => {
                exit::decode_memory_fault(&self.area).ok_or(VcpuError::Run { index: self.index, source })
            }
            _ => Err(VcpuError::Run { index: self.index, source }),
        }
    }

    fn immediate_exit(&self, value: u8) {
        // SAFETY: the area is mapped for as long as `self.fd`.
        let flag = unsafe { self.area.immediate_exit().as_atomic() };
        // Acquires what a kicker published before it set the byte; see `kick`.
        flag.swap(value, Ordering::AcqRel);
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.kick.retire();
    }
}
