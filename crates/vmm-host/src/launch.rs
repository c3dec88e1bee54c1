//! How a machine's thread answers its launch.

use machine_host::LaunchFailure;
use tokio::sync::oneshot;

/// The answer to a launch, given once: the machine is under way, or what kept it from that.
pub(crate) type LaunchOutcome = Result<(), LaunchFailure>;

/// Where the machine's thread gives it.
pub(crate) type LaunchSignal = oneshot::Sender<LaunchOutcome>;
