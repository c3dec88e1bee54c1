//! Events as they are answered: the JSON that programs may rely on. Keys are added, never changed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vm_model::Event;

/// Events that happened already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventList {
    /// There where events between `since` and the first one of the list are kept no longer.
    #[serde(default)]
    pub gap: Option<EventGap>,
    /// Oldest first.
    pub events: Vec<Event>,
    /// The number to ask on from: that of the newest event, whether it is in the list or not.
    pub newest: u64,
}

/// A stretch of events that nobody can see any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventGap {
    /// The last one before it.
    pub after: u64,
    /// The first one after it.
    pub before: u64,
}

/// What one hears who follows events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventMessage {
    /// Something happened.
    Happened(Event),
    /// What happened meanwhile is kept no longer: the VMs have to be looked at anew.
    Gap(EventGap),
}
