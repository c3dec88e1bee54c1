//! What a machine's process takes of its host, as the host's kernel counts it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Bytes;

/// One reading of a process that the kernel accounts for by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostUse {
    /// Memory of the host that counts for it now: the guest's, the process', pages of files. It can shrink.
    pub memory: Bytes,
    /// Processor time of all its threads, and of the kernel for it.
    pub cpu_time: Duration,
    /// How often it had used up its quota of processor time before the end of a period.
    pub throttled_periods: u64,
    /// How long it was held back for that.
    pub throttled_time: Duration,
    /// How long it waited for what the host was short of.
    pub pressure: Pressures,
}

/// Pressure, resource by resource (Linux `Documentation/accounting/psi.rst`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressures {
    /// Processors.
    pub cpu: Pressure,
    /// Memory.
    pub memory: Pressure,
    /// Disks.
    pub io: Pressure,
}

/// How long tasks waited for a resource since their group was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    /// At least one did.
    pub some: Duration,
    /// All that had something to do did.
    pub full: Duration,
}

impl HostUse {
    /// The use of two processes together, `self` being the later one: what is measured is the later one's.
    #[must_use]
    pub fn added_to(self, earlier: &Self) -> Self {
        let pressure = |now: Pressure, before: Pressure| Pressure {
            some: now.some.saturating_add(before.some),
            full: now.full.saturating_add(before.full),
        };
        let (now, before) = (self.pressure, earlier.pressure);
        Self {
            memory: self.memory,
            cpu_time: self.cpu_time.saturating_add(earlier.cpu_time),
            throttled_periods: self.throttled_periods.saturating_add(earlier.throttled_periods),
            throttled_time: self.throttled_time.saturating_add(earlier.throttled_time),
            pressure: Pressures {
                cpu: pressure(now.cpu, before.cpu),
                memory: pressure(now.memory, before.memory),
                io: pressure(now.io, before.io),
            },
        }
    }
}
