//! The disk by which a guest's cloud-init gets what it is told: the files of its data source NoCloud on an ISO 9660 file
//! system with the label `CIDATA`.
//!
//! Owns what stands in these files and how they lie on the disk. It is a function of values: it opens nothing, knows no VM,
//! and the same values make the same bytes. Who may read which file of the host, and where the disk is kept, is decided by
//! its caller.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use cidata::{Seed, seed_disk};
//!
//! let meta_data = BTreeMap::new();
//! let seed = Seed {
//!     instance_id: "9f1c",
//!     hostname: "web-1",
//!     user_data: b"#cloud-config\npackages: [nginx]\n",
//!     vendor_data: None,
//!     meta_data: &meta_data,
//!     network: None,
//! };
//! let disk = seed_disk(&seed)?;
//! assert_eq!(&disk[0x8001..0x8006], b"CD001");
//! # Ok::<(), cidata::SeedError>(())
//! ```

#![forbid(unsafe_code)]

mod iso;
mod network;
mod seed;

pub use network::{Interface, Network};
pub use seed::{Seed, SeedError, seed_disk};
