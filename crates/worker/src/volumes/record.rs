//! What is known of a volume, on disk beside its contents.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vm_model::{Bytes, Timestamp, VolumePolicy};

use super::content::ImageContent;

/// A volume: one disk of one VM over its whole life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    /// When its content is given up.
    pub(crate) policy: VolumePolicy,
    /// The number of the next content: none is ever used twice.
    pub(crate) next: u64,
    /// The content that the VM's disk is on; none where it was set aside, and the next start makes one.
    pub(crate) current: Option<u64>,
    /// Every content that is there.
    pub(crate) contents: BTreeMap<u64, Content>,
    /// Since when the VM's description has no such disk, and when the volume is deleted for it.
    #[serde(default)]
    pub(crate) unused: Option<Unused>,
    /// There while the content in use belongs to a definition on trial: what it takes to go back.
    #[serde(default)]
    pub(crate) trial: Option<Box<VolumeTrial>>,
}

/// A volume whose VM tries another definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeTrial {
    /// The record before; absent for a volume that was made for the definition on trial.
    pub(crate) before: Option<VolumeRecord>,
    /// The content that was made for the definition on trial.
    pub(crate) made: u64,
    /// The content that `made` is a copy of, deleted when the definition is accepted.
    pub(crate) copied_from: Option<u64>,
}

/// One content of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    /// Its size. A file of another size was not left so by us.
    pub(crate) size: Bytes,
    /// Its size before it was to grow; there until it has grown.
    #[serde(default)]
    pub(crate) growing_from: Option<Bytes>,
    /// When it was made.
    pub(crate) created: Timestamp,
    /// What it was seeded from; absent for one that was blank, and where nobody knows.
    pub(crate) image: Option<ImageContent>,
    /// Whether a guest may have written to it.
    pub(crate) used: bool,
    /// The policy it was in use under last, which decides whether it stays when another one takes its place.
    #[serde(default)]
    pub(crate) policy: VolumePolicy,
    /// When it is deleted, if another one has taken its place; absent while the VM has not started on that one.
    #[serde(default)]
    pub(crate) until: Option<Timestamp>,
}

/// A volume whose VM has no such disk any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unused {
    /// When it is deleted; absent for one that is kept until it is deleted by word.
    pub(crate) until: Option<Timestamp>,
}

impl VolumeRecord {
    /// The record of a volume without any content.
    pub(crate) fn new(policy: VolumePolicy) -> Self {
        Self { policy, next: 0, current: None, contents: BTreeMap::new(), unused: None, trial: None }
    }

    /// The content in use.
    pub(crate) fn current(&self) -> Option<&Content> {
        self.contents.get(&self.current?)
    }

    /// Whether any content may hold what a guest wrote and is not given up at each start.
    pub(crate) fn holds_data(&self) -> bool {
        self.contents.values().any(Content::holds_data)
    }
}

impl Content {
    /// Whether it may hold what a guest wrote and is not given up at each start.
    pub(crate) fn holds_data(&self) -> bool {
        self.used && self.policy != VolumePolicy::Ephemeral
    }
}
