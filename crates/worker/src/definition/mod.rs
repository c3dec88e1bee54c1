//! What a definition makes of a VM, and in what two definitions differ. Pure.

mod changes;
mod description;
mod differences;
mod interfaces;

pub use changes::Change;
pub(crate) use changes::{Effect, effect};
pub use description::Description;
pub(crate) use description::is_same_definition;
