//! What a vCPU was about when somebody looked: for a guest that does not answer any more.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One vCPU at one moment. Those of one look are of moments close together, not of the same one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VcpuDump {
    /// Its number, which is also its APIC id.
    pub index: u8,
    /// What was seen.
    pub report: VcpuReport,
}

/// What was seen of a vCPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VcpuReport {
    /// Its registers.
    Registers(VcpuRegisters),
    /// It did not come out of the guest, or out of a device, in time.
    Silent,
    /// Its registers could not be read.
    Unreadable {
        /// Why not.
        reason: String,
    },
}

/// Where a vCPU is and in which mode. An access of a device that is under way is not yet seen in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VcpuRegisters {
    /// The next instruction's address.
    pub rip: u64,
    /// The stack's address.
    pub rsp: u64,
    /// Flags; bit 9 is whether it takes interrupts.
    pub rflags: u64,
    /// Control register 0: paging, protection.
    pub cr0: u64,
    /// The address of the last page fault.
    pub cr2: u64,
    /// Where its page tables are.
    pub cr3: u64,
    /// Control register 4: extensions.
    pub cr4: u64,
    /// The extended features: long mode.
    pub efer: u64,
    /// What it does.
    pub activity: VcpuActivity,
}

/// Whether a vCPU executes instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VcpuActivity {
    /// It does.
    Running,
    /// It waits for an interrupt.
    Halted,
    /// The guest has not started it.
    WaitingForStart,
}
