//! What outlives the worker, on disk: one directory a VM and a few files common to all.
//!
//! ```text
//! <state>/worker.lock           held by the one worker that uses the directory
//! <state>/worker.json           what should run
//! <state>/leases.json           who holds which address of the default network
//! <state>/networks/<name>/      of each further network: its leases, and network.json, which bridge it has
//! <state>/verified.json         store paths whose content was hashed and found right
//! <state>/reserve               space set aside for these files
//! <state>/vms/<id>/record.json  what the VM is, how its runs ended, and whether it was removed
//! <state>/vms/<id>/lock         held by the process that runs the VM
//! <state>/vms/<id>/console/     what its guest writes, as it comes, and the vmm.log of the process that runs it
//! <state>/vms/<id>/sockets/     where its guest and programs of the host reach each other
//! <state>/vms/<id>/worker.log   what the worker logs about it
//! ```
//!
//! `console/` and `sockets/` belong to the jailed process that runs the VM, and its word is not taken for what lies there: files in
//! them are opened as what they should be or not at all, and never waited for.
//!
//! Writable disks lie in `<state>/volumes/`, see `volumes`.
//!
//! Each file is replaced whole and atomically before what it says is acted on. A file that is damaged or was
//! written by a newer version is refused by name and moved aside, never overwritten.

mod atomic_file;
mod lease_books;
mod leases;
mod lenient;
mod lock;
mod network_note;
mod reserve;
mod rollout;
mod run_counts;
mod seal_key;
mod verified;
mod vm_lock;
mod vm_record;

#[cfg(feature = "benchmarks")]
pub(crate) use atomic_file::write_versioned;
pub(crate) use atomic_file::{ReadError, WriteError, discard_unfinished, read_in_place, read_versioned};
pub(crate) use lease_books::{LeaseBooks, NicWish, allocate_in, check_networks};
pub(crate) use leases::{LeaseError, Leases};
pub(crate) use lock::{LockError, StateLock};
pub(crate) use network_note::{
    NetworkNote, NotedWays, forget_network, network_directory, note_network, noted_networks, sweep_networks,
};
pub(crate) use reserve::RecordWriter;
pub(crate) use rollout::{RefusedTrial, Rollout, RolloutStage};
pub(crate) use run_counts::RunCounts;
pub(crate) use seal_key::SealKey;
pub(crate) use verified::VerifiedPaths;
pub(crate) use vm_lock::{
    IdleVm, VmLockError, console_directory, lock_idle_vm, open_console, open_sockets, socket_directory,
};
pub(crate) use vm_record::{
    RecordError, RecordStore, Removal, RemovalStage, VmRecord, make_private, remove_all,
};
