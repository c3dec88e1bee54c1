//! What a client asks for when it attaches, and the list of boots to choose from.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vm_model::Timestamp;

/// Which part of a console, how far, and whether to type: the query of a request to attach. Keys are added, never changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct ConsoleRequest {
    /// Whether the client wants to type.
    #[serde(skip_serializing_if = "PenRequest::is_none")]
    pub pen: PenRequest,
    /// Whether to go on with what is written later. Otherwise the stream ends where nothing is left.
    pub follow: bool,
    /// Whether to end with the boot that it begins with.
    pub one_boot: bool,
    /// The boot to begin with, by its number; 0 is the newest, -1 the one before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<i64>,
    /// The byte of that boot to begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Begin with the last lines of the newest boot, so many of them, in place of its beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<usize>,
}

/// Whether a client wants the pen: one client of a VM at a time may type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PenRequest {
    /// It only reads.
    #[default]
    None,
    /// It wants to type if nobody else does.
    Ask,
    /// It wants to type; whoever does now goes on reading.
    Steal,
}

impl PenRequest {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// The boots of a VM whose console is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BootList {
    /// Oldest first.
    pub boots: Vec<BootView>,
}

/// What is kept of the console of one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BootView {
    /// Its number. Numbers grow; there may be gaps between them.
    pub number: u32,
    /// When it began, where that is known.
    #[serde(default)]
    pub began_at: Option<Timestamp>,
    /// When its guest wrote last.
    #[serde(default)]
    pub last_written_at: Option<Timestamp>,
    /// Bytes written in all.
    pub bytes: u64,
    /// Bytes that are kept of them.
    pub kept_bytes: u64,
}
