//! Reading what a later release wrote: history and observations whose words are not known here are left out, where
//! everything else of a record is read as it stands or not at all.
//!
//! That a run ended in a way that has a name only since the next release is no reason to leave its VM alone. What decides
//! what a VM is or does (its definition, its rollout, its removal) is never guessed: for that, a record that cannot be
//! read whole is refused. [Operations](../../../../docs/operations.md) says what going back a release means.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The items of a list that are understood, in order. For `#[serde(deserialize_with)]`.
pub(super) fn known_items<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let items = Vec::<Value>::deserialize(deserializer)?;
    Ok(items.into_iter().filter_map(|item| serde_json::from_value(item).ok()).collect())
}

/// A value, or its default where it is not understood. For `#[serde(deserialize_with)]`.
pub(super) fn known<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).unwrap_or_default())
}
