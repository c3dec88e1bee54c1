//! `hello` and `welcome`: who talks, and what about.

use serde::{Deserialize, Serialize};

use super::{Epoch, Name, Path};
use crate::wire::{List, Text, WorkerId};

/// The worker's first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Versions of the protocol that the worker speaks.
    pub versions: List<u32, 16>,
    /// Its name; with TLS, the name in its certificate.
    pub worker: WorkerId,
    /// Tells one run of the worker's program from the next.
    pub run: Text<64>,
    /// Tells its host from others, over restarts; absent from workers that do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Text<64>>,
    /// What it can be given.
    pub capacity: Capacity,
    /// What runs its VMs.
    pub engine: Engine,
    /// Its processor.
    pub cpu: Cpu,
    /// Store paths that are there already. Not necessarily all: see `store_paths_complete`.
    #[serde(default)]
    pub store_paths: List<Path, 512>,
    /// Whether `store_paths` lists all that are there.
    #[serde(default)]
    pub store_paths_complete: bool,
    /// The assignment in force that came from a master, whichever that was; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<InForce>,
}

/// What a host has to give to VMs, used or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Logical processors.
    pub processors: u32,
    /// Memory of the host.
    pub memory_bytes: u64,
    /// What VMs may be promised of it together; absent where that is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_assignable_bytes: Option<u64>,
    /// Space of the file system that holds volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// How many VMs the worker takes; absent where that is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vms: Option<u32>,
}

/// What runs a worker's VMs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: Text<64>,
    /// What of optional things it can do, by name.
    #[serde(default)]
    pub features: List<Text<64>, 64>,
}

/// A host's processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// The architecture, as `uname -m` says it.
    pub architecture: Text<32>,
    /// The vendor, as the processor says it.
    #[serde(default)]
    pub vendor: Text<64>,
    /// The model, as the processor says it.
    #[serde(default)]
    pub model: Text<128>,
    /// Features that matter for placing VMs, as `/proc/cpuinfo` names them.
    #[serde(default)]
    pub features: List<Text<64>, 512>,
}

/// An assignment by its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// The master it came from.
    pub master: Name,
    /// That master's epoch.
    pub epoch: Epoch,
    /// Its number.
    pub generation: u64,
}

/// The master's first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that both ends speak from here on.
    pub version: u32,
    /// How often either end sends something, in milliseconds: 50 to 600,000. Three of these without a frame end the
    /// connection.
    pub heartbeat_ms: u64,
    /// The master's name, which stays when it is rebuilt: 1 to 128 printable ASCII characters without spaces.
    pub master: Name,
    /// Tells its counting of generations from others; changes when it is rebuilt without its numbers. Of the same form.
    pub epoch: Epoch,
}

impl Welcome {
    /// The accepted values of `heartbeat_ms`.
    pub const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 50..=600_000;
}
