//! A vCPU's state, piece by piece, as KVM's own structures: they are the architecture's, not ours to rename.
//!
//! The order in which pieces are set matters where one depends on another; see the methods.

#![expect(unsafe_code, reason = "the XSAVE area is longer than its declared structure")]

use std::io;

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, Xsave, kvm_debugregs, kvm_fpu, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::Cap;

use crate::cause;
use crate::vcpu::{Vcpu, VcpuError};

/// The part of an XSAVE area that every host has: 4,096 bytes.
const XSAVE_REGION_WORDS: usize = 1024;
/// KVM takes this many model-specific registers in one call.
const MSRS_A_CALL: usize = kvm_bindings::KVM_MAX_MSR_ENTRIES;

/// A vCPU's floating-point and vector state in the CPU's XSAVE format, as long as this host's CPU makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XsaveArea(Vec<u32>);

impl XsaveArea {
    /// The area as little-endian words; at least 1,024.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        &self.0
    }
}

impl From<Vec<u32>> for XsaveArea {
    fn from(words: Vec<u32>) -> Self {
        Self(words)
    }
}

/// Declares the pair that reads and sets one piece of state.
macro_rules! state {
    ($what:literal, $type:ty, $get:ident -> $fd_get:ident, $set:ident -> $fd_set:ident $(, $hint:literal)?) => {
        #[doc = concat!("Reads ", $what, ".")]
        ///
        /// # Errors
        /// [`VcpuError::State`] when the kernel refuses.
        pub fn $get(&self) -> Result<$type, VcpuError> {
            self.fd.$fd_get().map_err(|errno| self.state_error(concat!("reading ", $what), errno))
        }

        #[doc = concat!("Sets ", $what, "." $(, " ", $hint)?)]
        ///
        /// # Errors
        /// [`VcpuError::State`] when the kernel refuses.
        pub fn $set(&self, value: &$type) -> Result<(), VcpuError> {
            self.fd.$fd_set(value).map_err(|errno| self.state_error(concat!("setting ", $what), errno))
        }
    };
}

impl Vcpu {
    state!("the general registers", kvm_regs, regs -> get_regs, set_regs -> set_regs);
    state!(
        "the system registers", kvm_sregs, sregs -> get_sregs, set_sregs -> set_sregs,
        "Carries the APIC base, so it comes before the APIC's registers."
    );
    state!("the floating-point registers", kvm_fpu, fpu -> get_fpu, set_fpu -> set_fpu);
    state!(
        "the local APIC's registers", kvm_lapic_state, lapic -> get_lapic, set_lapic -> set_lapic,
        "Comes before the TSC-deadline register."
    );
    state!(
        "pending events", kvm_vcpu_events, vcpu_events -> get_vcpu_events, set_vcpu_events -> set_vcpu_events,
        "Comes last."
    );
    state!("the extended control registers", kvm_xcrs, xcrs -> get_xcrs, set_xcrs -> set_xcrs);
    state!("the debug registers", kvm_debugregs, debug_regs -> get_debug_regs, set_debug_regs -> set_debug_regs);

    /// Reads whether the vCPU runs, is halted, or waits to be started.
    ///
    /// # Errors
    /// [`VcpuError::State`] when the kernel refuses.
    pub fn mp_state(&self) -> Result<kvm_mp_state, VcpuError> {
        self.fd.get_mp_state().map_err(|errno| self.state_error("reading the run state", errno))
    }

    /// Sets whether the vCPU runs, is halted, or waits to be started.
    ///
    /// # Errors
    /// [`VcpuError::State`] when the kernel refuses.
    pub fn set_mp_state(&self, state: kvm_mp_state) -> Result<(), VcpuError> {
        self.fd.set_mp_state(state).map_err(|errno| self.state_error("setting the run state", errno))
    }

    /// Queues a non-maskable interrupt, which the vCPU takes when it next runs (KVM API §4.64). What the guest set up for
    /// the APIC's LINT1 pin is passed by: the interrupt is the processor's own.
    ///
    /// # Errors
    /// [`VcpuError::State`] when the kernel refuses.
    pub fn nmi(&self) -> Result<(), VcpuError> {
        self.fd.nmi().map_err(|errno| self.state_error("queueing a non-maskable interrupt", errno))
    }

    /// Reads the CPUID leaves that the guest sees.
    ///
    /// # Errors
    /// [`VcpuError::State`] when the kernel refuses.
    pub fn cpuid(&self) -> Result<CpuId, VcpuError> {
        self.fd
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .map_err(|errno| self.state_error("reading the CPUID leaves", errno))
    }

    /// Sets the CPUID leaves that the guest sees. Comes before all other state, and before the vCPU first runs.
    ///
    /// # Errors
    /// [`VcpuError::State`] when the kernel refuses.
    pub fn set_cpuid(&self, leaves: &CpuId) -> Result<(), VcpuError> {
        self.fd.set_cpuid2(leaves).map_err(|errno| self.state_error("setting the CPUID leaves", errno))
    }

    /// Reads the model-specific registers with these numbers.
    ///
    /// # Errors
    /// [`VcpuError::Msr`] naming the first one that the host does not have.
    pub fn msrs(&self, registers: &[u32]) -> Result<Vec<kvm_msr_entry>, VcpuError> {
        let mut read = Vec::with_capacity(registers.len());
        for chunk in registers.chunks(MSRS_A_CALL) {
            let wanted: Vec<_> =
                chunk.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
            let mut msrs = chunk_of(&wanted);
            let count = self
                .fd
                .get_msrs(&mut msrs)
                .map_err(|errno| self.state_error("reading model-specific registers", errno))?;
            self.all_taken("reading", &wanted, count)?;
            read.extend_from_slice(msrs.as_slice());
        }
        Ok(read)
    }

