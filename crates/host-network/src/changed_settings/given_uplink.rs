//! An interface of the host that was made an uplink, as it was before.

use serde_json::{Value, json};

/// It is known by index and name: one that was removed and made again is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GivenUplink {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Whether it was up.
    pub(crate) was_up: bool,
}

impl GivenUplink {
    pub(super) fn to_json(&self) -> Value {
        json!({ "index": self.index, "link": self.name, "was_up": self.was_up })
    }

    /// `None` for what is no such entry.
    pub(super) fn from_json(entry: &Value) -> Option<Self> {
        Some(Self {
            index: u32::try_from(entry["index"].as_u64()?).ok()?,
            name: entry["link"].as_str()?.to_owned(),
            was_up: entry["was_up"].as_bool()?,
        })
    }
}
