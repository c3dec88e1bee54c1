//! What an administrator can have done, and what is answered: the JSON that programs may rely on. Keys are added, never
//! changed.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use vm_model::{CollectedPath, Generation, HeldSet, RefusedEntry, RemovedVm, SourceKind, VmId, VolumeInfo};

/// What a desired state would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// Whose desired state it is; not told by older workers.
    #[serde(default)]
    pub source: Option<SourceKind>,
    /// Every action, in order.
    pub actions: Vec<ActionView>,
    /// There where the state would wait for an administrator's word.
    #[serde(default)]
    pub held: Option<HeldSet>,
    /// Entries that cannot be used. Their VMs stay as they are.
    #[serde(default)]
    pub refused_entries: Vec<RefusedEntry>,
    /// What is known already of VMs that would be created: why one would not start, that one comes back.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One action of a plan, or what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActionView {
    /// The VM it concerns.
    pub vm: VmId,
    /// What is done, in words.
    pub action: String,
    /// Why it was not ordered; absent where it was, or is only planned.
    #[serde(default)]
    pub problem: Option<String>,
    /// Whether the VM's machine is replaced by another one, where its definition changes; absent where that is found out
    /// when its artifact has been read.
    #[serde(default)]
    pub restarts: Option<bool>,
}

/// One VM that should be there: an entry of a desired state, as `docs/configuration.md` describes it. Where it has no
/// `hash`, the worker hashes the store path itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct AssignRequest {
    /// The entry's keys.
    #[schema(value_type = Object)]
    pub entry: Map<String, Value>,
}

/// What is to be changed of a VM that was assigned by hand: keys of its entry, put over what it says as RFC 7396 has it.
/// `null` takes a key away. Where it has another `store_path` and no `hash`, the worker hashes the store path itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct ChangeRequest {
    /// The keys.
    #[schema(value_type = Object)]
    pub changes: Map<String, Value>,
}

/// What became of a desired state or a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerdictView {
    /// The number of the state in force now.
    pub generation: Generation,
    /// What was ordered for each VM.
    pub actions: Vec<ActionView>,
    /// There where it is not applied, because it waits for an administrator's word.
    #[serde(default)]
    pub held: Option<HeldSet>,
    /// Whose state was let go, where one was held.
    #[serde(default)]
    pub source: Option<SourceKind>,
    /// What actions do not tell: that a change which was refused before is dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The answer to a listing of volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeList {
    /// Every content of every volume, ordered by VM, disk and number.
    pub volumes: Vec<VolumeInfo>,
}

/// The answer to a listing of removed VMs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemovedList {
    /// VMs whose volumes are still kept, ordered by id.
    pub removed: Vec<RemovedVm>,
}

/// What is to be deleted of what is kept for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "which", deny_unknown_fields)]
pub enum DeletionRequest {
    /// All of it.
    All,
    /// What is kept of one VM, removed or not.
    Vm {
        /// Its name.
        vm: VmId,
    },
    /// What is kept of one disk, and the content in use where it cannot be used and the VM has no machine.
    Volume {
        /// The VM's name.
        vm: VmId,
        /// The disk's.
        disk: String,
    },
}

/// Which of the fetched store paths that nothing needs are to be deleted: each of what is said is a reason; where nothing is said,
/// all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CollectionRequest {
    /// Those that nothing has needed for so many seconds.
    pub unused_seconds: Option<u64>,
    /// Those beyond so many bytes; the ones that were needed last are spared.
    pub keep_bytes: Option<u64>,
    /// As many as it takes until so many bytes are free on the store's file system; the ones that were needed first go first.
    pub free_bytes: Option<u64>,
}

/// Which fetched store paths were deleted, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CollectionView {
    /// Each, in the order in which it went.
    pub collected: Vec<CollectedPath>,
}

/// What was deleted or set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletionView {
    /// Each in words.
    pub deleted: Vec<String>,
    /// What cannot be used and was moved out of the way, each in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set_aside: Vec<String>,
}