    /// Sets model-specific registers in the given order.
    ///
    /// # Errors
    /// [`VcpuError::Msr`] naming the first one refused; those before it are set.
    pub fn set_msrs(&self, entries: &[kvm_msr_entry]) -> Result<(), VcpuError> {
        for chunk in entries.chunks(MSRS_A_CALL) {
            let count = self
                .fd
                .set_msrs(&chunk_of(chunk))
                .map_err(|errno| self.state_error("setting model-specific registers", errno))?;
            self.all_taken("setting", chunk, count)?;
        }
        Ok(())
    }

    /// Reads the floating-point and vector state.
    ///
    /// # Errors
    /// [`VcpuError::State`] when the kernel refuses.
    pub fn xsave(&self) -> Result<XsaveArea, VcpuError> {
        let mut area = self.empty_xsave();
        let fetched = if area.as_slice().is_empty() {
            self.fd.get_xsave().map(|fixed| fixed.region.to_vec())
        } else {
            // SAFETY: `empty_xsave` made the area as long as the kernel says that it writes.
            unsafe { self.fd.get_xsave2(&mut area) }
                .map(|()| [&area.as_fam_struct_ref().xsave.region, area.as_slice()].concat())
        };
        fetched.map(XsaveArea).map_err(|errno| self.state_error("reading the vector registers", errno))
    }

    /// Sets the floating-point and vector state.
    ///
    /// # Errors
    /// [`VcpuError::XsaveSize`] when it was read on a host with other vector registers, [`VcpuError::State`] when
    /// the kernel refuses its content.
    pub fn set_xsave(&self, state: &XsaveArea) -> Result<(), VcpuError> {
        let mut area = self.empty_xsave();
        let expected = XSAVE_REGION_WORDS + area.as_slice().len();
        let Some((region, extra)) =
            state.0.split_first_chunk::<XSAVE_REGION_WORDS>().filter(|_| state.0.len() == expected)
        else {
            let bytes = size_of::<u32>();
            let (found, expected) = (state.0.len() * bytes, expected * bytes);
            return Err(VcpuError::XsaveSize { index: self.index, found, expected });
        };
        area.as_mut_slice().copy_from_slice(extra);
        // SAFETY: the length of the flexible part is left as it is.
        unsafe { area.as_mut_fam_struct() }.xsave.region = *region;
        // SAFETY: `empty_xsave` made the area as long as the kernel says that it reads.
        unsafe { self.fd.set_xsave2(&area) }
            .map_err(|errno| self.state_error("setting the vector registers", errno))
    }

    /// An area of the length that the kernel reads and writes for this process now. It can grow when the process
    /// is granted further features for its guests, so it is asked for each time.
    fn empty_xsave(&self) -> Xsave {
        let bytes = usize::try_from(self.vm.fd.check_extension_int(Cap::Xsave2)).unwrap_or(0);
        let extra = bytes.div_ceil(size_of::<u32>()).saturating_sub(XSAVE_REGION_WORDS);
        Xsave::new(extra).expect("the length of an XSAVE area fits the wrapper's 32 bits")
    }

    /// Tells the guest's kvmclock that it was paused, which keeps its watchdogs quiet. The guest may have no
    /// kvmclock: the kernel then answers EINVAL, which is no error here.
    ///
    /// # Errors
    /// [`VcpuError::State`] when the kernel refuses for another reason.
    pub fn kvmclock_ctrl(&self) -> Result<(), VcpuError> {
        match self.fd.kvmclock_ctrl() {
            Err(errno) if errno.errno() != libc::EINVAL => {
                Err(self.state_error("telling the guest's clock about a pause", errno))
            }
            _ => Ok(()),
        }
    }

    /// Reads the TSC's frequency in kHz.
    ///
    /// # Errors
    /// [`VcpuError::State`] when the host's TSC is unstable.
    pub fn tsc_khz(&self) -> Result<u32, VcpuError> {
        self.fd.get_tsc_khz().map_err(|_| VcpuError::State {
            index: self.index,
            access: "reading the TSC frequency",
            // The wrapper's error carries the call's -1 in place of the error number.
            source: io::Error::last_os_error(),
        })
    }

    /// Sets the TSC's frequency in kHz; see
    /// [`HostFacts::tsc_frequency_control`](crate::HostFacts::tsc_frequency_control).
    ///
    /// # Errors
    /// [`VcpuError::State`] when the host cannot.
    pub fn set_tsc_khz(&self, khz: u32) -> Result<(), VcpuError> {
        self.fd.set_tsc_khz(khz).map_err(|errno| self.state_error("setting the TSC frequency", errno))
    }

    fn all_taken(
        &self,
        access: &'static str,
        asked: &[kvm_msr_entry],
        taken: usize,
    ) -> Result<(), VcpuError> {
        match asked.get(taken) {
            None => Ok(()),
            Some(refused) => Err(VcpuError::Msr { index: self.index, access, register: refused.index }),
        }
    }

    fn state_error(&self, access: &'static str, errno: kvm_ioctls::Error) -> VcpuError {
        VcpuError::State { index: self.index, access, source: cause(errno) }
    }
}

fn chunk_of(entries: &[kvm_msr_entry]) -> Msrs {
    Msrs::from_entries(entries).expect("a chunk is no longer than KVM takes in a call")
}
