//! `vm-config.json`: from text to a machine description whose files are still to be opened.
//!
//! ```text
//! bytes ─► document (any JSON, duplicates kept) ─► overlay (of the assignment) ─► check (against the table of keys)
//!       ─► read (into types)
//! ```
//! [`keys`] is the single source of truth about what a key means and which values it takes; the documentation
//! is checked against it. Nothing here touches a file system.

mod access;
mod bus;
mod check;
mod cloud_init;
mod credentials;
mod device_options;
mod devices;
mod document;
mod extract;
mod health;
mod interfaces;
pub(crate) mod keys;
mod limits;
mod machine;
mod memory;
mod nearest;
mod networks;
mod overlay;
mod processors;
mod refusal;
mod rollout;
mod secret_source;
mod secrets;
mod section;
mod services;
mod settings;
mod volumes;

#[cfg(test)]
mod tests;

pub use cloud_init::{CLOUD_INIT_DISK, CloudInitNetwork, CloudInitSettings};
pub use extract::{NicRequest, OverrideError, check_network_access};
pub use keys::{KeyRule, Literal, ValueKind, Verdict, known_keys};
pub use refusal::{ConfigError, ConfigWarning, Refusal, RefusalReason};
pub use secret_source::SecretSource;
pub use services::VsockRequest;
pub use settings::{AddressDelivery, ProcuratorSettings, RestartPolicy};
pub use volumes::DiskSettings;

pub(crate) use document::MAX_CONFIG_SIZE;
pub(crate) use extract::{
    Conventional, FileOrigin, FileRequest, StatedImage, WantedFile, apply_overrides, parse_config,
};
