//! Why a host could not be set up, and causes that stay inside of it.

use std::error::Error;
use std::io;

use machine_host::LaunchFailure;
use thiserror::Error;
use vm_model::{MachineExit, error_chain};

/// A cause, whatever the engine calls it.
pub(crate) type Cause = Box<dyn Error + Send + Sync>;

/// Why the host could not be set up.
#[derive(Debug, Error)]
#[error("cannot start the thread {thread}, without which machines cannot be hosted")]
pub struct HostError {
    pub(crate) thread: &'static str,
    #[source]
    pub(crate) source: io::Error,
}

/// A machine that was built could not be started because of `cause`.
pub(crate) fn not_started(cause: Cause) -> LaunchFailure {
    LaunchFailure::Start { reason: error_chain(cause.as_ref()) }
}

/// The exit of a machine that failed like this, at its launch or after a reset in place.
pub(crate) fn exit_of(failure: &LaunchFailure) -> MachineExit {
    match failure {
        LaunchFailure::Build { .. } | LaunchFailure::Start { .. } => {
            MachineExit::NotBuilt { kind: failure.kind(), reason: failure.to_string() }
        }
        LaunchFailure::Ended(exit) => exit.clone(),
        LaunchFailure::Panicked(place) => MachineExit::Failed(place.clone()),
    }
}
