//! Whether a VM may share a process with other VMs.

use serde::{Deserialize, Serialize};

/// With whom a VM may share a process. A process is the only border between guests that a bug of ours cannot cross.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// With as many VMs as the worker's settings put into a process, also into its own.
    #[default]
    Shared,
    /// With no other VM, and not with the worker, whatever its settings say.
    Strict,
}
