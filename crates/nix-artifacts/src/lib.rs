//! From a Nix store path to a machine that can be started: its description read and validated, its files opened,
//! its content held against the hash that was promised.
//!
//! Four concerns, each usable alone:
//!
//! - [`StoreRoots`] opens what lies below the configured roots and nothing else, wherever links lead.
//! - [`load_artifact`] reads `vm-config.json` (Cloud Hypervisor's `VmConfig` plus our own key `procurator`) and opens
//!   what it names. [`known_keys`] is the table of every key and what becomes of it.
//! - [`add_credential_files`] and [`read_cloud_init`] read secrets from files of the host, below directories that its
//!   operator named.
//! - [`verify_hash`] hashes a store path the way Nix does. [`verify_loaded`] does so for an artifact that is loaded: what it
//!   finds right is what the artifact has open, and files that are to be copied are handed on while they are hashed.
//!
//! Every error says by its `cause` what has to change before another try can succeed: [`FailureCause`].
//!
//! Deliberately not here: network set-up ([`NicRequest`]s are resolved by the worker), copies of writable disks,
//! and any judgement of what the kernel or the disks contain beyond what tells a raw image from others.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::path::PathBuf;
//!
//! use nix_artifacts::{ArtifactFile, LoadRequest, LoadedPath, StoreRoots, load_artifact, verify_loaded};
//! use vm_model::{NarHash, Overrides};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let roots = StoreRoots::open(&[PathBuf::from("/nix/store")])?;
//! let store_path = PathBuf::from("/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-vm-image");
//!
//! let uuid = uuid::Uuid::new_v4();
//! let request = LoadRequest {
//!     store_path: store_path.clone(),
//!     overrides: Overrides::default(),
//!     procurator: serde_json::Map::new(),
//!     uuid,
//! };
//! let artifact = load_artifact(&roots, &request)?;
//!
//! let promised: NarHash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".parse()?;
//! let met = artifact.trail.in_path(&store_path).ok_or("every artifact has a description")?;
//! let loaded = LoadedPath { store_path: &store_path, met, feeds: Vec::new() };
//! verify_loaded(&roots, loaded, &promised, &mut |_| ControlFlow::Continue(()))?;
//!
//! for disk in &artifact.machine.disks {
//!     match &disk.file {
//!         ArtifactFile::Opened(image) => println!("{}: from {}", disk.id, image.path().display()),
//!         ArtifactFile::Blank => println!("{}: {:?}", disk.id, artifact.settings.size(&disk.id)),
//!     }
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod artifact;
mod cloud_init;
mod config;
mod credential_files;
mod failure;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod nar;
mod secret_files;
mod store;

#[cfg(test)]
mod tests;

pub use artifact::{Artifact, ArtifactError, ArtifactFile, CONFIG_NAME, LoadRequest, load_artifact};
pub use cloud_init::{CloudInitData, read_cloud_init};
pub use config::{
    AddressDelivery, CLOUD_INIT_DISK, CloudInitNetwork, CloudInitSettings, ConfigError, ConfigWarning,
    DiskSettings, KeyRule, Literal, NicRequest, OverrideError, ProcuratorSettings, Refusal, RefusalReason,
    RestartPolicy, SecretSource, ValueKind, Verdict, VsockRequest, check_network_access, known_keys,
};
pub use credential_files::{CredentialError, add_credential_files};
pub use failure::FailureCause;
pub use image::ImageError;
pub use nar::{
    FEED_DEPTH, Feed, HashError, LoadedPath, NarError, NarProgress, Piece, SharedBytes, Verified,
    hash_store_path, verify_hash, verify_loaded,
};
pub use secret_files::{CREDENTIAL_DIRECTORY, SecretFileError, SecretUse};
pub use store::{
    ChangedFile, FileIdentities, FileWatch, OpenedFile, ResolveError, RootError, StorePathError, StoreRoots,
    Trail,
};
