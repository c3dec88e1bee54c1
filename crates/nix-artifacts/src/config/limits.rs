//! `procurator.limits`: what a VM may take of its host.

use vm_model::{Bytes, ResourceLimits};

use super::section::Section;

/// Reads `limits` of the section `procurator`. What is not said there is not limited by it.
pub(super) fn read_limits(procurator: Option<&Section>) -> ResourceLimits {
    let Some(limits) = procurator.and_then(|procurator| procurator.section("limits")) else {
        return ResourceLimits::default();
    };
    ResourceLimits {
        cpu: limits.cores("cpu"),
        cpu_weight: limits.integer("cpu_weight"),
        memory_max: limits.integer("memory_max").map(Bytes::new),
        io_weight: limits.integer("io_weight"),
        io_read_bytes: limits.integer("io_read_bytes"),
        io_write_bytes: limits.integer("io_write_bytes"),
        io_read_operations: limits.integer("io_read_operations"),
        io_write_operations: limits.integer("io_write_operations"),
        processes: limits.integer("processes"),
        descriptors: limits.integer("descriptors"),
    }
}
