//! What the host itself has: the one part that reads `/proc`. Cheap enough to call at every poll.

use std::io;
use std::num::NonZero;

use procfs::{Current, Meminfo, ProcError};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vm_model::Bytes;

/// The host's means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Processors this process may run on, its affinity and its control group's quota considered; at least one.
    pub processors: usize,
    /// Memory in all.
    pub memory_total: Bytes,
    /// Memory that can be had without swapping; what is free where the kernel does not say (before 3.14).
    pub memory_available: Bytes,
}

/// Why the host's means could not be read.
#[derive(Debug, Error)]
pub enum HostFactsError {
    /// The memory figures.
    #[error("cannot read the host's memory figures from /proc/meminfo")]
    Memory(#[source] ProcError),
    /// The processors.
    #[error("cannot tell how many processors this process may use")]
    Processors(#[source] io::Error),
}

/// Reads the host's means.
///
/// # Errors
/// `/proc` is not mounted or not understood, or the affinity cannot be read.
pub fn observe_host() -> Result<HostFacts, HostFactsError> {
    let processors = std::thread::available_parallelism().map_err(HostFactsError::Processors)?;
    let memory = Meminfo::current().map_err(HostFactsError::Memory)?;
    Ok(facts(processors, &memory))
}

fn facts(processors: NonZero<usize>, memory: &Meminfo) -> HostFacts {
    HostFacts {
        processors: processors.get(),
        memory_total: Bytes::new(memory.mem_total),
        memory_available: Bytes::new(memory.mem_available.unwrap_or(memory.mem_free)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_a_processor_and_some_memory() {
        let facts = observe_host().expect("/proc is mounted");
        assert!(facts.processors >= 1);
        assert!(facts.memory_available <= facts.memory_total);
        assert!(facts.memory_total > Bytes::from_mib(16));
    }
}
