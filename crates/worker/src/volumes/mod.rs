//! Volumes: the writable disks of VMs, each with an identity of its own and a policy that says when its content is given
//! up. They outlive edits of their VM's definition, and the VM itself for a while.
//!
//! ```text
//! <state>/volumes/<vm>/<disk>/volume.json   what the volume is: policy, contents, which one is in use
//! <state>/volumes/<vm>/<disk>/<number>.img  a content
//! <state>/volumes/.removed.<vm>             what is being deleted
//! <state>/volumes/.kept.<vm>.<disk>.<n>     a volume without a record that can be read, set aside by word
//! <state>/vms/<vm>/volumes/<disk>           says that the volume must be there
//! ```
//!
//! A start goes in two steps, so that a new content is made while the machine before still runs on the old one:
//! [`VolumeStore::stage`] decides ([`decide`], pure) and copies, [`VolumeStore::commit`] switches over and opens. A machine
//! that then does not start is undone ([`VolumeStore::undo`]); one that does has the rest put in order
//! ([`VolumeStore::settle`]). The disks of a definition on trial can be taken back also after its guest has written to them
//! (`trial`).
//!
//! When contents are deleted is not decided here but in `housekeeping`.

mod content;
mod copy;
mod decide;
mod directory;
mod ephemeral;
mod error;
mod known;
mod listing;
mod preview;
mod record;
mod seeding;
mod staged_file;
mod staging;
mod store;
mod switch;
#[cfg(test)]
mod tests;
mod trial;

#[cfg(feature = "benchmarks")]
pub(crate) use copy::make_content;
pub(crate) use error::VolumeError;
pub(crate) use listing::ContentRef;
pub(crate) use preview::{Preview, in_words, summary};
pub(crate) use seeding::{Seeded, Seeding};
pub(crate) use staging::{StageRequest, Staged, Thoroughness};
pub(crate) use store::VolumeStore;
pub(crate) use switch::Committed;
