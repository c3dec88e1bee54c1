//! Where a machine's counters are read.

use std::future::ready;

use vm_model::MachineCounters;

use crate::BoxFuture;

/// Reads one machine's counters, from any thread, without a trip through the machine's event loop.
pub trait CountersSource: Send + Sync {
    /// The newest counters that are known here: of a machine in this process, those of now. All zero before the machine was
    /// built, the last reading after it ended.
    fn read(&self) -> MachineCounters;

    /// Brings what is known here up to date where the machine is elsewhere. Waits no longer than a command may take; where
    /// there is no answer, what was known stays.
    fn refresh(&self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }
}
