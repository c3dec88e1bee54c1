//! What was done to a bridge that is somebody else's, so that it can be given back as it was.

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use crate::LinkName;

/// A bridge of somebody else's as far as it was changed. It is known by index and name: one that was deleted and made
/// again is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdoptedBridge {
    pub(crate) index: u32,
    pub(crate) name: LinkName,
    /// Addresses that it did not have.
    pub(crate) addresses: Vec<IpNetwork>,
    /// The ageing time that it had, in hundredths of a second, where it was given another.
    pub(crate) ageing_time: Option<u32>,
}

impl AdoptedBridge {
    pub(crate) fn untouched(index: u32, name: &LinkName) -> Self {
        Self { index, name: name.clone(), addresses: Vec::new(), ageing_time: None }
    }

    pub(super) fn is_untouched(&self) -> bool {
        self.addresses.is_empty() && self.ageing_time.is_none()
    }

    /// Takes note of what is done now, beside what was done before: of a setting that is changed twice, the first value
    /// is the owner's.
    pub(super) fn add(&mut self, now: Self) {
        let new = now.addresses.into_iter().filter(|address| !self.addresses.contains(address));
        let new: Vec<IpNetwork> = new.collect();
        self.addresses.extend(new);
        self.ageing_time = self.ageing_time.or(now.ageing_time);
        self.name = now.name;
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "index": self.index,
            "link": self.name.as_str(),
            "addresses": self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "ageing_time": self.ageing_time,
        })
    }

    /// `None` for what is no such entry.
    pub(super) fn from_json(entry: &Value) -> Option<Self> {
        let addresses = entry["addresses"].as_array()?.iter();
        let ageing_time = match &entry["ageing_time"] {
            Value::Null => None,
            time => Some(u32::try_from(time.as_u64()?).ok()?),
        };
        Some(Self {
            index: u32::try_from(entry["index"].as_u64()?).ok()?,
            name: LinkName::parse(entry["link"].as_str()?).ok()?,
            addresses: addresses.map(|address| address.as_str()?.parse().ok()).collect::<Option<_>>()?,
            ageing_time,
        })
    }
}
