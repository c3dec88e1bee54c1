//! The body of a vCPU's thread: it runs the guest, handles the exit, and runs the guest again, until the gate ends it.
//!
//! A panic anywhere in it, a device's included, ends the machine with the thread's name and the panic's message;
//! it never leaves the thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use devices::bus::Bus;
use hypervisor::{Exit, SystemEvent, Vcpu, VcpuError};
use kvm_bindings::KVM_INTERNAL_ERROR_EMULATION;
use syscall_filter::ThreadKind;
use vm_model::{MachineExit, ResetSource, error_chain, panic_message};

use super::gate::Member;
use super::{Meter, VcpuContext, core_scheduling};

/// What a guest did that KVM cannot emulate. It emulates little beside what touches addresses without memory, and has to
/// read that instruction from memory.
const UNEXECUTABLE: &str = "executed what cannot be carried out: code where there is no memory, or an instruction \
                            that is not possible on a device's registers";

/// The two address spaces of registers.
#[derive(Debug)]
pub(crate) struct Buses {
    pub(crate) ports: Bus,
    pub(crate) memory: Bus,
}

/// The body of a vCPU's thread.
pub(super) fn run(mut vcpu: Vcpu, member: &Member, meter: &Arc<Meter>, context: &VcpuContext) {
    let index = vcpu.index();
    let _about = tracing::info_span!("vcpu", vm_id = context.name, vcpu = index).entered();
    core_scheduling::enter_vcpu(context.core_scheduling);
    let measuring = meter.measure_this_thread(&vcpu);
    let ended = catch_unwind(AssertUnwindSafe(|| match context.affinity.apply(index) {
        Ok(()) => {
            serve(&mut vcpu, member, meter, context).unwrap_or_else(|error| failure(error_chain(&error)))
        }
        Err(error) => failure(format!("the thread of vCPU {index} was refused its host CPUs: {error}")),
    }));
    let exit = match ended {
        Ok(exit) => exit,
        Err(panic) => failure(format!(
            "the thread of vCPU {index} of {} panicked: {}",
            context.name,
            panic_message(panic.as_ref())
        )),
    };
    if let Some(exit) = exit {
        member.end_all();
        context.outcome.conclude(exit);
    }
    // It has a part of the vCPU open.
    drop(measuring);
    // The vCPU goes before its place at the gate does, so that "all ended" means that all are released.
    drop(vcpu);
}

/// Runs the guest until the gate, the guest or an error ends it; `None` when it was the gate.
fn serve(
    vcpu: &mut Vcpu,
    member: &Member,
    meter: &Meter,
    context: &VcpuContext,
) -> Result<Option<MachineExit>, VcpuError> {
    let _binding = vcpu.bind_to_current_thread()?;
    // What the thread did until here it does once.
    syscall_filter::enter(ThreadKind::Vcpu, &context.name);
    let mut entered = vcpu.index() != 0;
    loop {
        if !member.pass(&*vcpu) {
            break;
        }
        if !entered {
            entered = true;
            context.outcome.first_entry();
        }
        #[cfg(any(test, feature = "fault-injection"))]
        if context.injected_panic.is_some_and(|panic| panic.vcpu == vcpu.index()) {
            panic!("injected by a test");
        }
        let index = vcpu.index();
        let exit = vcpu.run()?;
        meter.count(&exit);
        if let Some(end) = handle(exit, index, &context.buses) {
            let end = placed(end, vcpu);
            tell_where(vcpu, &end, context);
            return Ok(Some(end));
        }
        if context.outcome.is_concluded() {
            // The guest switched itself off in this very exit: it must not run another instruction.
            member.end_all();
        }
    }
    Ok(None)
}

/// Handles an exit; returns how the machine ended if it did.
fn handle(exit: Exit<'_>, index: u8, buses: &Buses) -> Option<MachineExit> {
    match exit {
        Exit::IoIn { port, data } => buses.ports.read(u64::from(port), data),
        Exit::IoOut { port, data } => {
            fail_points::written(port, data);
            buses.ports.write(u64::from(port), data);
        }
        Exit::MmioRead { address, data } => buses.memory.read(address, data),
        Exit::MmioWrite { address, data } => buses.memory.write(address, data),
        Exit::Interrupted => {}
        Exit::Shutdown => return Some(MachineExit::TripleFault),
        Exit::SystemEvent { event } => return Some(system_event(event, index)),
        Exit::Halt => {
            return failed(index, "halted outside KVM although interrupts are KVM's".to_owned());
        }
        Exit::FailEntry { reason, cpu } => {
            return failed(
                index,
                format!("could not enter the guest on host CPU {cpu}: hardware reason {reason:#x}"),
            );
        }
        Exit::InternalError { suberror: KVM_INTERNAL_ERROR_EMULATION, .. } => {
            return Some(MachineExit::GuestFault(UNEXECUTABLE.to_owned()));
        }
        Exit::InternalError { suberror, data } => {
            let told = data.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
            return failed(index, format!("KVM internal error {suberror} with data {:x?}", &data[..told]));
        }
        Exit::MemoryFault { address, size } => {
            return failed(
                index,
                format!("{size} bytes of guest memory at {address:#x} could not be reached"),
            );
        }
        Exit::Unexpected { reason } => {
            return failed(index, format!("left the guest for the unexpected KVM exit {reason}"));
        }
    }
    None
}

