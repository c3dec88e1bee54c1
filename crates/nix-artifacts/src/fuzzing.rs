//! A door for fuzzers: the reader of machine descriptions, without a store path around it.

use std::path::Path;

use serde_json::Map;
use uuid::Uuid;

use crate::ConfigError;
use crate::config::{Conventional, parse_config};

/// Reads `text` as `vm-config.json` of a store path that holds nothing else.
///
/// # Errors
/// See [`ConfigError`].
pub fn read_description(text: &[u8]) -> Result<(), ConfigError> {
    parse_config(text, Path::new("vm-config.json"), Uuid::nil(), Conventional::default(), &Map::new())
        .map(drop)
}
