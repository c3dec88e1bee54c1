//! Keys about what a VM may take of its host: members of `procurator.limits`.

use vm_model::{
    DESCRIPTORS_LEAST, DESCRIPTORS_MOST, MEMORY_LIMIT_LEAST, MEMORY_LIMIT_MOST, PROCESSES_LEAST,
    PROCESSES_MOST, RATE_LEAST, RATE_MOST, WEIGHT_LEAST, WEIGHT_MOST,
};

use super::{KeyRule, PAGE_SIZE, ValueKind};
use ValueKind::{Cores, Section};

const WEIGHT: ValueKind = ValueKind::Integer { least: WEIGHT_LEAST as u64, most: WEIGHT_MOST as u64 };
const RATE: ValueKind = ValueKind::Integer { least: RATE_LEAST, most: RATE_MOST };
const MEMORY: ValueKind = ValueKind::Bytes {
    least: MEMORY_LIMIT_LEAST.get(),
    most: MEMORY_LIMIT_MOST.get(),
    multiple_of: PAGE_SIZE,
};

/// The rows.
#[rustfmt::skip]
pub(super) static KEYS: &[KeyRule] = &[
    KeyRule::supported("procurator.limits", Section,
        "What the VM may take of its host. A VM with limits has a process of its own. Default: what the worker's `limits` say."),
    KeyRule::supported("procurator.limits.cpu", Cores,
        "Processor time in cores, of all that is done for the VM: vCPUs, devices, the host's kernel. Default: no limit."),
    KeyRule::supported("procurator.limits.cpu_weight", WEIGHT,
        "Its share of processors that more is wanted of than there is; others have 100. Default: 100."),
    KeyRule::supported("procurator.limits.memory_max", MEMORY,
        "Bytes of the host's memory, its own overhead and pages of files included; the VM is ended when it needs more. \
         Default: the guest's memory, what its process takes besides, and room for pages of files."),
    KeyRule::supported("procurator.limits.io_weight", WEIGHT,
        "Its share of the host's disks where those have a scheduler that knows weights. Default: 100."),
    KeyRule::supported("procurator.limits.io_read_bytes", RATE,
        "Bytes a second read from each device of the host that a disk of the VM lies on. Default: no limit."),
    KeyRule::supported("procurator.limits.io_write_bytes", RATE, "Bytes a second written, likewise. Default: no limit."),
    KeyRule::supported("procurator.limits.io_read_operations", RATE, "Read operations a second, likewise. Default: no limit."),
    KeyRule::supported("procurator.limits.io_write_operations", RATE, "Write operations a second, likewise. Default: no limit."),
    KeyRule::supported("procurator.limits.processes",
        ValueKind::Integer { least: PROCESSES_LEAST as u64, most: PROCESSES_MOST as u64 },
        "Processes and threads, at least as many as the machine has. Default: no limit."),
    KeyRule::supported("procurator.limits.descriptors",
        ValueKind::Integer { least: DESCRIPTORS_LEAST as u64, most: DESCRIPTORS_MOST as u64 },
        "Open file descriptors, at least as many as the machine has. Default: what the worker has."),
];