/// Adds to a guest fault the address of the instruction that caused it.
fn placed(end: MachineExit, vcpu: &Vcpu) -> MachineExit {
    match (end, vcpu.regs()) {
        (MachineExit::GuestFault(what), Ok(general)) => MachineExit::GuestFault(format!(
            "{what}: vCPU {} was at instruction {:#x}",
            vcpu.index(),
            general.rip
        )),
        (end, _) => end,
    }
}

/// Logs where the guest was when it came to an end that it did not ask for. After a triple fault on AMD the kernel has
/// reset the vCPU, so that only which one it was is left.
fn tell_where(vcpu: &Vcpu, end: &MachineExit, context: &VcpuContext) {
    if !matches!(end, MachineExit::TripleFault | MachineExit::GuestFault(_) | MachineExit::Failed(_)) {
        return;
    }
    let (Ok(general), Ok(system)) = (vcpu.regs(), vcpu.sregs()) else {
        return;
    };
    tracing::warn!(
        vm_id = context.name,
        vcpu = vcpu.index(),
        rip = format_args!("{:#x}", general.rip),
        rsp = format_args!("{:#x}", general.rsp),
        cs = format_args!("{:#x}", system.cs.base),
        cr0 = format_args!("{:#x}", system.cr0),
        cr2 = format_args!("{:#x}", system.cr2),
        cr3 = format_args!("{:#x}", system.cr3),
        cr4 = format_args!("{:#x}", system.cr4),
        efer = format_args!("{:#x}", system.efer),
        idt = format_args!("{:#x}", system.idt.base),
        "a vCPU cannot go on"
    );
}

fn system_event(event: SystemEvent, index: u8) -> MachineExit {
    match event {
        SystemEvent::Shutdown => MachineExit::PoweredOff,
        SystemEvent::Reset => MachineExit::Reset(ResetSource::Acpi),
        SystemEvent::Crash => MachineExit::Failed(format!("vCPU {index} told that its guest crashed")),
        SystemEvent::Other(number) => {
            MachineExit::Failed(format!("vCPU {index} raised the unknown system event {number}"))
        }
    }
}

fn failed(index: u8, what: String) -> Option<MachineExit> {
    failure(format!("vCPU {index} {what}"))
}

fn failure(text: String) -> Option<MachineExit> {
    Some(MachineExit::Failed(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handled(exit: Exit<'_>) -> Option<String> {
        let buses = Buses { ports: Bus::builder().build(), memory: Bus::builder().build() };
        handle(exit, 3, &buses).map(|exit| match exit {
            MachineExit::Failed(text) => text,
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn every_exit_that_ends_a_machine_says_why() {
        let mut data = [0; 16];
        data[1] = 0xbeef;
        let told = [
            (Exit::Shutdown, "TripleFault"),
            (Exit::Halt, "vCPU 3 halted"),
            (Exit::FailEntry { reason: 0x80, cpu: 1 }, "host CPU 1: hardware reason 0x80"),
            (Exit::InternalError { suberror: 1, data }, "GuestFault(\"executed what cannot be carried out"),
            (Exit::InternalError { suberror: 3, data }, "internal error 3 with data [0, beef]"),
            (Exit::MemoryFault { address: 0x1000, size: 4096 }, "4096 bytes of guest memory at 0x1000"),
            (Exit::Unexpected { reason: 77 }, "unexpected KVM exit 77"),
            (Exit::SystemEvent { event: SystemEvent::Reset }, "Reset(Acpi)"),
            (Exit::SystemEvent { event: SystemEvent::Other(9) }, "system event 9"),
        ];
        for (exit, expected) in told {
            let text = handled(exit).expect("the machine ends");
            assert!(text.contains(expected), "{text:?} lacks {expected:?}");
        }
    }

    #[test]
    fn accesses_that_nobody_answers_read_as_ones_and_go_on() {
        let mut data = [0; 4];
        assert_eq!(handled(Exit::IoIn { port: 0x80, data: &mut data }), None);
        assert_eq!(data, [0xff; 4]);
        assert_eq!(handled(Exit::MmioWrite { address: 1 << 40, data: &[1] }), None);
        assert_eq!(handled(Exit::Interrupted), None);
    }
}
