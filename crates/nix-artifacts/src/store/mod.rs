//! Opening what lies below the configured store roots, and nothing else.
//!
//! Every open starts at the descriptor of a root that was opened once. Links are never followed by the kernel:
//! [`resolve`] reads them and walks on itself, so that a link can lead into a configured root and nowhere else.

mod error;
mod identity;
mod open;
mod path;
mod resolve;
mod roots;
mod trail;

#[cfg(test)]
mod tests;

pub use error::{ResolveError, RootError, StorePathError};
pub use open::{ChangedFile, FileWatch, OpenedFile};
pub use roots::StoreRoots;
pub use trail::{FileIdentities, Trail};

pub(crate) use identity::{identify, identify_settled};
pub(crate) use open::{describe, open_component};
pub(crate) use resolve::Resolver;
