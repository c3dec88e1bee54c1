//! Why a vCPU left the guest, as a typed value that borrows the data to be read or filled in.

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_IN,
    KVM_EXIT_MEMORY_FAULT, KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_SYSTEM_EVENT_CRASH,
    KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
};

use crate::run_area::RunArea;

/// Why a vCPU left the guest.
///
/// Data lent for a read is to be filled in before the next [`Vcpu::run`](crate::Vcpu::run). An access is always a
/// single one of 1, 2 or 4 bytes (ports) or 1 to 8 bytes (memory): repeated port instructions come one by one.
#[derive(Debug, PartialEq, Eq)]
pub enum Exit<'vcpu> {
    /// The guest reads a port.
    IoIn {
        /// The port.
        port: u16,
        /// To be filled in, little-endian.
        data: &'vcpu mut [u8],
    },
    /// The guest writes a port.
    IoOut {
        /// The port.
        port: u16,
        /// What it writes, little-endian.
        data: &'vcpu [u8],
    },
    /// The guest reads an address without memory.
    MmioRead {
        /// The guest-physical address.
        address: u64,
        /// To be filled in, little-endian.
        data: &'vcpu mut [u8],
    },
    /// The guest writes an address without memory.
    MmioWrite {
        /// The guest-physical address.
        address: u64,
        /// What it writes, little-endian.
        data: &'vcpu [u8],
    },
    /// The guest halted. Never seen with the in-kernel irqchip, which waits inside KVM.
    Halt,
    /// The guest shut its CPU down: a triple fault.
    Shutdown,
    /// The guest asked for a change of the whole system through a paravirtual interface.
    SystemEvent {
        /// What it asked for.
        event: SystemEvent,
    },
    /// Nothing to handle: the vCPU was kicked, or a signal or a wake-up of the vCPU ended the call. May come
    /// without a kick, so it is never more than a hint to look at what was asked for.
    Interrupted,
    /// The CPU refused to enter the guest: its state is invalid.
    FailEntry {
        /// The hardware's reason.
        reason: u64,
        /// The host CPU that refused.
        cpu: u32,
    },
    /// KVM cannot go on with this vCPU, for one because it could not emulate an instruction.
    InternalError {
        /// Which `KVM_INTERNAL_ERROR_…`.
        suberror: u32,
        /// What KVM tells about it; the meaning depends on `suberror`, unused words are 0.
        data: [u64; 16],
    },
    /// The memory behind a guest address could not be reached: its file was cut short, or it is poisoned.
    MemoryFault {
        /// The guest-physical address.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// An exit that nothing here asks for.
    Unexpected {
        /// Which `KVM_EXIT_…`.
        reason: u32,
    },
}

/// What a guest asked for through a paravirtual interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemEvent {
    /// Power off.
    Shutdown,
    /// Reset.
    Reset,
    /// The guest says that it crashed.
    Crash,
    /// Something else: the number of a `KVM_SYSTEM_EVENT_…`.
    Other(u32),
}

/// The accesses of a repeated port instruction that are still to be handed out, in memory order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortAccesses {
    port: u16,
    inwards: bool,
    width: usize,
    offset: usize,
    remaining: u32,
}

impl PortAccesses {
    fn of(area: &RunArea) -> Option<Self> {
        let io = area.io();
        Some(Self {
            port: io.port,
            inwards: u32::from(io.direction) == KVM_EXIT_IO_IN,
            width: usize::from(io.size),
            offset: usize::try_from(io.data_offset).ok()?,
            remaining: io.count,
        })
    }

    /// Hands out the next access and what is left after it.
    fn next(self, area: &mut RunArea) -> Option<(Exit<'_>, Option<Self>)> {
        let data = area.port_data(self.offset, self.width)?;
        let port = self.port;
        let exit = if self.inwards { Exit::IoIn { port, data } } else { Exit::IoOut { port, data } };
        let remaining = self.remaining.saturating_sub(1);
        let rest = Self { offset: self.offset + self.width, remaining, ..self };
        Some((exit, (remaining > 0).then_some(rest)))
    }
}

/// Continues a repeated port instruction, if there is one.
pub(crate) fn continue_port_accesses<'area>(
    area: &'area mut RunArea,
    accesses: &mut Option<PortAccesses>,
) -> Option<Exit<'area>> {
    let (exit, rest) = accesses.take()?.next(area)?;
    *accesses = rest;
    Some(exit)
}

/// Reads the exit that a successful `KVM_RUN` left in the area.
pub(crate) fn decode<'area>(area: &'area mut RunArea, accesses: &mut Option<PortAccesses>) -> Exit<'area> {
    let reason = area.exit_reason();
    match reason {
        KVM_EXIT_IO => {
            *accesses = PortAccesses::of(area);
            continue_port_accesses(area, accesses).unwrap_or(Exit::Unexpected { reason })
        }
        KVM_EXIT_MMIO => decode_mmio(area).unwrap_or(Exit::Unexpected { reason }),
        KVM_EXIT_HLT => Exit::Halt,
        KVM_EXIT_SHUTDOWN => Exit::Shutdown,
        KVM_EXIT_INTR => Exit::Interrupted,
        KVM_EXIT_SYSTEM_EVENT => Exit::SystemEvent {
            event: match area.system_event().type_ {
                KVM_SYSTEM_EVENT_SHUTDOWN => SystemEvent::Shutdown,
                KVM_SYSTEM_EVENT_RESET => SystemEvent::Reset,
                KVM_SYSTEM_EVENT_CRASH => SystemEvent::Crash,
                other => SystemEvent::Other(other),
            },
        },
        KVM_EXIT_FAIL_ENTRY => {
            let failure = area.fail_entry();
            Exit::FailEntry { reason: failure.hardware_entry_failure_reason, cpu: failure.cpu }
        }
        KVM_EXIT_INTERNAL_ERROR => {
            let internal = area.internal();
            let mut data = [0; 16];
            let told = usize::try_from(internal.ndata).unwrap_or(0).min(data.len());
            data[..told].copy_from_slice(&internal.data[..told]);
            Exit::InternalError { suberror: internal.suberror, data }
        }
        reason => Exit::Unexpected { reason },
    }
}

/// Reads the memory fault that a `KVM_RUN` which failed with EFAULT or EHWPOISON may have left.
pub(crate) fn decode_memory_fault(area: &RunArea) -> Option<Exit<'static>> {
    (area.exit_reason() == KVM_EXIT_MEMORY_FAULT).then(|| {
        let fault = area.memory_fault();
        Exit::MemoryFault { address: fault.gpa, size: fault.size }
    })
}

fn decode_mmio(area: &mut RunArea) -> Option<Exit<'_>> {
    let mmio = area.mmio();
    let address = mmio.phys_addr;
    let data = area.mmio_data(usize::try_from(mmio.len).ok()?)?;
    Some(if mmio.is_write != 0 {
        Exit::MmioWrite { address, data }
    } else {
        Exit::MmioRead { address, data }
    })
}
