//! `dump`: where a VM's vCPUs are.

use admin::{AdminClient, DumpView};
use anyhow::Result;
use vm_model::{VcpuActivity, VcpuDump, VcpuRegisters, VcpuReport};

use super::naming::VmName;
use super::{find, print, print_json};
use crate::printable::printable;

/// Prints where the vCPUs of the VM that `name` means are.
pub(super) async fn dump(client: &AdminClient, name: &VmName, json: bool) -> Result<()> {
    let vm = find(client, name).await?;
    let dump = client.dump(&vm).await?;
    if json { print_json(&dump) } else { print(&text(&dump)) }
}

fn text(DumpView { paused, vcpus }: &DumpView) -> String {
    let running = if *paused { "paused" } else { "running" };
    vcpus.iter().map(|vcpu| lines(vcpu, running)).collect()
}

/// What is told of a vCPU; one that executes instructions, or did when its VM was paused, is `running` by this word.
fn lines(vcpu: &VcpuDump, running: &str) -> String {
    let index = vcpu.index;
    match &vcpu.report {
        VcpuReport::Silent => format!("vCPU {index}: does not leave its guest\n"),
        VcpuReport::Unreadable { reason } => format!("vCPU {index}: unreadable: {}\n", printable(reason)),
        VcpuReport::Registers(registers) => {
            let VcpuRegisters { rip, rsp, rflags, cr0, cr2, cr3, cr4, efer, activity } = registers;
            let activity = match activity {
                VcpuActivity::Running => running,
                VcpuActivity::Halted => "halted",
                VcpuActivity::WaitingForStart => "not started by its guest",
            };
            format!(
                "vCPU {index}: {activity}\n  rip {rip:016x}  rsp {rsp:016x}  rflags {rflags:08x}\n  \
                 cr0 {cr0:08x}  cr2 {cr2:016x}  cr3 {cr3:016x}  cr4 {cr4:08x}  efer {efer:04x}\n"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vcpu_is_told_by_its_registers_or_by_its_silence() {
        let registers = VcpuRegisters {
            rip: 0xffff_ffff_8100_0000,
            rsp: 0x1000,
            rflags: 0x202,
            cr0: 0x8005_0033,
            cr2: 0,
            cr3: 0x2000,
            cr4: 0x20,
            efer: 0xd01,
            activity: VcpuActivity::Halted,
        };
        let told =
            |paused, index, report| text(&DumpView { paused, vcpus: vec![VcpuDump { index, report }] });
        let shown = told(false, 1, VcpuReport::Registers(registers));
        assert!(shown.starts_with("vCPU 1: halted\n  rip ffffffff81000000  rsp 0000000000001000"), "{shown}");
        assert_eq!(shown.lines().count(), 3);
        let running = VcpuRegisters { activity: VcpuActivity::Running, ..registers };
        for (paused, word) in [(false, "running"), (true, "paused")] {
            let shown = told(paused, 0, VcpuReport::Registers(running));
            assert!(shown.starts_with(&format!("vCPU 0: {word}\n")), "{shown}");
        }
        let silent = told(false, 0, VcpuReport::Silent);
        assert_eq!(silent, "vCPU 0: does not leave its guest\n");
    }
}
